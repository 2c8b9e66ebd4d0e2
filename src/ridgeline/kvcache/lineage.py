"""Which request continues which: conversations, told from nothing but the keys of prompts.

Of each prompt a few keys are remembered, *anchors*: its last one, those 1, 3, 7, 15, ... before it, and
the first one that no earlier prompt of the conversation had. They outlive the blocks, so that a
conversation is known again after it was evicted.

    first prompt    0 1 2 3 4 5 6 7                   anchors 0 4 6 7
    second prompt   0 1 2 3 4 5 6 7 8 9               its deepest anchor that is known is 7, the end
                                                      of the first prompt, which it continues
    another one     0 1 2 3 4 x y z                   4, within a first prompt: another conversation.
                                                      What lies before it is shared

A prompt's blocks are waited for in up to three parts, for they are not equally likely to come back:
what is shared, what earlier prompts of the conversation had too (its history), and what is new. New
text is often not carried on: search results and pasted pages leave a prompt with the next turn.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from ridgeline.kvcache.gaps import Gaps, Wait
from ridgeline.kvcache.kinds import LEFT, SHARED, history_kind, new_kind

_TAIL = 2
"""Whoever has all of a prompt but its last blocks, fewer than this, continues it: templates end a
prompt with words that the next one has not."""


class Shared(Wait):
    """The first `blocks` blocks of several conversations; `shared`: a shorter prefix of still more."""

    __slots__ = ("anchors", "blocks", "shared")

    def __init__(self, blocks: int, shared: "Shared | None") -> None:
        super().__init__(SHARED)
        self.blocks = blocks
        self.shared = shared
        self.anchors: list[Hashable] = []


class Conversation:
    """Requests that continue one another.

    Attributes:
        turns: requests so far.
        own: blocks of the last prompt that were in an earlier one.
        blocks: full blocks of the last prompt.
        shared: the longest prefix that other conversations have too, if there is one.
        history: the wait for blocks before `own` that are not shared.
        new: the wait for blocks from `own` on, and for those of the answer.
        anchors: its keys that are remembered.
    """

    __slots__ = ("anchors", "blocks", "history", "new", "own", "shared", "turns")

    def __init__(self, own: int, blocks: int, shared: Shared | None) -> None:
        self.turns = 1
        self.own = own
        self.blocks = blocks
        self.shared = shared
        self.history = Wait()
        self.new = Wait()
        self.anchors: list[Hashable] = []


class Lineage:
    """Remembers conversations until they have `remembered` anchors; forgets those longest silent.

    Args:
        gaps: is told when waits end.
        block_tokens: of a block.
        remembered: anchors; each takes some 200 bytes.
        on_kind: is told of a wait whose kind has changed.
    """

    def __init__(
        self, gaps: Gaps, block_tokens: int, remembered: int, on_kind: Callable[[Wait], None]
    ) -> None:
        self._gaps = gaps
        self._block_tokens = block_tokens
        self._remembered = remembered
        self._on_kind = on_kind
        self._anchors: dict[Hashable, tuple[Conversation | Shared, int, bool]] = {}
        self._known: OrderedDict[Conversation | Shared, None] = OrderedDict()

    def find(self, keys: Sequence[Hashable]) -> Conversation | Shared | None:
        """Whose blocks these are: by the deepest of the keys that is an anchor."""
        anchors = self._anchors
        for key in reversed(keys):
            if key in anchors:
                return anchors[key][0]
        return None

    def arrive(self, keys: Sequence[Hashable], now: float) -> None:
        """A request came whose prompt has full blocks with these keys."""
        for key in reversed(keys):
            if key in self._anchors:
                before, position, is_end = self._anchors[key]
                break
        else:
            self._begin(keys, None, now)
            return
        if isinstance(before, Shared):
            self._begin(keys, before, now)
        elif is_end:
            self._continue(before, keys, position, now)
        else:
            self._begin(keys, self._branch(before, position, key), now)

    def _begin(self, keys: Sequence[Hashable], shared: Shared | None, now: float) -> None:
        """The first request of a conversation."""
        if not keys:
            return
        own = shared.blocks if shared else 0
        conversation = Conversation(own, len(keys), shared)
        conversation.new.kind = new_kind(1, (len(keys) - own) * self._block_tokens)
        self._want_shared(shared, now)
        self._remember(conversation, keys, own)

    def _continue(
        self, conversation: Conversation, keys: Sequence[Hashable], position: int, now: float
    ) -> None:
        """A request that has an earlier prompt of the conversation at its beginning."""
        old = conversation.history, conversation.new
        gap = now - conversation.new.since_seconds
        if conversation.history.is_open:
            self._gaps.end(conversation.history, now)
        carried_on = position > conversation.blocks - 1 - _TAIL
        if conversation.new.is_open and carried_on:
            self._gaps.end(conversation.new, now)
        self._want_shared(conversation.shared, now)
        if position + 1 < len(keys) or len(keys) != conversation.blocks:
            conversation.turns += 1
            conversation.own = position + 1
            conversation.blocks = len(keys)
        tokens = (len(keys) - conversation.own) * self._block_tokens
        conversation.history = Wait(history_kind(conversation.turns, gap))
        conversation.new = Wait(new_kind(conversation.turns, tokens))
        for wait in old:  # what of them the request does not take stays behind
            self._gaps.forget(wait)
            wait.kind = LEFT
            self._on_kind(wait)
        self._remember(conversation, keys, conversation.own)

    def _branch(self, before: Conversation, position: int, key: Hashable) -> Shared:
        """Another conversation has a part of the first prompt of this one, up to an anchor."""
        shared = Shared(position + 1, before.shared)
        shared.anchors.append(key)
        self._anchors[key] = shared, position, False
        if before.turns == 1:
            before.own = position + 1
            before.shared = shared
        return shared

    def _want_shared(self, shared: Shared | None, now: float) -> None:
        while shared is not None:
            if shared.is_open:
                self._gaps.end(shared, now)
            if shared.anchors:
                self._known[shared] = None
                self._known.move_to_end(shared)
            shared = shared.shared

    def _remember(self, conversation: Conversation, keys: Sequence[Hashable], own: int) -> None:
        length = len(keys)
        back = 1
        positions = []
        while length - back > own:
            positions.append(length - back)
            back *= 2
        if own < length:
            positions.append(own)
        for position in positions:
            is_end = conversation.turns > 1 or position > length - 1 - _TAIL
            self._anchors[keys[position]] = conversation, position, is_end
            conversation.anchors.append(keys[position])
        self._known[conversation] = None
        self._known.move_to_end(conversation)
        while len(self._anchors) > self._remembered:
            old, _ = self._known.popitem(last=False)
            self._drop(old)

    def _drop(self, old: Conversation | Shared) -> None:
        for key in old.anchors:
            if key in self._anchors and self._anchors[key][0] is old:
                del self._anchors[key]
        old.anchors = []
        if isinstance(old, Conversation):
            self._gaps.forget(old.history)
            self._gaps.forget(old.new)
        else:
            self._gaps.forget(old)
