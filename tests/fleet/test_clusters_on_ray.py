"""A cluster on Ray, with real processes: two nodes of this machine, two replicas, one front door."""

import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fleet_processes import front_door
from ray.cluster_utils import Cluster
from server_process import RIDGELINE, Served, clean_environment, write_config

CLUSTER = f"on-ray-{os.getpid()}"
"""Whose processes are this test's."""

TOKEN = "the-fleets-token"
KEY = "anns-secret"
WORDS = 40


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


class OnRay:
    """A Ray cluster of two nodes, that can be destroyed and built anew at the same address."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("", 0))
            self.port = probe.getsockname()[1]
        self.build()

    def build(self) -> None:
        head = {"gcs_server_port": self.port, "num_cpus": 2, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second = self.cluster.add_node(num_cpus=2)

    def raylet_of_second(self) -> int:
        (raylet,) = self.second.all_processes["raylet"]
        return int(raylet.process.pid)


def write_file(path: Path, port: int, folder: Path, max_batch: int) -> None:
    serve = {
        "device": "simulated:h100",
        "random-weights": str(folder / "sim.json"),
        "data-dir": str(folder / "replicas"),
        "max-batch": max_batch,
    }
    cluster = {"name": CLUSTER, "model": "sim", "hardware": "h100", "ray": f"127.0.0.1:{port}", "replicas": 2}
    regions = [{"name": "us", "clusters": [{**cluster, "serve": serve}]}]
    written = path.with_suffix(".new")
    written.write_text(yaml.safe_dump({"models": [{"name": "sim"}], "regions": regions}))
    written.replace(path)


class Commands:
    """`ridgeline cluster ...` for one file."""

    def __init__(self, file: Path, log: Path, door: Served) -> None:
        self._file, self._log, self._door = file, log, door
        self._environment = clean_environment() | {"RIDGELINE_FLEET_TOKEN": TOKEN}

    def _command(self, name: str, *more: str) -> list[str]:
        return [*RIDGELINE, "cluster", name, str(self._file), "--cluster", CLUSTER, *more]

    @contextmanager
    def up(self) -> Iterator[None]:
        command = self._command("up", "--register", self._door.url)
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)
        try:
            yield
            assert process.poll() is None, "it keeps the cluster to the end"
        finally:
            process.terminate()
            process.wait(20)

    def run(self, name: str, *more: str) -> str:
        done = subprocess.run(
            self._command(name, *more),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env=self._environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up_once(self) -> None:
        self.run("up", "--register", self._door.url, "--once", "--wait", "60")

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("status", "--json"))["replicas"]
        return found

    def log(self) -> str:
        return self._log.read_text()


def replicas_at(door: Served) -> dict[str, dict[str, Any]]:
    """What the front door can send to."""
    request = urllib.request.Request(f"{door.url}/fleet/status", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return {each["id"]: each for each in json.load(response)["replicas"] if not each["breaker_open"]}


def processes() -> dict[str, psutil.Process]:
    """Of the replicas, by where they answer."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "serve" in line and CLUSTER in line and "--register" in line:
            host, port = (line[line.index(name) + 1] for name in ("--host", "--port"))
            found[f"{CLUSTER}/{host}:{port}"] = process
    return found


def serving(door: Served, others_than: Collection[int] = ()) -> Callable[[], dict[str, psutil.Process]]:
    """Two processes, both known to the front door, none of them one of those."""

    def found() -> dict[str, psutil.Process]:
        there = processes()
        pids = {each.pid for each in there.values()}
        good = len(there) == 2 and replicas_at(door).keys() >= there.keys() and pids.isdisjoint(others_than)
        return there if good else {}

    return found


