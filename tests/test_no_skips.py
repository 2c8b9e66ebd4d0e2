"""The rule of tests/conftest.py, tried on small suites of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
PLAIN_SKIP = "import pytest\n@pytest.mark.skip(reason='why')\ndef test_it(): pass\ndef test_ok(): pass\n"
GPU_SKIP = (
    "import pytest\n@pytest.mark.needs_gpu\n@pytest.mark.skip(reason='no GPU')\n"
    "def test_it(): pass\ndef test_ok(): pass\n"
)
MODULE_SKIP = "import pytest\npytest.skip('absent', allow_module_level=True)\n"
ONLY_GPU_SKIP = GPU_SKIP.replace("def test_ok(): pass\n", "")


@pytest.mark.parametrize("processes", ["0", "2"])
@pytest.mark.parametrize(
    ("source", "no_skips", "code", "says"),
    [
        (PLAIN_SKIP, "1", 1, "NOT allowed"),
        (PLAIN_SKIP, "0", 0, "1 skipped"),
        (GPU_SKIP, "1", 0, "skipped, allowed"),
        (MODULE_SKIP, "1", 1, "skipped as a whole"),
        (ONLY_GPU_SKIP, "1", 5, "no test ran"),
    ],
)
def test_skips_are_failures_where_asked(
    tmp_path: Path, source: str, no_skips: str, code: int, says: str, processes: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  needs_gpu: x\n")
    others = "def test_other(): pass\n" if source == MODULE_SKIP else ""
    (tmp_path / "test_small.py").write_text(source)
    if others:
        (tmp_path / "test_others.py").write_text(others)
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-n", processes, str(tmp_path)],
        env=environment | {"RIDGELINE_NO_SKIPS": no_skips},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert says in done.stdout
