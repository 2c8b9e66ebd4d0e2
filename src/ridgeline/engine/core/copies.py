"""Copies between the device and the tiers below it: what to order, and what became of it.

The scheduler decides, the engine carries out. Orders are taken before the next step is launched,
so that what is saved is still there and what is restored is there in time; reading and writing the
tiers itself goes on beside the steps, and its end comes back as a message.

    sequence leaves  -> Save  -> (device to host at once) ... written ...  -> Stored
    prompt arrives   -> Load  -> ... read ...  -> Fetched -> Restore (host to device at once)
"""

from dataclasses import dataclass, field
from typing import Any

from ridgeline.engine.core.journal import Journal
from ridgeline.engine.core.sequence import Sequence
from ridgeline.kvcache import KVCache, TierLedger, Tiers
from ridgeline.protocol.timeline import LoadTrouble

GIVEN_UP_AFTER = 5.0
"""A load that takes this many times as long as expected is not waited for any longer ..."""

LEAST_PATIENCE_SECONDS = 0.25
"""... but for at least this long."""

MOST_LOADS = 4
"""Of one sequence; what it lacks then is computed. They end early in practice: a load takes a whole
run of blocks."""


@dataclass(frozen=True, slots=True)
class Save:
    """Copy these blocks out of the device now, and write them into the tier in good time."""

    tier: str
    blocks: tuple[int, ...]
    keys: tuple[bytes, ...]
    tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """The tier may forget these."""

    tier: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Read these from the tier; answered by `Fetched` with the same ticket."""

    ticket: int
    tier: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Restore:
    """Write these contents into these blocks of the device now."""

    blocks: tuple[int, ...]
    contents: tuple[Any, ...]


Order = Save | Drop | Load | Restore


@dataclass(frozen=True, slots=True)
class Stored:
    """A `Save` came to its end. Keys that are in neither list were dropped on the way."""

    tier: str
    keys: tuple[bytes, ...]
    failed: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A block as it comes out of a tier: whose it is, by its tokens, and what the device made of it."""

    tokens: tuple[int, ...]
    content: Any


