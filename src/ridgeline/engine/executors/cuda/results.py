"""What a step hands back, packed into one buffer of host memory, and read out of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ridgeline.engine.core.plan import RowResult, Score
from ridgeline.engine.executors.cuda.prepare import Prepared
from ridgeline.models.sampling import NON_FINITE


@dataclass(frozen=True, slots=True)
class ResultSizes:
    """How many rows there are logits of, how many are scored, and with how many alternatives."""

    rows: int
    scored: int
    top: int
    prompt_scored: int
    prompt_top: int

    @classmethod
    def of(cls, step: Prepared) -> "ResultSizes":
        """Of a step; the tokens of a step of single tokens are padded like it."""
        rows = step.decode_tiles or len(step.arrays.last)
        extras = step.extras
        return cls(rows, len(extras.scored), step.top, len(extras.prompt_index), step.prompt_top)

    @property
    def integers(self) -> int:
        """Length of the packed results."""
        per_prompt = self.prompt_scored * (1 + 2 * self.prompt_top)
        return self.rows + self.scored * (1 + 2 * self.top) + per_prompt


def hand_over(parts: Sequence[torch.Tensor], target: torch.Tensor) -> None:
    """Copy results, int32 and float32, into host memory: on the device's own time."""
    flat = [part.reshape(-1).view(torch.int32) for part in parts]
    packed = flat[0] if len(flat) == 1 else torch.cat(flat)
    target[: len(packed)].copy_(packed, non_blocking=True)


def read(step: Prepared, buffer: torch.Tensor) -> tuple[RowResult, ...]:
    """Results of the plan's rows, once the device has handed them over."""
    sizes = ResultSizes.of(step)
    packed = buffer[: sizes.integers].numpy()
    drawn = packed[: sizes.rows][step.logits].tolist() if sizes.rows else [0] * len(step.logits)
    drawing = (step.logits >= 0).tolist()
    if not step.scored:
        return tuple(map(_plain, drawing, drawn))
    scores = _Scores(packed, sizes.rows, sizes.scored, sizes.top, step.extras.scored)
    prompt = _Scores(packed, scores.end, sizes.prompt_scored, sizes.prompt_top, step.extras.prompt_index)
    targets, indices = step.extras.prompt_target.tolist(), step.logits.tolist()
    results, done = [], 0
    for draws, index, token, wanted in zip(drawing, indices, drawn, step.scored, strict=True):
        end = done + wanted.prompt_scores
        prompt_scores = tuple(prompt.of(i, targets[i], wanted.prompt_top) for i in range(done, end))
        done = end
        # A score is a number unless the logits were none.
        broken = any(score.logprob is not None and math.isnan(score.logprob) for score in prompt_scores)
        if broken or (draws and token < 0):
            results.append(RowResult(error=NON_FINITE))
            continue
        own = () if wanted.top is None else (scores.of(scores.index[index], token, wanted.top),)
        results.append(RowResult((token,) if draws else (), own, prompt_scores))
    return tuple(results)


def _plain(draws: bool, token: int) -> RowResult:
    """A row that only draws, or not even that."""
    if not draws:
        return RowResult()
    return RowResult((token,)) if token >= 0 else RowResult(error=NON_FINITE)


class _Scores:
    """Log probabilities in a packed buffer from `start` on: own, best ones, their ids.

    `rows` says what each is of; `index` finds it.
    """

    def __init__(
        self,
        packed: npt.NDArray[np.int32],
        start: int,
        count: int,
        top: int,
        rows: npt.NDArray[np.int32],
    ) -> None:
        values, ids = start + count, start + count + count * top
        self.end = ids + count * top
        self.index = {row: i for i, row in enumerate(rows.tolist())}
        floats = packed.view(np.float32)
        self._own = floats[start:values].tolist()
        self._values = floats[values:ids].reshape(count, top).tolist()
        self._ids = packed[ids : self.end].reshape(count, top).tolist()

    def of(self, index: int, token_id: int, top: int) -> Score:
        best = zip(self._ids[index][:top], self._values[index][:top], strict=True)
        return Score(token_id, self._own[index], tuple(best))
