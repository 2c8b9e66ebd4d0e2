"""What the front door knows of a replica: what it was told, and what it has sent there since."""

from dataclasses import dataclass, field

from ridgeline.fleet.core.breaker import Breaker

LEARNING = 0.1
"""Weight of the latest answer in what is learned of a replica's speed."""

SLOW_START_SECONDS = 20.0
"""A replica that has just come is given its full share after this long: its kernels, caches and
connections are cold."""

LEAST_STARTING = 2


@dataclass(frozen=True, slots=True)
class Load:
    """As the replica told it.

    Attributes:
        seconds: when.
        running: sequences in its batch.
        slots: most of them.
        waiting: in its own line.
        kv_held: share of its KV blocks that running sequences hold.
        wait_seconds: what it promises to one who comes now.
    """

    seconds: float
    running: int
    slots: int
    waiting: int = 0
    kv_held: float = 0.0
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that is there, or on its way."""

    seconds: float
    uncached_tokens: int
    prompt_tokens: int


@dataclass(slots=True)
class Replica:
    """One replica. Changed by `Door` alone.

    Attributes:
        id: of the replica.
        region, cluster: where it is.
        models: it serves.
        slots: sequences it takes at once; from its load, once that is known.
        prefill_tokens_per_second: learned from answers.
        service_seconds: from the first token to the last, learned.
        state: cordoned and draining ones get nothing new.
        up_seconds: since when it is there.
    """

    id: str
    region: str
    cluster: str
    models: frozenset[str]
    slots: int
    prefill_tokens_per_second: float
    up_seconds: float
    service_seconds: float = 5.0
    state: str = "up"
    load: Load | None = None
    sent: dict[str, Sent] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker)

    @property
    def running(self) -> int:
        """Sequences believed to be there: those it told of, and those sent there since."""
        load = self.load
        if load is None:
            return len(self.sent)
        since = sum(1 for sent in self.sent.values() if sent.seconds > load.seconds)
        # Others may have sent some: what it told is more than what we know of. It never is less than ours.
        return max(load.running + load.waiting + since, len(self.sent))

    def places(self, now: float) -> int:
        """Sequences it takes at once now; fewer while it is new."""
        age = now - self.up_seconds
        if age >= SLOW_START_SECONDS:
            return self.slots
        return max(min(LEAST_STARTING, self.slots), int(self.slots * age / SLOW_START_SECONDS))

    def takes(self, model: str, now: float) -> bool:
        """Whether something may be sent there at all."""
        return self.state == "up" and model in self.models and self.breaker.allows(now)

    def learn(self, sent: Sent, first_token_seconds: float) -> None:
        """An answer began so long after it was sent, round trip and queue taken off."""
        if sent.uncached_tokens < 64 or first_token_seconds <= 0:
            return  # too little to tell a rate from
        rate = sent.uncached_tokens / first_token_seconds
        self.prefill_tokens_per_second += LEARNING * (rate - self.prefill_tokens_per_second)
