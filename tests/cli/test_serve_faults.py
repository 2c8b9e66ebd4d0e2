"""What can go wrong around `ridgeline serve`: one clear sentence, a way out, no traceback."""

import json
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from server_process import Served, run_serve, serving, write_config


@pytest.fixture
def simulated(tmp_path: Path) -> tuple[str, ...]:
    return ("--device", "simulated:h100", "--random-weights", str(write_config(tmp_path)))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def sentence(done: "subprocess.CompletedProcess[str]", code: int = 1) -> str:
    """The one thing said; checks code, place and manner."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_taken_port_names_who_has_it(listener: socket.socket, simulated: tuple[str, ...]) -> None:
    port = listener.getsockname()[1]
    said = sentence(run_serve("--port", str(port), *simulated))
    assert f"port {port} on 127.0.0.1 is taken by" in said
    assert f"process {os.getpid()}" in said
    assert "--port" in said


def test_an_address_this_machine_has_not(simulated: tuple[str, ...]) -> None:
    said = sentence(run_serve("--host", "192.0.2.1", "--port", "0", "--api-key", "k", *simulated))
    assert "192.0.2.1" in said
    assert "--host" in said


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a model at all" * 100], ids=["empty", "cut", "other"]
)
def test_a_broken_model_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    said = sentence(run_serve(str(file), "--port", "0", "--data-dir", str(tmp_path)))
    assert "broken.gguf" in said


def test_a_missing_model(tmp_path: Path) -> None:
    said = sentence(run_serve(str(tmp_path / "absent"), "--port", "0", "--data-dir", str(tmp_path)))
    assert "absent" in said
    assert "smollm2-135m" in said


def test_an_unreadable_model_config(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "llama", ')
    said = sentence(run_serve("--random-weights", str(file), "--port", "0", "--data-dir", str(tmp_path)))
    assert "config.json" in said


def test_too_little_memory_for_kv(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    said = sentence(run_serve(*simulated, "--kv-memory", "1KiB", "--port", "0", "--data-dir", str(tmp_path)))
    assert "kv-memory" in said


def test_a_model_larger_than_the_device(tmp_path: Path) -> None:
    config = write_config(tmp_path, num_hidden_layers=400)
    said = sentence(
        run_serve("--random-weights", str(config), "--device", "simulated:h100", "--port", "0",
                  "--data-dir", str(tmp_path))
    )  # fmt: skip
    assert "memory" in said


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """Torch may be built for CUDA or not; either way it says which and what to do, before reading."""
    built_with_cuda = torch.version.cuda is not None
    said = sentence(
        run_serve(str(write_config(tmp_path)), "--device", "cuda", "--port", "0", "--data-dir", str(tmp_path),
                  CUDA_VISIBLE_DEVICES="")
    )  # fmt: skip
    reason = (
        "torch finds no NVIDIA GPU" if built_with_cuda else f"torch {torch.__version__} was built without"
    )
    assert f"--device cuda: {reason}" in said
    assert "serve with --device cpu" in said


def test_a_data_folder_that_is_a_file(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    said = sentence(run_serve(*simulated, "--port", "0", "--data-dir", str(file)))
    assert "--data-dir" in said


def test_a_damaged_database(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    (tmp_path / "conversations.db").write_bytes(b"this is not SQLite" * 100)
    said = sentence(run_serve(*simulated, "--port", "0", "--data-dir", str(tmp_path)))
    assert "conversations.db" in said


def test_a_data_folder_that_another_server_has(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    with serving(*simulated, data_dir=tmp_path) as first:
        said = sentence(run_serve(*simulated, "--port", "0", "--data-dir", str(tmp_path)))
        assert f"process {first.process.pid}" in said
        assert "--data-dir" in said


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A file system with one page of room, where this user may mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


def no_file_may_grow() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_a_full_disk(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with full_disk(folder):
        # Where nothing can be mounted, a limit on the size of files makes writing fail instead.
        limit = None if folder.is_mount() else no_file_may_grow
        said = sentence(run_serve(*simulated, "--port", "0", "--data-dir", str(folder), preexec=limit))
    assert str(folder) in said
    assert "make room there or choose another folder with --data-dir" in said


def test_debug_level_shows_where(tmp_path: Path) -> None:
    done = run_serve(
        str(tmp_path / "absent"), "--port", "0", "--data-dir", str(tmp_path), "--log-level", "debug"
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def first_piece(served: Served, max_tokens: int) -> "Iterator[dict[str, object]]":
    """A stream that has begun."""
    stream = served.stream(max_tokens=max_tokens, ignore_eos=True)
    assert next(stream)["object"] == "chat.completion.chunk"
    return stream


def finish_of(events: list[dict[str, object]]) -> object:
    choices = [event["choices"][0] for event in events if event.get("choices")]  # type: ignore[index]
    return choices[-1]["finish_reason"]


def test_sigterm_lets_running_answers_end_and_refuses_new_ones(
    tmp_path: Path, simulated: tuple[str, ...]
) -> None:
    with serving(*simulated, data_dir=tmp_path) as served:
        stream = first_piece(served, max_tokens=600)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_error("1 answer is being made")
        assert served.get("/health/ready")[0] == 503
        assert served.get("/health/live")[0] == 200
        status, body = served.post("/v1/completions", {"model": "sim", "prompt": "x", "max_tokens": 1})
        assert (status, body["error"]["code"]) == (503, "shutting_down")
        events = list(stream)
        assert events[-1] == {"done": True}
        assert finish_of(events) == "length"
        assert served.wait() == 0
    assert "Traceback" not in served.errors


def test_answers_that_outlast_the_drain_are_cut(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    with serving(*simulated, "--drain-seconds", "0.3", data_dir=tmp_path) as served:
        stream = first_piece(served, max_tokens=4000)
        served.process.send_signal(signal.SIGTERM)
        events = list(stream)
        assert served.wait() == 0
    assert finish_of(events) != "length"
    assert len(events) < 4000
    assert "Traceback" not in served.errors


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    with serving(*simulated, data_dir=tmp_path) as served:
        _stream = first_piece(served, max_tokens=4000)  # held: a dropped one ends its answer
        served.process.send_signal(signal.SIGINT)
        served.wait_for_error("Ctrl-C again ends at once")
        served.process.send_signal(signal.SIGINT)
        assert served.wait(15) == 130  # the answer alone would take 24 s
    assert "Traceback" not in served.errors


def test_after_kill_it_starts_again_on_the_same_port(tmp_path: Path, simulated: tuple[str, ...]) -> None:
    with serving(*simulated, data_dir=tmp_path) as served:
        port = served.port
        first_piece(served, max_tokens=4000)
        served.process.kill()
        assert served.wait() == -signal.SIGKILL
    with serving(*simulated, data_dir=tmp_path, port=port) as again:
        assert again.port == port
        events = list(again.stream(max_tokens=3, ignore_eos=True))
        assert events[-1] == {"done": True}
        again.process.send_signal(signal.SIGINT)
        assert again.wait() == 0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("up")
    config = write_config(folder)
    arguments = ("--device", "simulated:h100", "--random-weights", str(config), "--log-level", "debug")
    with serving(*arguments, data_dir=folder) as served:
        yield served


def test_it_says_how_to_use_it_and_what_took_how_long(up: Served) -> None:
    text = "".join(up.lines)
    assert f"{up.url}/" in text
    assert "curl" in text
    assert "base_url" in text
    for phase in ("imports", "open sim", "load sim", "first token", "listening", "together"):
        up.wait_for_error(phase)


def test_the_chat_command_finds_it(up: Served) -> None:
    status, models = up.get("/v1/models")
    assert status == 200
    assert [model["id"] for model in models["data"]] == ["sim"]


def exchange(served: Served, *pieces: bytes) -> bytes:
    """Send pieces over one connection until the server closes it; what it answered."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except ConnectionError:
            pass
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionError:
            pass
    return answer


def test_an_endless_request_head_is_cut_off(up: Served) -> None:
    pieces = [b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Long: "] + [b"a" * 8192] * 40
    answer = exchange(up, *pieces)
    assert answer == b"" or b"431" in answer.split(b"\r\n")[0]
    assert up.get("/health/live")[0] == 200


def test_a_whole_head_is_served_over_one_connection(up: Served) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
    answer = exchange(up, request + b"\r\n", request + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2


def test_a_foreign_host_header_is_refused(up: Served) -> None:
    answer = exchange(up, b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["error"]["code"] == "forbidden"
