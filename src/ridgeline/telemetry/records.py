"""What the engine reports to telemetry: a step, and a finished request."""

from dataclasses import dataclass
from typing import Literal, get_args

Resource = Literal["compute", "memory_bandwidth", "kv_capacity", "host", "launch", "link", "idle"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)


@dataclass(frozen=True, slots=True)
class Headroom:
    """How many more sequences of the present kind fit, until each thing ends.

    Attributes:
        slots: until the batch has no place left.
        kv: until the KV blocks are used up.
        ridge: until arithmetic binds; None: KV traffic keeps the ridge out of reach of any batch.
        latency: until a step takes longer than the target of inter-token latency; None: no target.
    """

    slots: int
    kv: int
    ridge: int | None = None
    latency: int | None = None

    @property
    def sequences(self) -> int:
        """How many more the batch could take: the least of them."""
        known = (self.slots, self.kv, self.ridge, self.latency)
        return min(number for number in known if number is not None)


@dataclass(frozen=True, slots=True)
class RidgeRecord:
    """Where decoding at the present mean context stands to the ridge; see `roofline.Ridge`.

    Attributes:
        flops_per_byte: the ridge that this engine attains.
        limit: intensity in FLOPs per byte that no batch can exceed.
        batch: sequences at the ridge; None where it is out of reach.
    """

    flops_per_byte: float
    limit: float
    batch: int | None


@dataclass(frozen=True, slots=True)
class StepAllowance:
    """What the next step was allowed.

    Attributes:
        tokens: most tokens of the step.
        sequences: most sequences in the batch.
        target_seconds: of inter-token latency; 0 where there is none.
    """

    tokens: int
    sequences: int
    target_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of an engine, as it stood after the step was committed.

    Attributes:
        ended_seconds: `time.monotonic()` at its end.
        step_seconds: from its schedule to its commit; steps in flight at once may overlap.
        host_seconds: the host's part of it.
        device_seconds: the device's part of it.
        batch_size: sequences in the step.
        batch_tokens: tokens computed by the step.
        prefill_tokens: those of them that are parts of prompts.
        waiting: requests that hold no slot.
        blocks_total: free + held + idle ones.
        blocks_free: hold nothing.
        blocks_held: in use by running requests.
        blocks_idle: cached, but reclaimable.
        flops: operations that the step's maths needs.
        bytes_moved: bytes that it has to read and write.
        peak_flops_per_second: of the device for the dtype in use; 0 where unknown.
        peak_bytes_per_second: of the device's memory; 0 where unknown.
        bound: what set the step's length.
        predicted_seconds: what `step_seconds` was expected to be.
        headroom: how many more sequences the batch could take now.
        ridge: of decoding at the present mean context.
        allowance: what the step was allowed.
    """

    ended_seconds: float
    step_seconds: float
    host_seconds: float
    device_seconds: float
    batch_size: int
    batch_tokens: int
    prefill_tokens: int
    waiting: int
    blocks_total: int
    blocks_free: int
    blocks_held: int
    blocks_idle: int
    flops: float
    bytes_moved: float
    peak_flops_per_second: float
    peak_bytes_per_second: float
    bound: Resource
    predicted_seconds: float
    headroom: Headroom
    ridge: RidgeRecord
    allowance: StepAllowance


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, when nothing more will come of it.

    Attributes:
        outcome: `stop`, `length`, `cancelled`, `failed`, or the code of a refusal.
        queue_seconds: from receipt to its first step; None if it never had one.
        time_to_first_token_seconds: from receipt at the server; None if none came.
        request_seconds: from receipt to its end.
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens drawn.
        cached_tokens: tokens of the prompt found in the KV cache.
    """

    outcome: str
    queue_seconds: float | None
    time_to_first_token_seconds: float | None
    request_seconds: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TierRecord:
    """A tier below the device, as it stands; numbers of blocks, the last four since start.

    Attributes:
        name: "host" or "disk".
        blocks: it has room for.
        stored: that can be loaded.
        saved: that came from the device.
        loaded: that went back.
        not_saved: for want of room on the way, or because writing failed.
        not_loaded: that were gone, wrong, or too late.
        load_seconds: that reading took.
    """

    name: str
    blocks: int
    stored: int
    saved: int
    loaded: int
    not_saved: int
    not_loaded: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A prompt was admitted for the first time.

    Attributes:
        seconds: when.
        keys: of its full blocks, eight bytes each.
        hit_blocks: that did not have to be computed.
        load_seconds: that reading some of them from a tier took.
        block_seconds: that computing a prompt's first block takes.
        deeper_seconds: that a block takes longer than the one before it.
    """

    seconds: float
    keys: bytes
    hit_blocks: int
    load_seconds: float
    block_seconds: float
    deeper_seconds: float


@dataclass(frozen=True, slots=True)
class Saved:
    """Seconds of computing that the KV cache saved, and what else could have been.

    Attributes:
        span_seconds: how far back that goes.
        live: what was saved.
        others: what other ways would have saved: `lru` without tiers, `no tiers` with this policy.
        best: what was possible in the same room for one who knew the future; None if not known yet.
    """

    span_seconds: float
    live: float
    others: dict[str, float]
    best: float | None
