"""The terminal chat against a server whose answers are known."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_openai import FakeServer, Running
from rich.console import Console

from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.talk import Talk
from ridgeline.cli.terminal import Terminal, _Growing, finished_length

RIDGELINE = (sys.executable, "-m", "ridgeline.cli.main")


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(FakeServer(tokens=3)) as running:
        yield running


def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RIDGELINE, "chat", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_question_is_answered_in_plain_text(running: Running) -> None:
    done = run(
        "How", "many?", "--url", running.url, "--system", "Be brief.", "--api-key", "k1", "--max-tokens", "9"
    )
    assert (done.returncode, done.stdout) == (0, "w0 w1 w2 \n")
    request = running.fake.requests[0]
    assert request["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many?"},
    ]
    assert request["max_tokens"] == 9
    assert request["temperature"] == 0.3
    assert running.fake.headers[0]["Authorization"] == "Bearer k1"


def test_standard_input_joins_the_question(running: Running) -> None:
    assert run("Explain:", "--url", running.url, stdin="some text\n").returncode == 0
    assert running.fake.requests[0]["messages"][0]["content"] == "Explain:\n\nsome text"


def test_nothing_asked_is_wrong_usage(running: Running) -> None:
    done = run("--url", running.url)
    assert done.returncode == 2
    assert "nothing was asked" in done.stderr


def test_without_a_server_it_says_how_to_start_one() -> None:
    done = run("hi", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("ridgeline: no server answers at http://127.0.0.1:9 (connection refused).")
    assert "ridgeline serve" in done.stderr


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://"])
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    done = run("hi", "--url", url)
    assert done.returncode == 1
    assert "is not an address of http or https" in done.stderr


def test_an_answer_that_breaks_off_is_told_from_an_absent_server(running: Running) -> None:
    running.fake.cut = (0,)
    done = run("hi", "--url", running.url)
    assert (done.returncode, done.stdout) == (1, "w0 w1 w2 \n")
    assert done.stderr == (
        f"ridgeline: {running.url} gave no whole answer: the stream ended before its end mark.\n"
    )


def test_what_is_asked_need_not_be_utf8(running: Running) -> None:
    done = subprocess.run(
        [*map(str.encode, RIDGELINE), b"chat", b"Expl\xe9:", b"--url", running.url.encode()],
        input=b"caf\xe9\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert running.fake.requests[0]["messages"][0]["content"] == "Expl\ufffd:\n\ncaf\ufffd"


def test_a_refusal_is_one_sentence_with_the_time_to_wait(running: Running) -> None:
    running.fake.refuse = (0,)
    done = run("hi", "--url", running.url)
    assert done.returncode == 1
    assert "at_capacity" in done.stderr
    assert "Try again in 7 s." in done.stderr


def test_an_unknown_model_names_those_there_are(running: Running) -> None:
    done = run("hi", "--url", running.url, "--model", "other")
    assert done.returncode == 1
    assert "it serves fake" in done.stderr


def test_ctrl_c_while_answering_ends_a_single_question(running: Running) -> None:
    running.fake.hold = asyncio.Event()  # the first piece comes, the rest after the signal
    process = subprocess.Popen(
        [*RIDGELINE, "chat", "hi", "--url", running.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == "w0 "
    process.send_signal(signal.SIGINT)
    running.go_on()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def talk_to(running: Running) -> Talk:
    talk = Talk(running.url, {})
    talk.connect()
    return talk


def test_turns_carry_what_was_said(running: Running) -> None:
    talk = talk_to(running)
    pieces: list[str] = []
    assert talk.ask("one", pieces.append) == "w0 w1 w2 "
    talk.ask("two", pieces.append)
    assert [m["content"] for m in running.fake.requests[1]["messages"]] == ["one", "w0 w1 w2 ", "two"]
    assert "".join(pieces) == "w0 w1 w2 " * 2


def test_an_interrupted_answer_is_kept_and_an_empty_one_is_not(running: Running) -> None:
    talk = talk_to(running)

    def stop(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("one", stop)
    assert talk.messages == [("user", "one"), ("assistant", "w0 ")]
    running.fake.refuse = (1,)
    with pytest.raises(CommandFailed):
        talk.ask("two", stop)
    assert len(talk.messages) == 2


def test_the_terminal_asks_answers_and_obeys(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "chat.jsonl"
    lines = iter(["/help", "/system Be kind.", "hello", f"/save {saved}", "/clear", "again", ""])
    console = Console(width=80, force_terminal=False)

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(console, "input", read)
    with console.capture() as capture:
        Terminal(Talk(running.url, {}), console).run()
    text = capture.get()
    assert "Ctrl-D" in text
    assert "w0 w1 w2" in text
    assert json.loads(saved.read_text())["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "w0 w1 w2 "},
    ]
    after_clear = running.fake.requests[-1]["messages"]
    assert [m["content"] for m in after_clear] == ["Be kind.", "again"]


def test_ctrl_c_keeps_the_chat(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.fake.hold = asyncio.Event()
    console = Console(width=80, force_terminal=False)
    lines = iter(["hello"])
    talk = Talk(running.url, {})
    add, shown = _Growing.add, threading.Event()

    def add_and_tell(growing: _Growing, piece: str) -> None:
        add(growing, piece)
        shown.set()

    monkeypatch.setattr(_Growing, "add", add_and_tell)

    def read(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        threading.Thread(target=interrupt_when_answering, daemon=True).start()
        return line

    def interrupt_when_answering() -> None:
        assert shown.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        running.go_on()

    monkeypatch.setattr(console, "input", read)
    with console.capture() as capture:
        Terminal(talk, console).run()
    assert "(stopped)" in capture.get()
    assert talk.messages == [("user", "hello"), ("assistant", "w0 ")]


def test_a_growing_answer_leaves_room_for_the_terminals_own_ctrl_c() -> None:
    """A line that is full would wrap at the ^C, and what wraps is not found again to be redrawn."""
    console = Console(width=40, force_terminal=True, color_system=None, file=io.StringIO())
    growing = _Growing(console)
    growing.add("word " * 100)
    growing._live.refresh()
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    growing.close()
    lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", drawn).splitlines()
    assert max(map(len, lines)) == 38


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("one line", 0),
        ("a paragraph\n\nanother", 13),
        ("a\n\nb\n\nc", 6),
        ("```\ncode\n\nmore", 0),
        ("```\ncode\n\n```\n\nafter", 15),
        ("- item\n- item\n", 0),
    ],
)
def test_finished_blocks_of_growing_markdown(text: str, length: int) -> None:
    assert finished_length(text) == length
