"""What the cores can do at most, with as many threads as the contenders have; measured in between."""

import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.answering import answer_requests
from ridgeline.kernels.jit.ceilings import measure

if __name__ == "__main__":
    answer_requests({}, lambda asked: asdict(measure(asked["threads"])))