@dataclass(frozen=True, slots=True)
class Fetched:
    """A `Load` came to its end: a record for each key, None from the first that was not there."""

    ticket: int
    records: tuple[Record | None, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Discovered:
    """Keys that a tier kept from an earlier life of the server, oldest first."""

    tier: str
    keys: tuple[bytes, ...]


Moved = Stored | Fetched | Discovered


@dataclass(slots=True)
class _Loading:
    sequence: Sequence
    tier: str
    keys: tuple[bytes, ...]
    first: int
    """Index of the first block in the chain."""
    begun: float
    expected_seconds: float
    deadline: float


@dataclass(slots=True)
class CopyCounters:
    """Totals of one tier since start, in blocks."""

    saved: int = 0
    loaded: int = 0
    not_saved: int = 0
    """No room in what is on its way, or it could not be written."""
    not_loaded: int = 0
    """Gone, wrong, or too late."""
    load_seconds: float = 0.0


@dataclass(slots=True)
class Copies:
    """The scheduler's hand on the tiers.

    Attributes:
        cache: the device's ledger.
        tiers: the ledgers below it.
        most_on_the_way: blocks that may be on their way into tiers; more are not saved.
        orders: not yet taken.
        journal: is told of loads.
    """

    cache: KVCache
    tiers: Tiers
    most_on_the_way: int
    orders: list[Order] = field(default_factory=list)
    journal: Journal = field(default_factory=Journal)
    counters: dict[str, CopyCounters] = field(default_factory=dict)
    _loading: dict[int, _Loading] = field(default_factory=dict)
    _ticket_of: dict[str, int] = field(default_factory=dict)
    _given_up: set[int] = field(default_factory=set)
    on_the_way: int = 0
    """Blocks on their way into tiers now."""
    _ticket: int = 0
    _ledgers: dict[str, TierLedger] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ledgers = {ledger.name: ledger for ledger in self.tiers.ledgers}
        self.counters = {name: CopyCounters() for name in self._ledgers}

    def take_orders(self) -> list[Order]:
        """What is to be carried out before anything else; the list is cleared."""
        orders, self.orders = self.orders, []
        return orders

    # --- out of the device -----------------------------------------------------------------------

    def save(self, sequence: Sequence, now: float) -> None:
        """A sequence is about to let go of its blocks: order copies of those worth it.

        What does not find a place among those on their way is not saved: a tier that is too slow
        loses copies, and nobody waits for it.
        """
        keys = sequence.keys[: sequence.published]
        for ledger in self.tiers.ledgers:
            ledger.touch(keys, now)
        size = self.cache.block_size
        for ledger, run in self.tiers.wanting(keys):
            room = max(0, self.most_on_the_way - self.on_the_way)
            taken = run[:room]
            dropped = ledger.begin([keys[i] for i in taken], run.start, now)
            if dropped:
                self.orders.append(Drop(ledger.name, tuple(dropped)))
            # A block that another sequence published under the same key is as good, and findable.
            held = [(i, self.cache.block_of(keys[i])) for i in taken if ledger.has(keys[i])]
            begun = [(i, block) for i, block in held if block is not None]
            lost = [keys[i] for i, block in held if block is None]
            ledger.not_stored(lost)
            self.counters[ledger.name].not_saved += len(run) - len(begun)
            if not begun:
                continue
            self.on_the_way += len(begun)
            tokens = tuple(tuple(sequence.tokens[i * size : (i + 1) * size]) for i, _ in begun)
            blocks = tuple(block for _, block in begun)
            self.orders.append(Save(ledger.name, blocks, tuple(keys[i] for i, _ in begun), tokens))
            self.journal.saved(sequence, ledger.name, len(begun), now)

    def seconds_to_return(self, sequence: Sequence) -> float:
        """What preempting it would cost."""
        return self.tiers.seconds_to_return(sequence.keys[: sequence.published], sequence.computed)

    # --- into the device -------------------------------------------------------------------------

    def is_loading(self, sequence: Sequence, now: float) -> bool:
        """Whether blocks of this sequence are on their way into the device, and not overdue."""
        ticket = self._ticket_of.get(sequence.spec.id)
        if ticket is None:
            return False
        loading = self._loading[ticket]
        if now < loading.deadline:
            return True
        self._give_up(ticket)
        self.counters[loading.tier].not_loaded += len(loading.keys)
        sequence.loads = MOST_LOADS
        self._tell(loading, 0, now - loading.begun, "late", now)
        return False

    def load(self, sequence: Sequence, matched: int, now: float) -> bool:
        """Begin to load what the device lacks of this sequence, where that pays; whether it was.

        Args:
            sequence: without a slot, and nothing is loading for it.
            matched: blocks that the device has.
            now: the time.
        """
        if sequence.scores_prompt or sequence.loads >= MOST_LOADS:
            return False
        end = (len(sequence.tokens) - 1) // self.cache.block_size
        found = self.tiers.find(sequence.keys, matched, end)
        if found is None:
            self._tell_slower(sequence, now)
            return False
        sequence.loads += 1
        self._ticket += 1
        patience = max(LEAST_PATIENCE_SECONDS, GIVEN_UP_AFTER * found.seconds)
        loading = _Loading(sequence, found.tier.name, found.keys, matched, now, found.seconds, now + patience)
        self._loading[self._ticket] = loading
        self._ticket_of[sequence.spec.id] = self._ticket
        self.cache.announce(found.keys)  # others that begin alike wait for it, too
        self.orders.append(Load(self._ticket, found.tier.name, found.keys))
        tokens = len(found.keys) * self.cache.block_size
        self.journal.load_begun(sequence, found.tier.name, tokens, found.seconds, now)
        return True

    def _tell_slower(self, sequence: Sequence, now: float) -> None:
        if self.tiers.slower is not None:
            found, again = self.tiers.slower
            tokens = len(found.keys) * self.cache.block_size
            self.journal.not_loaded(sequence, found.tier.name, tokens, (found.seconds, again), now)

    def _tell(
        self, loading: _Loading, came: int, seconds: float, why: LoadTrouble | None, now: float
    ) -> None:
        size = self.cache.block_size
        tokens = (came * size, (len(loading.keys) - came) * size)
        took = (loading.expected_seconds, seconds)
        self.journal.loaded(loading.sequence, loading.tier, tokens, took, why, now)

    def next_deadline(self) -> float | None:
        """When the first of those that wait stops waiting; None if nobody does."""
        return min((loading.deadline for loading in self._loading.values()), default=None)

    def leave(self, sequence: Sequence) -> None:
        """It is over: what is on its way to it is not wanted any more."""
        ticket = self._ticket_of.get(sequence.spec.id)
        if ticket is not None:
            self._give_up(ticket)

    def _give_up(self, ticket: int) -> None:
        self._end_loading(ticket)
        self._given_up.add(ticket)

    def _end_loading(self, ticket: int) -> _Loading:
        loading = self._loading.pop(ticket)
        del self._ticket_of[loading.sequence.spec.id]
        self.cache.retract(loading.keys)
        return loading

    # --- what became of it -----------------------------------------------------------------------

    def moved(self, message: Moved, now: float) -> None:
        """Take an answer of the tiers; may order something."""
        if isinstance(message, Fetched):
            self._fetched(message, now)
            return
        ledger = self._ledgers[message.tier]
        if isinstance(message, Discovered):
            surplus = ledger.found(message.keys, now)
            if surplus:
                self.orders.append(Drop(message.tier, tuple(surplus)))
            return
        self.on_the_way -= len(message.keys) + len(message.failed)
        ledger.stored_now(reversed(message.keys), now)
        ledger.not_stored(message.failed)
        self.counters[message.tier].saved += len(message.keys)
        self.counters[message.tier].not_saved += len(message.failed)

    def _fetched(self, message: Fetched, now: float) -> None:
        if message.ticket in self._given_up:
            self._given_up.remove(message.ticket)
            return
        loading = self._end_loading(message.ticket)
        sequence = loading.sequence
        ledger, counters = self._ledgers[loading.tier], self.counters[loading.tier]
        good = self._good_records(loading, message)
        counters.load_seconds += message.seconds
        sequence.load_seconds += message.seconds
        if good:
            ledger.load_time.observe(len(message.records), message.seconds)
        if len(good) < len(loading.keys):
            ledger.not_stored(loading.keys[len(good) :])
        ledger.touch(loading.keys[: len(good)], now)
        restored, why = self._restore(loading, good, now)
        sequence.reloaded[loading.tier] = sequence.reloaded.get(loading.tier, 0) + restored
        counters.loaded += restored
        counters.not_loaded += len(loading.keys) - restored
        self._tell(loading, restored, message.seconds, why, now)

    def _good_records(self, loading: _Loading, message: Fetched) -> list[Record]:
        """Those before the first that is not there or is not what its key promised."""
        size, tokens = self.cache.block_size, loading.sequence.tokens
        good = []
        for i, record in enumerate(message.records, loading.first):
            if record is None or record.tokens != tuple(tokens[i * size : (i + 1) * size]):
                break
            good.append(record)
        return good

    def _restore(
        self, loading: _Loading, records: list[Record], now: float
    ) -> tuple[int, LoadTrouble | None]:
        """Put them into the device's cache as far as there is room; how many, and why not all."""
        sequence, first = loading.sequence, loading.first
        present = self.cache.match(sequence.keys, sequence.tokens).blocks
        if len(present) < first:  # what comes before was evicted meanwhile: nobody could find these
            return 0, "beginning_evicted"
        # Another sequence may have computed some of them.
        wanted = [(i, record) for i, record in enumerate(records, first) if i >= len(present)]
        self.cache.hold(present)
        why: LoadTrouble | None = "lost" if len(records) < len(loading.keys) else None
        if len(wanted) > self.cache.available:
            wanted, why = wanted[: self.cache.available], "no_room"
        spec = sequence.spec
        blocks = self.cache.allocate(len(wanted), now, spec.id, spec.tenant)
        for block, (i, record) in zip(blocks, wanted, strict=True):
            parent = sequence.keys[i - 1] if i else None
            self.cache.publish(block, sequence.keys[i], record.tokens, i, parent)
        if blocks:
            contents = tuple(record.content for _, record in wanted)
            self.orders.append(Restore(tuple(blocks), contents))
        self.cache.release([*present, *blocks], now)
        return len(blocks), why

    def told(self) -> list[tuple[TierLedger, CopyCounters]]:
        """Each tier, and what was moved."""
        return [(ledger, self.counters[ledger.name]) for ledger in self.tiers.ledgers]

    def check(self) -> None:
        """Prove what must hold between any two calls."""
        self.tiers.check()
        assert self.on_the_way >= 0, "more copies came to an end than were ordered"
        assert {loading.sequence.spec.id for loading in self._loading.values()} == set(self._ticket_of)
