"""The front door before running replicas: placing, failing over, saying no."""

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fleet_processes import front_door, write_fleet
from server_process import RIDGELINE, Served, clean_environment

MODELS = "models: [{name: m}]\n"


def text_of(events: list[dict]) -> str:
    choices = [event["choices"][0] for event in events if event.get("choices")]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def sent_to(door: Served) -> list[str]:
    status, fleet = door.get("/fleet/status")
    assert status == 200
    return [replica["id"] for replica in fleet["replicas"] if replica["sent"]]


def chat(served: Served, content: str, **more) -> dict:
    status, body = served.post(
        "/v1/chat/completions",
        {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 4, **more},
    )
    assert status == 200, body
    return body


def test_a_fleet_of_two_regions(tmp_path: Path, replicas: Callable[..., list[Served]]) -> None:
    """One after the other, for starting servers is what takes time."""
    near = replicas(2)
    (far,) = replicas(1, "--max-batch", "8")
    urls = {"us": [each.url for each in near], "eu": [far.url]}
    fleet = write_fleet(tmp_path / "fleet.yaml", urls, links=[{"between": ["us", "eu"], "rtt_ms": 80}])
    with front_door(fleet, tmp_path / "door") as door:
        assert [model["id"] for model in door.get("/v1/models")[1]["data"]] == ["sim"]
        assert door.get("/health/ready")[0] == 200
        answers_like_a_replica(door, near[0])
        passes_log_probabilities_on(door, near[0])
        goes_back_to_where_it_is_cached(door)
        status_is_a_table(door)
        survives_the_death_of_a_replica_in_the_middle(door, [*near, far])
        still_serves(door)
        follows_its_file(door, fleet, {**urls, "eu": []})


def answers_like_a_replica(door: Served, replica: Served) -> None:
    asked = {"max_tokens": 20, "temperature": 0, "ignore_eos": True}
    ours, theirs = (chat(each, "What is a ridge?", **asked) for each in (door, replica))
    assert ours["choices"] == theirs["choices"]
    assert ours["usage"]["completion_tokens"] == 20
    assert ours["usage"]["prompt_tokens"] == theirs["usage"]["prompt_tokens"]
    status, body = door.post("/tokenize", {"model": "sim", "prompt": "ridge"})
    assert (status, body) == replica.post("/tokenize", {"model": "sim", "prompt": "ridge"})
    status, body = door.post("/v1/chat/completions", {"model": "nothing", "messages": []})
    assert status in (400, 404)
    status, body = door.post("/v1/completions", {"model": "sim", "prompt": "x", "max_tokens": 100_000})
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


def passes_log_probabilities_on(door: Served, replica: Served) -> None:
    asked = {"max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
    whole, theirs = (chat(each, "What is a ridge?", **asked)["choices"] for each in (door, replica))
    assert whole == theirs and len(whole[0]["logprobs"]["content"]) == 6
    events = list(door.stream(messages=[{"role": "user", "content": "What is a ridge?"}], **asked))
    choices = [event["choices"][0] for event in events if event.get("choices")]
    told = [token for choice in choices for token in (choice["logprobs"] or {"content": []})["content"]]
    assert told == whole[0]["logprobs"]["content"]
    body = {
        "model": "sim",
        "prompt": "A ridge",
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": 2,
        "echo": True,
    }
    answers = [each.post("/v1/completions", body)[1]["choices"] for each in (door, replica)]
    assert answers[0] == answers[1] and answers[0][0]["logprobs"]["token_logprobs"][0] is None


def goes_back_to_where_it_is_cached(door: Served) -> None:
    content = "All about rivers and how they are measured. " * 60
    assert chat(door, content)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    for turn in range(4):
        content += f"And now part {turn}. "
        usage = chat(door, content)["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0.8 * usage["prompt_tokens"]


def fleet_command(door: Served, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RIDGELINE, "fleet", *arguments, "--url", door.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )


def status_is_a_table(door: Served) -> None:
    done = fleet_command(door, "status")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("us-a/127.0.0.1") == 2 and done.stdout.count("eu-a/127.0.0.1") == 1


def survives_the_death_of_a_replica_in_the_middle(door: Served, running: list[Served]) -> None:
    asked = {"max_tokens": 120, "temperature": 0, "ignore_eos": True}
    whole = chat(running[2], "Tell me everything.", **asked)["choices"][0]["message"]["content"]
    messages = [{"role": "user", "content": "Tell me everything."}]
    stream = door.stream(messages=messages, **asked)
    events = [next(stream) for _ in range(5)]
    (place,) = sent_to(door)
    victim = next(each for each in running if each.url.endswith(place.rpartition("/")[2]))
    victim.process.send_signal(signal.SIGKILL)
    events += stream
    assert events[-1] == {"done": True}
    assert text_of(events) == whole
    finishes = [c["choices"][0]["finish_reason"] for c in events if c.get("choices")]
    assert finishes[-1] == "length"
    wait_until(lambda: len(door.get("/fleet/status")[1]["replicas"]) == 2)


def follows_its_file(door: Served, file: Path, urls: dict[str, list[str]]) -> None:
    """A wrong one is told and changes nothing; a right one takes replicas away, and brings them back."""
    right = file.read_text()
    file.write_text(right.replace("clusters", "clusterz"))
    door.wait_for_error("the fleet stays as it was")
    assert "eu-a" in replicas_of(door)
    write_fleet(file, urls)
    wait_until(lambda: "eu-a" not in replicas_of(door))
    chat(door, "still here")
    file.write_text(right)
    wait_until(lambda: "eu-a" in replicas_of(door))


def replicas_of(door: Served) -> str:
    return str(door.get("/fleet/status")[1]["replicas"])


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def still_serves(door: Served) -> None:
    for i in range(6):
        chat(door, f"Question {i}")
    assert door.get("/health/ready")[0] == 200


def test_all_full_is_said_with_a_wait(tmp_path: Path, replicas: Callable[..., list[Served]]) -> None:
    (replica,) = replicas(1, "--max-batch", "2", "--max-waiting", "1")
    fleet = write_fleet(
        tmp_path / "fleet.yaml", {"us": [replica.url]}, capacity={"max_wait_seconds": 1, "max_waiting": 2}
    )
    with front_door(fleet, tmp_path / "door") as door:
        until = time.monotonic() + 30
        while door.get("/fleet/status")[1]["replicas"][0]["slots"] != 2:
            assert time.monotonic() < until
            chat(door, "warm up")
        streams = [door.stream(max_tokens=2000, ignore_eos=True) for _ in range(2)]
        for stream in streams:
            next(stream)
        waiting = [background(door) for _ in range(2)]
        until = time.monotonic() + 30
        while door.get("/fleet/status")[1]["waiting"] < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        started = time.monotonic()
        status, body = door.post(
            "/v1/chat/completions", {"model": "sim", "messages": [{"role": "user", "content": "x"}]}
        )
        assert (status, body["error"]["code"]) == (503, "at_capacity")
        assert time.monotonic() - started < 2.0
        for stream in streams:
            stream.close()  # who goes away makes room
        for each in waiting:
            assert each.wait(60) == 0


def background(door: Served) -> "subprocess.Popen[bytes]":
    """A request that waits, in a process of its own; it ends with 0 if it was answered."""
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "w"}], "max_tokens": 1})
    code = (
        "import sys, urllib.request\n"
        "request = urllib.request.Request(sys.argv[1] + '/v1/chat/completions', sys.argv[2].encode(),"
        " {'Content-Type': 'application/json'})\n"
        "sys.exit(urllib.request.urlopen(request, timeout=60).status != 200)\n"
    )
    return subprocess.Popen(["python3", "-c", code, door.url, body])


