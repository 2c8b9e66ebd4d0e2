"""The ordeal of a fleet, short: replicas, a region and front doors die and come again under load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "fleet" / "ordeal.py"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_answered_wrongly(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, str(SCRIPT), "--minutes", "1.2", "--real", "0", "--simulated", "5"),
            *("--clients", "8", "--logs", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["troubles"] == [] and result["outcomes"]["answered"] > 100
    assert result["retried_by_clients"] > 0, "no client noticed that front doors were killed"
    for happened in ("sim 0 dies", "region asia dies", "door0 dies", "door1 returns", "is changed"):
        assert happened in run.stdout
