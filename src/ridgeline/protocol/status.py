"""How a backend is: what it serves and how full it is."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model as a client sees it. `aliases` are further names it answers to."""

    name: str
    created: int
    max_context_tokens: int
    vocab_size: int
    parameters: int
    aliases: tuple[str, ...] = ()
    has_chat_template: bool = True


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Load of one model's engine.

    Batch size is sequences in a step; `batch_limit` is how many the target of inter-token latency lets
    in now, where there is one. Blocks: `free + held + idle = total`, where idle ones are
    cached but reclaimable; `promised` ones are expected to be taken yet by those who run and those
    who wait. `estimated_wait_seconds` is what a request arriving now would wait before its first
    step, from the measured drain rate. `fingerprint` is equal for replicas whose greedy text is
    equal (weights, dtype, kernel path).
    """

    name: str
    batch_size: int
    max_batch_size: int
    waiting: int
    max_waiting: int
    blocks_total: int
    blocks_free: int
    blocks_held: int
    blocks_idle: int
    block_size_tokens: int
    estimated_wait_seconds: float
    fingerprint: str
    blocks_promised: int = 0
    batch_limit: int | None = None

    @property
    def slots(self) -> int:
        """Sequences that may be in a step now."""
        return self.max_batch_size if self.batch_limit is None else self.batch_limit


@dataclass(frozen=True, slots=True)
class Status:
    """Alive, ready and full are three different answers; this carries all three."""

    state: Literal["starting", "ready", "draining", "failed"]
    models: tuple[ModelStatus, ...] = ()
    detail: str = ""
    requests_in_flight: int = field(default=0)
