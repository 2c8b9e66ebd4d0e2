"""A step as plain integers, and the interface of whatever carries it out.

A plan can be sent to another process or written to a file: an executor holds one state per
*slot* (token ids, block table, sampling), told by `admissions`, extended by `rows`, dropped by
`releases`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ridgeline.protocol import Sampling

IN_FLIGHT = -1
"""Stands for a token that an earlier step, not yet collected, is drawing for the same slot."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence takes a slot (first time, or again after preemption).

    Attributes:
        slot: index in [0, max_batch), free until now.
        token_ids: prompt, and what had been generated before a preemption. The executor needs them
            for penalties; the ones to be computed come again in the rows.
        prompt_tokens: how many of `token_ids` are the prompt.
        sampling: with `seed` set.
        banned_token_ids: tokens that must not be drawn before `min_tokens` are generated.
        min_tokens: see `banned_token_ids`.
    """

    slot: int
    token_ids: tuple[int, ...]
    prompt_tokens: int
    sampling: Sampling
    banned_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part of a step.

        position:  0 ........ start ........ start + len(token_ids)
                   |  in the KV cache  |  computed by this step  |

    Attributes:
        slot: whose.
        start: position of the first token computed; everything before it is in the KV cache.
        token_ids: tokens to compute, at least one; `IN_FLIGHT` for one not yet known here.
        drafts: how many of `token_ids`, all but the first, are drafts of what will be drawn. A token is
            drawn after each of `token_ids` then, until one is not what was drafted; executors of depth 0.
        new_blocks: block ids to append to the slot's block table before computing. After them
            the table covers `start + len(token_ids)` positions.
        sample: draw the next token from the last position's logits.
        score_prompt: report log probabilities for each computed prompt position.
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    new_blocks: tuple[int, ...] = ()
    sample: bool = False
    score_prompt: bool = False
    drafts: int = 0

    @property
    def known(self) -> tuple[int, ...]:
        """`token_ids` without the drafts."""
        return self.token_ids[: len(self.token_ids) - self.drafts]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """What is computed, as (new tokens, context before them); drafts are like sequences of their own."""
        if self.drafts:
            return [(1, self.start + i) for i in range(len(self.token_ids))]
        return [(len(self.token_ids), self.start)]

    @property
    def logit_rows(self) -> int:
        """Positions whose logits are needed."""
        return len(self.token_ids) if self.score_prompt or self.drafts else int(self.sample)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All of a step. Apply releases, then admissions, then rows. `rows` has decode rows first."""

    step: int
    rows: tuple[Row, ...]
    admissions: tuple[Admission, ...] = ()
    releases: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens computed by the step."""
        return sum(len(row.token_ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Score:
    """Log probability of a token and of the most probable ones, best first, as (id, logprob).

    None only for a prompt's first token, which nothing predicts.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RowResult:
    """What a row gave: the tokens that it drew, none where it did not sample, and their scores if asked for.

    `prompt_scores[i]` is the score of the token at position `start + i + 1`, given those before it;
    it ends with the row or with the prompt, whichever comes first. With an `error`, a sentence, the
    row gave nothing that can be used and its sequence has to end; the others of the step go on.
    """

    token_ids: tuple[int, ...] = ()
    scores: tuple[Score, ...] = ()
    prompt_scores: tuple[Score, ...] = ()
    error: str | None = None


class DeviceLostError(RuntimeError):
    """The device can compute nothing any more; only a new process helps."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One `RowResult` per row of the plan, in its order, and how long the device was at it."""

    rows: tuple[RowResult, ...]
    device_seconds: float


@dataclass(frozen=True, slots=True)
class Geometry:
    """Size of an executor's KV cache and batch; fixed for its life."""

    blocks: int
    block_size_tokens: int
    block_bytes: int
    max_batch: int
    max_context_tokens: int

    @property
    def longest_sequence_tokens(self) -> int:
        """Prompt and answer of a sequence that has the whole cache to itself."""
        return min(self.max_context_tokens, self.blocks * self.block_size_tokens)


@dataclass(slots=True)
class Handle:
    """A launched step; executors subclass it with what `collect` needs."""

    plan: StepPlan = field(repr=False)


Snapshot = Callable[[], Sequence[Any]]
"""Waits for contents of blocks, as arrays of bytes in the host's memory; from any thread."""


class Executor(Protocol):
    """Carries out steps in the order they are launched. Used from one thread.

    KV layout is the executor's own business: the core knows block ids and bytes. An exception
    from either verb fails every sequence of the step; the executor must stay usable, unless it is
    a `DeviceLostError`.
    """

    geometry: Geometry
    fingerprint: str
    dtype: str
    kernels: str
    """What computes; parts of the fingerprint."""
    depth: int
    """How many steps may be launched before one is collected, beyond the first: 0 or 1."""

    def launch(self, plan: StepPlan) -> Handle:
        """Start a step; returns once the host's part is done."""
        ...

    def collect(self, handle: Handle) -> StepResult:
        """Wait for the step and hand over what it drew. Handles are collected in launch order."""
        ...

    def read_blocks(self, blocks: Sequence[int]) -> Snapshot:
        """Copy blocks as they are after the steps launched so far; later steps do not change the copy."""
        ...

    def write_blocks(self, blocks: Sequence[int], contents: Sequence[Any]) -> None:
        """Give blocks what was once read of others; steps launched later see it.

        Raises:
            ValueError: a content has another length than a block.
        """
        ...

    def close(self) -> None:
        """Release memory; no call follows."""
        ...
