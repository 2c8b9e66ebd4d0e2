"""What the processor reaches is measured once, kept, and never taken from a broken file."""

import json
from pathlib import Path

import pytest

from ridgeline.engine.executors import cpu_peaks
from ridgeline.engine.executors.cpu_peaks import Peaks, this_processor


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    asked: list[tuple[str, int]] = []

    def measure(dtype: str, threads: int) -> Peaks:
        asked.append((dtype, threads))
        return Peaks(30e9, 400e9)

    monkeypatch.setenv("RIDGELINE_CACHE", str(tmp_path))
    monkeypatch.setattr(cpu_peaks, "_measure", measure)
    return asked


def test_measured_once_by_dtype_and_threads(measured: list[tuple[str, int]]) -> None:
    for _ in range(3):
        hardware = this_processor("float32", 2)
    assert (hardware.name, hardware.bytes_per_second) == ("cpu", 30e9)
    assert hardware.peak_flops("float32") == 400e9
    assert hardware.memory_bytes > 1e8
    this_processor("float32", 1)
    this_processor("bfloat16", 2)
    assert measured == [("float32", 2), ("float32", 1), ("bfloat16", 2)]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"bytes_per_second": 0, "flops_per_second": 1}', "{}"])
def test_a_broken_file_is_measured_anew(
    measured: list[tuple[str, int]], tmp_path: Path, content: str
) -> None:
    this_processor("float32", 2)
    (file,) = (tmp_path / "peaks").iterdir()
    assert json.loads(file.read_text())["machine"]
    file.write_text(content)
    this_processor("float32", 2)
    assert len(measured) == 2
    assert this_processor("float32", 2).bytes_per_second == 30e9
    assert len(measured) == 2


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    measured: list[tuple[str, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "peaks").write_text("a file in the way")
    assert this_processor("float32", 2).bytes_per_second == 30e9
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_measured_is_plausible(dtype: str) -> None:
    peaks = cpu_peaks._measure(dtype, 1)
    assert 1e8 < peaks.bytes_per_second < 1e12
    assert 1e8 < peaks.flops_per_second < 1e14
