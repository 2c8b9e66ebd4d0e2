"""Sequences with blocks scattered over a pool, of which every step computes some tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.kernels.cuda.plan import DevicePlan
from ridgeline.kernels.interface import Batch, Chunk, PagedAttention

BLOCK_SIZE_TOKENS = 16

Ids = npt.NDArray[np.int64]


class Sequences:
    """Block tables for sequences of up to so many tokens each.

    Args:
        lengths: of the sequences, in tokens.
        generator: scatters their blocks.
    """

    def __init__(self, lengths: list[int], generator: np.random.Generator) -> None:
        counts = [-(-length // BLOCK_SIZE_TOKENS) for length in lengths]
        self.blocks = sum(counts) + 3
        order = generator.permutation(self.blocks).astype(np.int64)
        self.tables = np.zeros((len(lengths), max(counts)), dtype=np.int64)
        for i, count in enumerate(counts):
            self.tables[i, :count], order = order[:count], order[count:]

    def batch(
        self,
        singles: Mapping[int, int],
        chunks: Mapping[int, tuple[int, int]],
        token_ids: Mapping[int, Ids] | None = None,
    ) -> Batch:
        """A step.

        Args:
            singles: position of its one token, by sequence.
            chunks: start and tokens, by sequence.
            token_ids: all of each sequence; None where nothing asks for them.
        """
        ordered = sorted(singles.items(), key=lambda item: -item[1])
        places = list(ordered)
        parts = []
        for sequence, (start, tokens) in chunks.items():
            parts.append(Chunk(len(places), tokens, start, self.tables[sequence], sequence))
            places += [(sequence, position) for position in range(start, start + tokens)]
        owners, positions = np.array(places, dtype=np.int64).T
        ids = [0 if token_ids is None else int(token_ids[s][p]) for s, p in places]
        return Batch(
            np.array(ids, dtype=np.int64),
            positions,
            owners,
            self.tables[owners, positions // BLOCK_SIZE_TOKENS],
            self.tables[[sequence for sequence, _ in ordered]],
            np.array([position + 1 for _, position in ordered], dtype=np.int64),
            tuple(parts),
        )


def plan_of(attention: PagedAttention, batch: Batch) -> Any:
    """What attention takes of a step, its launches chosen as the executor does: by sizes alone."""
    plan = attention.plan(batch)
    if not isinstance(plan, DevicePlan):
        return plan
    works = [replace(work, merges=len(work.units) > len(work.tiles)) for work in plan.works]
    return replace(plan, works=tuple(works))
