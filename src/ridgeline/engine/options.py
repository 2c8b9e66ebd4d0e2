"""What an operator sets of an engine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of every engine of a process; None leaves the choice to the executor.

    Attributes:
        device: "cpu", or "simulated:NAME" for the roofline of a device of the catalogue.
        dtype: "auto", or a dtype the device can compute in.
        kv_memory_bytes: memory for KV blocks, per model. More keeps more conversations warm.
        max_batch: sequences in a step. More answers at once, each slower.
        max_batch_tokens: token budget of a step; see `Limits`.
        max_context_tokens: longest prompt plus answer; None means what the model was made for.
        max_waiting: requests that may wait before new ones are refused as `at_capacity`.
        threads: compute threads; None means one per physical core.
    """

    device: str = "cpu"
    dtype: str = "auto"
    kv_memory_bytes: int | None = None
    max_batch: int = 32
    max_batch_tokens: int = 256
    max_context_tokens: int | None = None
    max_waiting: int = 256
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_batch_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, it is {getattr(self, name)}")
        if self.max_batch_tokens < self.max_batch:
            raise ValueError(
                f"max_batch_tokens must be at least max_batch ({self.max_batch}), for every running "
                f"sequence takes one token of the budget; it is {self.max_batch_tokens}"
            )
