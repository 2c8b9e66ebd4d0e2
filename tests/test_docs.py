"""The documentation says what is so: generated parts are current, examples run, links lead somewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from server_process import Served, clean_environment, serving, write_config

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", ["rooms", "options", "site"])
def test_generated_parts_are_current(part: str) -> None:
    path, text = generator().current(part)
    assert path.read_text(encoding="utf-8") == text, f"{path.name} is not current: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for found, body in BLOCK.findall(text) if found == language]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that looks like the default one to whoever follows the guides."""
    folder = tmp_path_factory.mktemp("guides")
    config = write_config(folder).rename(folder / "smollm2-135m.json")
    with serving("--device", "simulated:h100", "--random-weights", str(config), data_dir=folder) as served:
        yield served


def follow(up: Served, command: list[str], text: str) -> "subprocess.CompletedProcess[str]":
    """Run an example against the server of this test."""
    here = text.replace("http://127.0.0.1:8000", up.url)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command, here],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | {"PATH": path, "RIDGELINE_URL": up.url},
    )


@pytest.mark.parametrize("number", range(len(blocks("docs/guides/api.md", "python"))))
def test_python_examples_of_the_api_guide_run(up: Served, number: int) -> None:
    done = follow(up, [sys.executable, "-c"], blocks("docs/guides/api.md", "python")[number])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("page", "number"),
    [
        (page, number)
        for page in ("docs/guides/api.md", "docs/guides/benchmarking.md")
        for number in range(len(blocks(page, "sh")))
    ],
)
def test_shell_examples_run(up: Served, page: str, number: int) -> None:
    done = follow(up, ["bash", "-euo", "pipefail", "-c"], blocks(page, "sh")[number])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_the_configuration_example_is_accepted(tmp_path: Path) -> None:
    (example,) = blocks("docs/guides/configuration.md", "toml")
    file = tmp_path / "ridgeline.toml"
    file.write_text(example)
    taken = "127.0.0.1:9"  # nothing answers there: the file has been read when that is said
    done = subprocess.run(
        [sys.executable, "-m", "ridgeline.cli.main", "chat", "hi", "--config", str(file), "--url", taken],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 1
    assert "no server answers" in done.stderr
