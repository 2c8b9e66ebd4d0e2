"""What only a GPU can show: that the compiled kernels and the recorded graphs give the right numbers.

Everything else about the CUDA executor is tested without one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.needs_gpu
@pytest.mark.timeout(600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_answers_are_right_on_this_gpu() -> None:
    """In a process of its own: in this one Triton's kernels run in its interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), "--only", "correctness"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
