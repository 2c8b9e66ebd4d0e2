"""How each slot draws its tokens, as arrays over the slots, and what few steps need beyond."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.engine.core.plan import Admission, Row
from ridgeline.models.uniform import uniforms
from ridgeline.protocol import Sampling

_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


@dataclass(slots=True)
class CudaSlot:
    """A sequence as it was admitted; what it has drawn since is on the device.

    `known_tokens` counts prompt and answer as far as they were given, drawn or are being drawn.
    """

    token_ids: tuple[int, ...]
    prompt_tokens: int
    sampling: Sampling
    banned_token_ids: tuple[int, ...]
    min_tokens: int
    known_tokens: int

    @classmethod
    def of(cls, admission: Admission) -> "CudaSlot":
        """As it is admitted."""
        return cls(
            admission.token_ids,
            admission.prompt_tokens,
            admission.sampling,
            admission.banned_token_ids,
            admission.min_tokens,
            len(admission.token_ids),
        )

    def note(self, row: Row) -> tuple[int, ...]:
        """Count what a row computes and draws; returns tokens of the answer that were given by it."""
        end = row.start + len(row.token_ids)
        given = row.token_ids[self.known_tokens - end :] if end > self.known_tokens else ()
        self.known_tokens = max(self.known_tokens, end + row.sample)
        return given

    @property
    def penalised(self) -> bool:
        """Whether the tokens so far change the logits."""
        s = self.sampling
        return s.repetition_penalty != 1.0 or s.presence_penalty != 0.0 or s.frequency_penalty != 0.0

    def bans(self, position: int) -> bool:
        """Whether some tokens must not be drawn for this position."""
        return bool(self.banned_token_ids) and position - self.prompt_tokens < self.min_tokens

    def is_special(self, position: int) -> bool:
        """Whether drawing for this position takes more than the drawing kernel."""
        s = self.sampling
        return s.logprobs is not None or bool(s.logit_bias) or self.penalised or self.bans(position)


class SlotSettings:
    """Sampling settings of all slots, [max_batch] each, so that a step's are picked at once."""

    def __init__(self, max_batch: int) -> None:
        self.temperature = np.zeros(max_batch, dtype=np.float32)
        self.top_k = np.zeros(max_batch, dtype=np.int32)
        self.top_p = np.ones(max_batch, dtype=np.float32)
        self.min_p = np.zeros(max_batch, dtype=np.float32)
        self.seed = np.zeros(max_batch, dtype=np.uint64)
        self.may_be_special = np.zeros(max_batch, dtype=np.bool_)

    def admit(self, slot: int, state: CudaSlot) -> None:
        """Take over a sequence's settings."""
        sampling = state.sampling
        self.may_be_special[slot] = (
            state.penalised
            or bool(sampling.logit_bias or state.banned_token_ids)
            or sampling.logprobs is not None
            or sampling.prompt_logprobs is not None
        )
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = min(sampling.top_k, np.iinfo(np.int32).max)
        self.top_p[slot] = sampling.top_p
        self.min_p[slot] = sampling.min_p
        self.seed[slot] = (sampling.seed or 0) & (2**64 - 1)

    def uniforms(
        self, slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """The number each (seed, position) draws with; rounding to float32 never makes 1 of it."""
        return np.minimum(uniforms(self.seed[slots], positions).astype(np.float32), _BELOW_ONE)


@dataclass(frozen=True, slots=True)
class DrawingRow:
    """A row that draws: which row of logits, its slot, what is known of it, the position drawn for."""

    row: int
    slot: int
    state: CudaSlot
    position: int


@dataclass(frozen=True, slots=True)
class Adjustments:
    """Changes to logits before the drawing kernel; see `ExtraArrays` for the fields."""

    scored: npt.NDArray[np.int32]
    bias_index: npt.NDArray[np.int32]
    bias: npt.NDArray[np.float32]
    banned: npt.NDArray[np.int32]
    penalised: npt.NDArray[np.int32]
    penalised_slots: npt.NDArray[np.int32]
    repetition: npt.NDArray[np.float32]
    presence: npt.NDArray[np.float32]
    frequency: npt.NDArray[np.float32]


def adjustments(rows: Sequence[DrawingRow], vocab: int) -> Adjustments:
    """Collect what the rows of a step ask for, [rows, vocab] flattened."""
    biased = [(r.row * vocab + t, b) for r in rows for t, b in r.state.sampling.logit_bias.items()]
    banned = [
        r.row * vocab + token for r in rows if r.state.bans(r.position) for token in r.state.banned_token_ids
    ]
    penalised = [r for r in rows if r.state.penalised]
    settings = [r.state.sampling for r in penalised]
    return Adjustments(
        _ints(r.row for r in rows if r.state.sampling.logprobs is not None),
        _ints(index for index, _ in biased),
        _floats(value for _, value in biased),
        _ints(banned),
        _ints(r.row for r in penalised),
        _ints(r.slot for r in penalised),
        _floats(s.repetition_penalty for s in settings),
        _floats(s.presence_penalty for s in settings),
        _floats(s.frequency_penalty for s in settings),
    )


def _ints(values: Iterable[int]) -> npt.NDArray[np.int32]:
    return np.fromiter(values, dtype=np.int32)


def _floats(values: Iterable[float]) -> npt.NDArray[np.float32]:
    return np.fromiter(values, dtype=np.float32)