def test_a_wrong_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    cases = {
        "models: [{name: m}]\nregions: [{name: us, clusterz: []}]": "did you mean 'clusters'?",
        f"{MODELS}regions: [{{name: us, clusters: [{{name: a, model: n}}]}}]": "not among the models: m",
        "models: [": "is not YAML",
        f"{MODELS}regions: [{{name: us, clusters: [{{name: a, model: m, endpoints: [x]}}]}}]": "no address",
        "models: [{name: m}]\nregions: [{name: us}, {name: us}]": "two regions are called 'us'",
    }
    for text, sentence in cases.items():
        file.write_text(text)
        done = subprocess.run(
            [*RIDGELINE, "fleet", "serve", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=clean_environment(),
        )
        assert done.returncode == 1
        assert sentence in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_strangers_copy_is_not_cached_behind_a_front_door_either(
    tmp_path: Path, replicas: Callable[..., list[Served]]
) -> None:
    (replica,) = replicas(1)
    fleet = write_fleet(tmp_path / "fleet.yaml", {"us": [replica.url]})
    keys = ("--api-key", "ann=anns-secret", "--api-key", "bob=bobs-secret")
    with front_door(fleet, tmp_path / "door", *keys) as door:
        cached = [asked_by(door, who, "All about rivers. " * 60) for who in ("ann", "ann", "bob", "bob")]
        assert cached[0] == cached[2] == 0 and cached[1] == cached[3] > 900
        status, body = door.post("/v1/chat/completions", {"model": "small", "messages": []})
        assert status == 401, body


def asked_by(door: Served, who: str, content: str) -> int:
    """Cached tokens of a prompt that the owner of a key sends, to the class of the model."""
    body = {"model": "small", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {who}s-secret"}
    request = urllib.request.Request(f"{door.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return int(json.load(response)["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_replicas_are_changed_by_who_knows_the_token(
    tmp_path: Path, replicas: Callable[..., list[Served]]
) -> None:
    first, second = replicas(2)
    fleet = write_fleet(tmp_path / "fleet.yaml", {"us": [first.url, second.url]})
    keys = ("--api-key", "user=users-secret", "--fleet-token", "operators-secret")
    with front_door(fleet, tmp_path / "door", *keys) as door:
        assert door.get("/fleet/status")[0] == 403
        cordoned = f"us-a/{first.url.split('://')[1]}"
        assert fleet_command(door, "cordon", cordoned, "--fleet-token", "users-secret").returncode == 1
        done = fleet_command(door, "drain", cordoned, "--fleet-token", "operators-secret")
        assert (done.returncode, done.stdout) == (0, "drained\n"), done.stderr
        done = fleet_command(door, "status", "--json", "--fleet-token", "operators-secret")
        states = {each["id"]: each["state"] for each in json.loads(done.stdout)["replicas"]}
        assert states.pop(cordoned) == "draining" and list(states.values()) == ["up"]
        done = fleet_command(door, "uncordon", "nobody", "--fleet-token", "operators-secret")
        assert done.returncode == 1 and "There is no replica nobody" in done.stderr
        assert fleet_command(door, "uncordon", cordoned, "--fleet-token", "operators-secret").returncode == 0
