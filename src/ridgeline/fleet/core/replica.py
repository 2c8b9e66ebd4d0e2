"""What the front door knows of a replica: what it was told, and what it has sent there since."""

import math
from dataclasses import dataclass, field, replace

from ridgeline.fleet.core.breaker import Breaker

LEARNING = 0.1
"""Weight of the latest answer in what is learned of a replica's speed."""

SLOW_START_SECONDS = 20.0
"""A replica that has just come is given its full share after this long: its kernels, caches and
connections are cold."""

LEAST_STARTING = 2

LEAST_MEASURED_TOKENS = 64
"""Computing fewer tells no rate, but what there is to be waited for besides."""


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
        kv_tokens: that its KV blocks have room for; 0 where it does not tell.
        kv_promised: share that those who are there are expected to take yet; None where this does not tell.
    """

    seconds: float
    running: int
    slots: int
    waiting: int = 0
    kv_held: float = 0.0
    wait_seconds: float = 0.0
    kv_tokens: int = 0
    kv_promised: float | None = None


@dataclass(slots=True)
class Sent:
    """A request that is there, or on its way.

    Attributes:
        seconds: when it was sent.
        uncached_tokens: of its prompt, believed to be computed there.
        ahead_tokens: the same, and what was sent before and not computed yet.
        kv_tokens: that it will take beyond what is cached, as far as can be foretold.
        computing: its first token has not come.
        told: it is in the load that the replica told last.
    """

    seconds: float
    uncached_tokens: int
    kv_tokens: int
    computing: bool = True
    told: bool = False
    ahead_tokens: int = 0


@dataclass(slots=True)
class Replica:
    """One replica. Changed by `Door` alone.

    Attributes:
        id: of the replica.
        region, cluster: where it is.
        models: it serves.
        slots: sequences it takes at once; from its load, once that is known.
        prefill_tokens_per_second: learned from answers.
        base_seconds: to a first token where hardly anything is to be computed: a step, and the way through
            the server; learned.
        service_seconds: from the first token to the last, learned.
        state: cordoned and draining ones get nothing new.
        up_seconds: since when it is there.
        pending_tokens: sent there, and not computed yet.
        since: requests sent after it told its load last.
        since_kv_tokens: that those will hold.
        full_until: it has refused, for want of a place.
        reports: it tells what it has cached and evicted.
        tells_cached: its answers say how much of a prompt was cached.
    """

    id: str
    region: str
    cluster: str
    models: frozenset[str]
    slots: int
    prefill_tokens_per_second: float
    up_seconds: float
    service_seconds: float = 5.0
    base_seconds: float = 0.0
    state: str = "up"
    load: Load | None = None
    sent: dict[str, Sent] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker)
    pending_tokens: int = 0
    since: int = 0
    since_kv_tokens: int = 0
    full_until: float = -math.inf
    reports: bool = False
    tells_cached: bool = False

    @property
    def running(self) -> int:
        """Sequences believed to be there: those it told of, and those sent there since."""
        load = self.load
        if load is None:
            return len(self.sent)
        # Others may have sent some: what it told is more than what we know of. It never is less than ours.
        return max(load.running + load.waiting + self.since, len(self.sent))

    @property
    def kv_used_tokens(self) -> float:
        """Held by those it told of, or promised to them, and what those sent since will take; 0 where it does
        not tell."""
        load = self.load
        if load is None or not load.kv_tokens:
            return 0.0
        return (load.kv_held + (load.kv_promised or 0.0)) * load.kv_tokens + self.since_kv_tokens

    def places(self, now: float) -> int:
        """Sequences it takes at once now; fewer while it is new."""
        age = now - self.up_seconds
        if age >= SLOW_START_SECONDS:
            return self.slots
        return max(min(LEAST_STARTING, self.slots), int(self.slots * age / SLOW_START_SECONDS))

    def takes(self, model: str, now: float) -> bool:
        """Whether something may be sent there at all."""
        return self.state == "up" and model in self.models and self.breaker.allows(now)

    def tell(self, load: Load) -> None:
        """It told how it is: what was sent before is in that."""
        if load.kv_promised is None and self.load is not None:  # answers tell it, metrics do not
            load = replace(load, kv_promised=_left_promised(self.load, load))
        self.load, self.slots = load, load.slots
        for sent in self.sent.values():
            sent.told = sent.seconds <= load.seconds
        after = [sent for sent in self.sent.values() if not sent.told]
        self.since, self.since_kv_tokens = len(after), sum(sent.kv_tokens for sent in after)

    def add(self, request_id: str, sent: Sent) -> None:
        """A request is on its way there."""
        self.sent[request_id] = sent
        self.pending_tokens += sent.uncached_tokens
        sent.ahead_tokens = self.pending_tokens
        self.since += 1
        self.since_kv_tokens += sent.kv_tokens
        self.breaker.sent()

    def computed(self, request_id: str, seconds: float) -> None:
        """Its first token came, so long after it was sent, queue and round trip taken off."""
        sent = self.sent[request_id]
        self._computed(sent)
        # As predicted: what was there before is computed first.
        ahead, rate = sent.ahead_tokens, self.prefill_tokens_per_second
        if sent.uncached_tokens < LEAST_MEASURED_TOKENS:
            base = max(0.0, seconds - ahead / rate)
            self.base_seconds += LEARNING * (base - self.base_seconds)
        elif seconds > self.base_seconds:
            measured = ahead / (seconds - self.base_seconds)
            self.prefill_tokens_per_second += LEARNING * (measured - rate)

    def remove(self, request_id: str) -> None:
        """It is not there any more."""
        sent, load = self.sent.pop(request_id), self.load
        self._computed(sent)
        if load is None or not sent.told:
            self.since -= 1
            self.since_kv_tokens -= sent.kv_tokens
        else:
            freed = sent.kv_tokens / load.kv_tokens if load.kv_tokens else 0.0
            self.load = replace(
                load, running=max(0, load.running - 1), kv_held=max(0.0, load.kv_held - freed)
            )

    def _computed(self, sent: Sent) -> None:
        if sent.computing:
            sent.computing = False
            self.pending_tokens -= sent.uncached_tokens


def _left_promised(before: Load, now: Load) -> float | None:
    """Of the share of memory that was promised, what has not been taken since."""
    if before.kv_promised is None or not now.running + now.waiting:
        return None
    return max(0.0, before.kv_promised - max(0.0, now.kv_held - before.kv_held))
