"""Flags, environment and configuration file: read by one parser, in one order."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import ridgeline
from ridgeline.cli import server
from ridgeline.cli.main import app
from ridgeline.cli.params import client_headers, parse_api_key, parse_bytes, server_url
from ridgeline.cli.server import Serving
from ridgeline.cli.site import site_names
from ridgeline.web.settings import WebSettings


class Captured:
    """What `serve` would have been run with."""

    def __init__(self) -> None:
        self.serving: Serving | None = None

    def __call__(self, serving: Serving) -> None:
        self.serving = serving


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Captured:
    captured = Captured()
    monkeypatch.setattr(server, "run", captured)
    return captured


def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


def served(captured: Captured, *arguments: str, env: dict[str, str] | None = None) -> Serving:
    result = invoke("serve", *arguments, env=env)
    assert result.exit_code == 0, result.output
    assert captured.serving is not None
    return captured.serving


def test_defaults(captured: Captured) -> None:
    serving = served(captured)
    assert serving.models == ("smollm2-135m",)
    assert serving.port == 8000
    assert serving.api.host == "127.0.0.1"
    assert serving.engine.kv_memory_bytes is None
    assert serving.engine.device == "cpu"


def test_flag_wins_over_environment_over_file_over_default(captured: Captured, tmp_path: Path) -> None:
    file = tmp_path / "ridgeline.toml"
    file.write_text(
        '[serve]\nmodels = ["a", "b"]\nport = 1001\nmax-batch = 3\nkv-memory = "2GiB"\nmax-waiting = 7\n'
    )
    env = {"RIDGELINE_PORT": "1002", "RIDGELINE_MAX_BATCH": "4", "RIDGELINE_CONFIG": str(file)}
    serving = served(captured, "--port", "1003", env=env)
    assert serving.port == 1003
    assert serving.engine.max_batch == 4
    assert serving.engine.kv_memory_bytes == 2 * 2**30
    assert serving.models == ("a", "b")
    assert serving.engine.max_waiting == 7
    assert serving.engine.threads is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[serve]\nmax-bacth = 3\n", "unknown key in [serve] 'max-bacth'; did you mean 'max-batch'?"),
        ("[serv]\nport = 3\n", "did you mean '[serve]'?"),
        ("port = 3\n", "unknown table '[port]'"),
        ("[serve]\nport = 70000\n", "'port' in [serve]: Input should be less than or equal to 65535"),
        ('[serve]\nkv-memory = "lots"\n', "'lots' is not an amount of memory"),
        ("[serve]\nport = [1, 2]\n", "takes one value"),
        ("serve = 3\n", "must be a table"),
        ("[serve\n", "is not valid TOML"),
    ],
)
def test_faults_of_the_file_name_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "ridgeline.toml"
    file.write_text(text)
    result = invoke("serve", "--config", str(file))
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert says in message
    assert str(file) in message


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    result = invoke("serve", "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "cannot read" in result.output


def test_lists_from_file_and_environment(captured: Captured, tmp_path: Path) -> None:
    file = tmp_path / "ridgeline.toml"
    file.write_text('[serve]\nallowed-host = "one.example"\napi-key = ["a=secret-a", "b=secret-b"]\n')
    serving = served(captured, "--config", str(file), env={"RIDGELINE_ALLOWED_ORIGIN": "http://x http://y"})
    assert serving.api.allowed_hosts == ("one.example",)
    assert serving.api.api_keys == {"a": "secret-a", "b": "secret-b"}
    assert serving.api.allowed_origins == ("http://x", "http://y")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--host", "0.0.0.0"), "key is required off the loopback address"),
        (("--device", "simulated:abacus"), "'abacus' is unknown"),
        (("--dtype", "float64"), "cpu does not compute in 'float64'"),
        (("--dtype", "float16"), "cpu does not compute in 'float16'; it has auto, float32, bfloat16"),
        (("--device", "cuda", "--dtype", "int8"), "it has auto, float32, bfloat16, float16"),
        (("--device", "simulated:a100-80", "--dtype", "float8"), "it has auto, float32"),
        (("--kv-dtype", "int4"), "'int4' is no dtype; there are auto, float32"),
        (("--device", "gpu"), "there are cpu, cuda, cuda:N and simulated:NAME"),
        (("--device", "cuda:"), "'cuda:' is no device"),
        (("--device", "cuda:one"), "'cuda:one' is no device"),
        (("--device", "cuda:-1"), "'cuda:-1' is no device"),
        (("--api-key", "a=1", "--api-key", "a=2"), "two keys are called 'a'"),
        (("--max-batch", "2048"), "max_batch_tokens must be at least max_batch (2048)"),
        (("--device", "cuda", "--max-batch-tokens", "255"), "at least max_batch (256)"),
        (("--kv-policy", "lfu"), "kv_policy 'lfu' is unknown; there are price, lru"),
        (("--max-waiting", "0"), "greater than or equal to 1"),
        (
            ("--max-batch", "0"),
            "'--max-batch' (env var: 'RIDGELINE_MAX_BATCH'): Input should be greater than or equal to 1",
        ),
        (("--log-level", "loud"), "'loud' is none of"),
        (("--tensor-parallel", "2"), "No such option"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(captured: Captured, arguments: tuple[str, ...], says: str) -> None:
    result = invoke("serve", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert captured.serving is None


@pytest.mark.parametrize(
    ("device", "sequences", "tokens"),
    [("cpu", 64, 1024), ("cuda", 256, 8192), ("cuda:3", 256, 8192), ("simulated:h100", 256, 8192)],
)
def test_defaults_of_steps_depend_on_the_device(
    captured: Captured, device: str, sequences: int, tokens: int
) -> None:
    engine = served(captured, "--device", device).engine
    assert (engine.device, engine.sequences, engine.tokens) == (device, sequences, tokens)
    asked = served(captured, "--device", device, "--max-batch", "7", "--max-batch-tokens", "70").engine
    assert (asked.sequences, asked.tokens) == (7, 70)


def test_cuda_computes_in_float16_too(captured: Captured) -> None:
    assert served(captured, "--device", "cuda:1", "--dtype", "float16").engine.dtype == "float16"


def test_a_key_opens_other_addresses(captured: Captured) -> None:
    serving = served(captured, "--host", "0.0.0.0", env={"RIDGELINE_API_KEY": "alice=one bob=two"})
    assert serving.api.api_keys == {"alice": "one", "bob": "two"}


def test_every_command_has_examples_and_environment_variables() -> None:
    for command in ("serve", "pull", "models", "chat", "bench"):
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert "Examples:" in result.output
        assert f"ridgeline {command}" in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GiB", 2**31), ("512MB", 512_000_000), ("1.5g", 3 * 2**29), (" 7 ", 7), ("3 kib", 3072)],
)
def test_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e3", "2 gallons", "0"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("secret", ("default", "secret")),
        ("alice=secret", ("alice", "secret")),
        ("alice=c2VjcmV0==", ("alice", "c2VjcmV0==")),
        ("c2VjcmV0==", ("default", "c2VjcmV0==")),
    ],
)
def test_api_keys(text: str, expected: tuple[str, str]) -> None:
    assert parse_api_key(text) == expected


def test_the_client_sends_the_secret_alone() -> None:
    assert client_headers("alice=one bob=two") == {"Authorization": "Bearer one"}
    assert client_headers(None) == {}


@pytest.mark.parametrize("url", ["http://a:1/v1", "http://a:1/", "a:1"])
def test_server_urls(url: str) -> None:
    assert server_url(url) == "http://a:1"


def test_bench_takes_one_kind_of_load() -> None:
    result: Any = invoke("bench", "--rate", "1", "--concurrency", "2")
    assert result.exit_code == 2
    assert "not both" in result.output


def announced(captured: Captured, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    server._announce(served(captured, *arguments), ["m"], "http://127.0.0.1:1", 1.0)
    return capsys.readouterr().out


def test_what_is_announced_works_as_it_stands(
    captured: Captured, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the server may hold several keys with names, which no client can send."""
    keyed = announced(captured, capsys, "--api-key", "alice=one")
    assert "$" not in keyed and "one" not in keyed
    assert '"Authorization: Bearer KEY"' in keyed and 'api_key="KEY"' in keyed
    assert "chat --url http://127.0.0.1:1 --api-key KEY\n" in keyed
    open_ = announced(captured, capsys)
    assert "Bearer" not in open_ and 'api_key="none"' in open_
    monkeypatch.setattr("sys.argv", [".venv/bin/ridgeline"])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert " .venv/bin/ridgeline chat --url http://127.0.0.1:1\n" in announced(captured, capsys)


