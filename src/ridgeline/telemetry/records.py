"""What the engine reports to telemetry: a step, and a finished request."""

from dataclasses import dataclass
from typing import Literal, get_args

Resource = Literal["compute", "memory_bandwidth", "kv_capacity", "host", "launch", "link", "idle"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)


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
        headroom_sequences: how many more sequences the batch could take now.
    """

    ended_seconds: float
    step_seconds: float
    host_seconds: float
    device_seconds: float
    batch_size: int
    batch_tokens: int
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
    headroom_sequences: int


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
