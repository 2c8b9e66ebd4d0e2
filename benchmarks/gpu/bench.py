"""What every part of the benchmark is given."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu.places import Place
from gpu.scale import Scale

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """A place, the sizes, the time that is left, and where results go.

    Attributes:
        place: where to compute.
        scale: how much.
        seed: of everything random; fresh in every run unless it is given.
        deadline: of the part, on the clock of `time.monotonic`.
        put: takes the name of a table and a row of it, as soon as it is known.
    """

    place: Place
    scale: Scale
    seed: int
    deadline: float
    put: Callable[[str, Record], None]

    def has_time(self, seconds: float, what: str) -> bool:
        """Whether so much time is left; if not, it is said that `what` was cut."""
        left = self.deadline - time.monotonic()
        if left >= seconds:
            return True
        self.put("cut", {"what": what, "needs_seconds": seconds, "left_seconds": round(left, 1)})
        return False

    def generator(self, salt: int) -> np.random.Generator:
        """Random numbers that differ by what they are for."""
        return np.random.default_rng((self.seed, salt))


def token_ids(generator: np.random.Generator, count: int, vocab: int) -> tuple[int, ...]:
    """Random tokens; the first three hundred or so may have a meaning to the tokenizer of bytes."""
    return tuple(generator.integers(min(300, vocab // 2), vocab, count).tolist())
