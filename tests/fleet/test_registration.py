"""Replicas that register themselves, what they tell with each answer, and what a front door tells of it."""

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_processes import front_door, write_fleet
from server_process import RIDGELINE, Served, clean_environment, serving, write_config

TOKEN = "the-fleets-token"


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def asked(server: Served, body: dict, key: str | None = None, **headers: str) -> tuple[int, dict, dict]:
    """Status, headers and body of a chat completion."""
    body = {"model": "sim", "messages": [{"role": "user", "content": "x" * 600}], "max_tokens": 3, **body}
    found = {"Content-Type": "application/json", **headers}
    if key:
        found["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), found)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.load(error)


def replicas_of(door: Served) -> list[str]:
    request = urllib.request.Request(f"{door.url}/fleet/status", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return [each["id"] for each in json.load(response)["replicas"]]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replica_comes_serves_and_goes(tmp_path: Path) -> None:
    """One after the other, for starting servers is what takes time."""
    fleet = write_fleet(tmp_path / "fleet.yaml", {"us": [], "eu": []})
    config = write_config(tmp_path)
    simulated = (
        "--random-weights",
        str(config),
        "--device",
        "simulated:h100",
        "--api-key",
        "own=its-own-key",
    )
    keys = ("--api-key", "ann=anns-secret", "--fleet-token", TOKEN)
    ring = tmp_path / "door"
    with front_door(fleet, tmp_path / "door-data", *keys, "--record", str(ring)) as door:
        joining = ("--register", door.url, "--region", "us", "--cluster", "us-a", "--fleet-token")
        with serving(*simulated, *joining, "wrong", data_dir=tmp_path / "stranger") as stranger:
            stranger.wait_for_error(
                "does not take this replica: This is for those who know the fleet's token"
            )
            assert replicas_of(door) == []
        with serving(*simulated, *joining, TOKEN, data_dir=tmp_path / "one") as first:
            place = f"us-a/127.0.0.1:{first.port}"
            until(lambda: replicas_of(door) == [place])
            it_is_told_who_answered(door, place)
            with serving(*simulated, *joining, TOKEN, data_dir=tmp_path / "two") as second:
                until(lambda: len(replicas_of(door)) == 2)
                second.process.send_signal(signal.SIGTERM)
                assert second.wait() == 0
                assert replicas_of(door) == [place], "a lease is given back at once"
            first.process.send_signal(signal.SIGKILL)
            until(lambda: replicas_of(door) == [])
            assert asked(door, {}, "anns-secret")[2]["error"]["code"] == "no_replica"
        a_wrong_place_is_told(door)
        door.process.send_signal(signal.SIGTERM)
        assert door.wait() == 0
    it_can_be_played_again(ring)


def it_is_told_who_answered(door: Served, place: str) -> None:
    status, headers, body = asked(door, {}, "anns-secret", **{"x-request-id": "my-question"})
    assert status == 200, body
    assert headers["x-served-by"] == place and 0 <= float(headers["x-overhead-ms"]) < 1000
    assert headers["x-request-id"] == "my-question"
    request = urllib.request.Request(
        f"{door.url}/v1/requests/my-question/timeline", headers={"Authorization": "Bearer anns-secret"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        (told,) = json.load(response)["requests"]
    (answer,) = told["answers"]
    assert [each["event"] for each in answer["events"]] == ["queued", "placed", "first_token", "finished"]
    assert answer["state"] == "finished" and f"Sent to {place}" in answer["events"][1]["says"]
    request = urllib.request.Request(f"{door.url}/metrics", headers={"Authorization": "Bearer anns-secret"})
    with urllib.request.urlopen(request, timeout=10) as response:
        metrics = response.read().decode()
    assert f'ridgeline_fleet_sent_total{{replica="{place}"}} 1.0' in metrics
    assert "ridgeline_fleet_overhead_seconds_count 1.0" in metrics
    assert 'ridgeline_fleet_replicas{state="up"} 1.0' in metrics


def a_wrong_place_is_told(door: Served) -> None:
    for body, sentence in (
        ({"url": "http://h:1", "region": "mars", "cluster": "us-a"}, "there are: us, eu"),
        ({"url": "http://h:1", "region": "us", "cluster": "eu-a"}, "it has: us-a"),
        ({"url": "ftp://h:1", "region": "us", "cluster": "us-a"}, "no address of http"),
        ({"url": "http://h:1"}, "The body must be JSON"),
        ([], "The body must be JSON"),
    ):
        request = urllib.request.Request(
            f"{door.url}/fleet/lease", json.dumps(body).encode(), {"Authorization": f"Bearer {TOKEN}"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 400
        assert sentence in json.load(refused.value)["error"]["message"]


def it_can_be_played_again(ring: Path) -> None:
    done = subprocess.run(
        [*RIDGELINE, "rewind", str(ring), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["events"] > 10 and result["decisions"] >= 2 and result["different"] == 0


def test_a_replica_says_how_full_it_is_and_refuses_at_once_who_will_not_wait(
    replicas: Callable[..., list[Served]],
) -> None:
    (replica,) = replicas(1, "--max-batch", "2")
    status, headers, _ = asked(replica, {})
    assert status == 200
    load = dict(part.split("=") for part in headers["x-ridgeline-load"].split("; "))
    assert (load["running"], load["slots"], load["waiting"]) == ("1", "2", "0")
    assert int(load["kv_tokens"]) > 1000
    streams = [replica.stream(max_tokens=3000, ignore_eos=True) for _ in range(2)]
    for stream in streams:
        next(stream)
    started = time.monotonic()
    at_once = {"x-ridgeline-begin-at-once": "1"}
    status, headers, body = asked(replica, {}, **at_once)
    assert (status, body["error"]["code"]) == (503, "at_capacity"), body
    assert time.monotonic() - started < 1.0
    assert headers["x-ridgeline-load"].startswith("running=2; slots=2; waiting=0")
    for stream in streams:
        stream.close()
    until(lambda: asked(replica, {}, **at_once)[0] == 200)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--register", "http://h:1"), "--register needs --region and --cluster"),
        (("--region", "us"), "--region is for a replica that joins a fleet"),
        (
            ("--register", "h:1", "--region", "us", "--cluster", "a", "--host", "0.0.0.0", "--api-key", "k"),
            "--register needs --advertise URL",
        ),
    ],
)
def test_what_must_be_said_together(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    config = write_config(tmp_path)
    done = subprocess.run(
        [
            *(*RIDGELINE, "serve", "--random-weights", str(config), "--device", "simulated:h100"),
            *("--port", "0", "--data-dir", str(tmp_path / "data"), *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 2, done.stderr
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