class Load:
    """Clients that ask one question after the other; what goes wrong is kept."""

    def __init__(self, door: Served, clients: int) -> None:
        self._door, self._over = door, threading.Event()
        self.answered, self.troubles = 0, list[str]()
        self._clients = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join(60)

    def _run(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            question = {"role": "user", "content": f"Client {number}, question {turn}: what is a ridge?"}
            body = {"model": "sim", "messages": [question], "max_tokens": WORDS, "ignore_eos": True}
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
            url = f"{self._door.url}/v1/chat/completions"
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    answer = json.load(response)
                assert answer["usage"]["completion_tokens"] == WORDS
                assert "continued" not in answer["choices"][0]
                self.answered += 1
            except urllib.error.HTTPError as error:
                self.troubles.append(error.read().decode())
            except Exception as error:
                self.troubles.append(repr(error))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_ray_loses_comes_back(tmp_path: Path) -> None:
    """One after the other, for starting clusters and servers is what takes time."""
    write_config(tmp_path)
    on_ray, file = OnRay(), tmp_path / "fleet.yaml"
    write_file(file, on_ray.port, tmp_path, max_batch=8)
    keys = ("--api-key", f"ann={KEY}", "--fleet-token", TOKEN)
    try:
        with front_door(file, tmp_path / "door", *keys) as door:
            commands = Commands(file, tmp_path / "up.log", door)
            try:
                with commands.up():
                    until(serving(door))
                    a_killed_process_comes_back(door)
                    a_killed_actor_leaves_nothing_behind_and_comes_back(door)
                    settings_change_under_load(
                        door, lambda: write_file(file, on_ray.port, tmp_path, max_batch=16)
                    )
                    a_wrong_file_changes_nothing(file, commands, door)
                    a_lost_node_is_made_up_for(on_ray, door)
                    before = {each.pid for each in processes().values()}
                    on_ray.cluster.shutdown()
                    assert not processes(), "nothing outlives its cluster"
                    on_ray.build()
                    there = until(serving(door, before))
                it_is_found_again_and_ended(commands, there, door)
            except BaseException:
                print(commands.log())
                raise
            assert TOKEN not in commands.log() and "(raylet)" not in commands.log()
    finally:
        on_ray.cluster.shutdown()


def a_killed_process_comes_back(door: Served) -> None:
    there = processes()
    place, process = next(iter(there.items()))
    process.kill()
    after = until(serving(door, {process.pid}))
    assert after.keys() == there.keys(), "front doors find it where it was"
    assert after[place].pid != process.pid


def a_killed_actor_leaves_nothing_behind_and_comes_back(door: Served) -> None:
    process = next(iter(processes().values()))
    actor = process.parent()
    assert actor is not None and "ray::" in actor.cmdline()[0]
    assert TOKEN not in " ".join([*process.cmdline(), *actor.cmdline()])
    actor.kill()
    _, alive = psutil.wait_procs([process], 5)
    assert not alive
    until(serving(door, {process.pid}))


def settings_change_under_load(door: Served, change: Callable[[], None]) -> None:
    before = {each.pid for each in processes().values()}
    with Load(door, 3) as load:
        until(lambda: load.answered > 5)
        change()
        until(serving(door, before))
        answered = load.answered
        until(lambda: load.answered > answered + 5)
    assert load.troubles == []
    for each in processes().values():
        line = each.cmdline()
        assert line[line.index("--max-batch") + 1] == "16"


def a_wrong_file_changes_nothing(file: Path, commands: Commands, door: Served) -> None:
    before, good = processes(), file.read_text()
    file.write_text(good.replace("replicas: 2", "replicsa: 1"))
    until(lambda: "did you mean 'replicas'?; the cluster stays as it was" in commands.log())
    assert processes().keys() == before.keys()
    file.write_text(good)


def a_lost_node_is_made_up_for(on_ray: OnRay, door: Served) -> None:
    raylet = on_ray.raylet_of_second()
    lost = {each.pid for each in processes().values() if raylet in {parent.pid for parent in each.parents()}}
    assert lost, "replicas are spread over nodes"
    on_ray.cluster.remove_node(on_ray.second, allow_graceful=False)
    there = until(serving(door, lost))
    assert not any(raylet in {parent.pid for parent in each.parents()} for each in there.values())


def it_is_found_again_and_ended(commands: Commands, there: dict[str, psutil.Process], door: Served) -> None:
    commands.up_once()
    assert processes().keys() == there.keys(), "run again it finds them"
    status = commands.status()
    assert [(each["place"], each["state"]) for each in status] == [(0, "ready"), (1, "ready")]
    assert {each["pid"] for each in status} == {each.pid for each in there.values()}
    commands.run("down")
    assert not processes() and not replicas_at(door), "each has given its lease back"
    assert commands.status() == []