def test_the_site_is_set_by_flag_environment_and_file(captured: Captured, tmp_path: Path) -> None:
    assert served(captured).site == WebSettings()
    file = tmp_path / "ridgeline.toml"
    file.write_text('[serve.site]\ntitle = "Ask the Ridge"\nmax-conversations = 7\ntemperature = 0.7\n')
    site = served(captured, "--config", str(file)).site
    assert (site.title, site.max_conversations) == ("Ask the Ridge", 7)
    assert (site.sampling.temperature, site.sampling.top_p) == (0.7, WebSettings().sampling.top_p)
    env = {"RIDGELINE_CONFIG": str(file), "RIDGELINE_SITE": "max-pinned=3 top-p=1"}
    site = served(captured, env=env).site
    assert (site.max_pinned, site.sampling.top_p, site.title) == (3, 1.0, "Ridgeline")
    assert served(captured, "--site", "unheard-seconds=5.5", env=env).site == replace(
        WebSettings(), unheard_seconds=5.5
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-conversation=3", "no setting 'max-conversation'; did you mean 'max-conversations'?"),
        ("heartbeat-seconds=3", "the chat site has no setting 'heartbeat-seconds'"),
        ("max-conversations", "'max-conversations' is not of the form NAME=VALUE"),
        ("max-conversations=0", "'max-conversations' must be a whole number of 1 or more, but is '0'"),
        ("max-conversations=1.5", "must be a whole number of 1 or more, but is '1.5'"),
        ("temperature=hot", "'temperature' must be a number from 0 to 2, but is 'hot'"),
        ("top-p=0", "'top-p' must be a number above 0 and up to 1, but is '0'"),
        ("undo-seconds=inf", "'undo-seconds' must be a number above 0, but is 'inf'"),
        ("title=", "'title' must not be empty"),
    ],
)
def test_wrong_settings_of_the_site_are_named(
    captured: Captured, tmp_path: Path, text: str, says: str
) -> None:
    result = invoke("serve", "--site", text)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    file = tmp_path / "ridgeline.toml"
    file.write_text(f'[serve]\nsite = ["{text}"]\n')
    result = invoke("serve", "--config", str(file))
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert says in message and str(file) in message


def test_every_limit_that_names_itself_can_be_set() -> None:
    folder = Path(ridgeline.__file__).parent / "web"
    source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    named = set(re.findall(r"--site ([a-z-]+)", source))
    assert len(named) > 5 and named <= set(site_names())
