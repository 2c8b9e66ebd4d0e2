"""What an operator sets of an engine."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.engine.core.limits import MOST_DRAFTED

if TYPE_CHECKING:
    from ridgeline.models.files import ModelFiles

SIMULATED = "simulated:"

KV_POLICIES = ("price", "lru")

_CUDA = re.compile(r"cuda(?::(\d+))?")


def cuda_index(device: str) -> int | None:
    """Which GPU `cuda` or `cuda:N` names; None for other kinds of device."""
    found = _CUDA.fullmatch(device)
    return int(found[1] or 0) if found else None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve.

    Attributes:
        source: alias of the catalogue, path, `hf:org/name`; with `random_weights` the path of a
            config.json.
        name: what clients call it; None takes the model's own.
        random_weights: make weights up instead of reading them.
    """

    source: str
    name: str | None = None
    random_weights: bool = False

    def open(self) -> "ModelFiles":
        """Open the files; raises ModelError in one sentence."""
        from ridgeline.models.files import open_model, random_model

        return random_model(self.source) if self.random_weights else open_model(self.source)


@dataclass(frozen=True, slots=True)
class StepDefaults:
    """How large steps become where nothing else is asked for.

    Attributes:
        max_batch: sequences in a step.
        max_batch_tokens: tokens in a step.
        inter_token_seconds: target of the time between two tokens of an answer.
    """

    max_batch: int
    max_batch_tokens: int
    inter_token_seconds: float


ON_CPU = StepDefaults(max_batch=64, max_batch_tokens=1024, inter_token_seconds=0.1)
ON_GPU = StepDefaults(max_batch=256, max_batch_tokens=8192, inter_token_seconds=0.05)
"""A GPU takes as long for one token as for some 150 to 420, its ridge point in bfloat16: small steps
waste it. Simulated devices are GPUs too."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of every engine of a process; None leaves the choice to the executor.

    Attributes:
        device: "cpu", "cuda" or "cuda:N" for a GPU, or "simulated:NAME" for the roofline of a device
            of the catalogue.
        dtype: "auto", or a dtype the device can compute in.
        kv_dtype: "auto", or what K and V are stored in. Fewer bytes hold more conversations and are read
            faster; what that loses is told in docs/benchmarks/cpu.md and docs/guides/gpu.md.
        kv_memory_bytes: memory for KV blocks, per model. More keeps more conversations warm.
        kv_policy: which idle KV block goes first: "price", worth least in expected seconds, or "lru".
        kv_host_bytes: memory of the host for copies of KV blocks, per model; 0: none.
        kv_disk_bytes: of files with copies of KV blocks, per model; 0: none.
        kv_disk_folder: where those files are.
        shared_prefixes: system prompts whose KV all keys' owners share. Nothing else is shared between
            them: whoever could measure what is cached would learn what another has typed.
        max_batch: sequences in a step. More answers at once, each slower. None is the device's
            default; `sequences` tells what holds.
        max_batch_tokens: token budget of a step; see `Limits`. None is the device's default;
            `tokens` tells what holds.
        max_context_tokens: longest prompt plus answer; None means what the model was made for.
        inter_token_seconds: target of the time between two tokens of an answer, which steps are made
            to keep; 0: every step may be as large as allowed. None is the device's default.
        max_waiting: requests that may wait before new ones are refused as `at_capacity`.
        draft_tokens: most tokens of an answer that are guessed and computed in advance, where few answers
            are written at once; 0: none. See `core.drafting`; on the CPU only.
        threads: compute threads; None means one per physical core.
    """

    device: str = "cpu"
    dtype: str = "auto"
    kv_dtype: str = "auto"
    kv_memory_bytes: int | None = None
    kv_policy: str = "price"
    kv_host_bytes: int = 0
    kv_disk_bytes: int = 0
    kv_disk_folder: str | None = None
    shared_prefixes: tuple[str, ...] = ()
    max_batch: int | None = None
    max_batch_tokens: int | None = None
    max_context_tokens: int | None = None
    inter_token_seconds: float | None = None
    max_waiting: int = 256
    draft_tokens: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        held = {"max_batch": self.sequences, "max_batch_tokens": self.tokens, "max_waiting": self.max_waiting}
        for name, value in held.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, it is {value}")
        if self.kv_policy not in KV_POLICIES:
            raise ValueError(f"kv_policy {self.kv_policy!r} is unknown; there are {', '.join(KV_POLICIES)}")
        if not 0 <= self.draft_tokens < MOST_DRAFTED:
            raise ValueError(f"draft_tokens must be from 0 to {MOST_DRAFTED - 1}, it is {self.draft_tokens}")
        if self.draft_tokens and self.device != "cpu":
            raise ValueError(
                f"draft_tokens is {self.draft_tokens}, but on {self.device} a step begins before the one "
                "before it has ended, and nothing can be guessed: it must be 0"
            )
        if self.target_seconds < 0:
            raise ValueError(f"inter_token_seconds must be at least 0, it is {self.target_seconds}")
        if self.tokens < self.sequences:
            raise ValueError(
                f"max_batch_tokens must be at least max_batch ({self.sequences}), for every running "
                f"sequence takes one token of the budget; it is {self.tokens}"
            )

    @property
    def sequences(self) -> int:
        """Most sequences in a step."""
        return self._defaults.max_batch if self.max_batch is None else self.max_batch

    @property
    def tokens(self) -> int:
        """Most tokens in a step."""
        return self._defaults.max_batch_tokens if self.max_batch_tokens is None else self.max_batch_tokens

    @property
    def target_seconds(self) -> float:
        """Target of inter-token latency; 0 for none."""
        asked = self.inter_token_seconds
        return self._defaults.inter_token_seconds if asked is None else asked

    @property
    def _defaults(self) -> StepDefaults:
        return ON_CPU if self.device == "cpu" else ON_GPU
