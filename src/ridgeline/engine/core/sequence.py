"""One answer in the making: counters, not phases."""

from dataclasses import dataclass, field
from typing import NamedTuple

from ridgeline.engine.core.forecast import Forecast
from ridgeline.engine.core.pace import Allowance
from ridgeline.kvcache import Label
from ridgeline.protocol import Sampling
from ridgeline.protocol.timeline import WaitReason


class Mark(NamedTuple):
    """A front door's key of a text, and how many tokens of the sequence that text has, about."""

    end_tokens: int
    key: bytes


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """What the engine is asked to continue; a message, so plain data only.

    Attributes:
        id: unique among the sequences the engine knows.
        prompt: token ids, at least one.
        sampling: with `seed` set.
        max_tokens: at most this many new tokens, at least 0 (0 only scores the prompt).
        stop_token_ids: end the answer (the model's end tokens among them unless ignored).
        min_tokens: none of `stop_token_ids` is drawn before this many.
        priority: smaller is served first.
        tenant: salt of the KV cache and unit of fairness.
        cache_salt: a further salt within the tenant.
        begin_at_once: refuse it rather than let it wait for a slot or for memory.
        marks: where front doors' keys of the prompt end, in order; none where it came from elsewhere.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    begin_at_once: bool = False
    marks: tuple[Mark, ...] = ()


@dataclass(slots=True)
class Prefill:
    """Tokens from `first` on are being computed, in `steps` steps so far."""

    first: int
    since_seconds: float
    steps: int = 0


@dataclass(slots=True)
class Story:
    """What the journal has to remember of a sequence between two events.

    It has waited for `why` since `since`, before that for what `waited` says; `declined` is what was
    not loaded, by tier and tokens.
    """

    why: WaitReason = "line"
    since: float = 0.0
    waited: dict[WaitReason, float] = field(default_factory=dict)
    declined: tuple[str, int] | None = None

    def wait_for(self, why: WaitReason, now: float) -> None:
        """From now on it waits for something else."""
        self.waited[self.why] = self.waited.get(self.why, 0.0) + now - self.since
        self.why, self.since = why, now


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence the scheduler knows, waiting or running.

        | prompt ............... | generated ..... | drawing (in flight, value not known yet)
        | cached | computed .... | scheduled | to compute
        0        (in the KV cache)  (launched)

    `cached` tokens of the KV were found at admission, `computed` ones are written, `scheduled`
    ones belong to launched steps. A sequence is decoding when one token is left to compute.

    Further: `drawing` tokens are being sampled in flight; `order` is that of arrival; `epoch` tells
    a step launched before a preemption from one after it; `reached` is the most that was ever
    computed; of `blocks` the executor was told `told_blocks`, and `published` are findable;
    `announced` keys are those it is about to publish; `scored` prompt positions were reported;
    `forecast` is what was foretold at its arrival, until it has a first token; `loads` were begun
    from tiers below the device, which gave `reloaded` blocks each in `load_seconds`; `prefill` is there
    from admission until all is computed that was known then; its `story` is the journal's; `labels`
    end in its blocks, by their index.
    """

    spec: SequenceSpec
    arrived_seconds: float
    tokens: list[int]
    cached: int = 0
    computed: int = 0
    scheduled: int = 0
    drawing: int = 0
    slot: int | None = None
    order: int = 0
    epoch: int = 0
    preemptions: int = 0
    reached: int = 0
    admitted_seconds: float | None = None
    first_token_seconds: float | None = None
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    announced: list[bytes] = field(default_factory=list)
    published: int = 0
    told_blocks: int = 0
    scored: int = 0
    forecast: Forecast | None = None
    loads: int = 0
    reloaded: dict[str, int] = field(default_factory=dict)
    load_seconds: float = 0.0
    prefill: Prefill | None = None
    story: Story = field(default_factory=Story)
    labels: dict[int, list[Label]] = field(default_factory=dict)

    @property
    def generated(self) -> int:
        """Tokens drawn and collected."""
        return len(self.tokens) - len(self.spec.prompt)

    @property
    def next_position(self) -> int:
        """Position of the first token that no launched step computes."""
        return self.computed + self.scheduled

    @property
    def remaining(self) -> int:
        """Tokens known, or being drawn, whose KV no launched step computes."""
        return len(self.tokens) + self.drawing - self.next_position

    @property
    def wants_more(self) -> bool:
        """Whether another step is needed: something to score, or tokens still to draw."""
        if self.spec.max_tokens == 0:
            return self.next_position < len(self.spec.prompt)
        return self.generated + self.drawing < self.spec.max_tokens and self.remaining > 0

    @property
    def queue_seconds(self) -> float | None:
        """From arrival to first admission; None while never admitted."""
        return None if self.admitted_seconds is None else self.admitted_seconds - self.arrived_seconds

    @property
    def scores_prompt(self) -> bool:
        """Whether prompt positions need logits, which a cached prefix cannot give."""
        return self.spec.sampling.prompt_logprobs is not None


@dataclass(frozen=True, slots=True)
class LaunchedRow:
    """What commit must remember of a row: the sequence as it was when the step was launched."""

    sequence: Sequence
    epoch: int
    start: int
    count: int
    sampled: bool
    drafts: int = 0


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that is not committed yet: when it was planned, its rows in the plan's order, its limits."""

    launched_seconds: float
    rows: tuple[LaunchedRow, ...]
    allowance: Allowance
