"""Which request continues which: conversations, told from nothing but the keys of prompts.

Of each prompt a few keys are remembered, *anchors*: of what no earlier prompt of the conversation had,
the blocks 1, 2, 4, 8, ... from its begin and from its end. They outlive the blocks, so that a
conversation is known again after it was evicted.

    first prompt    0 1 2 3 4 5 6 7                   anchors 0 1 3 4 6 7
    second prompt   0 1 2 3 4 5 6 7 8 9               its deepest anchor that is known is 7, the end
                                                      of the first prompt, which it continues
    another one     0 1 2 3 4 x y z                   4, within a first prompt: another conversation.
                                                      What lies before it is shared

A prompt's blocks are waited for in parts, for they are not equally likely to come back: what is
shared, what earlier prompts of the conversation had too (its history), and pieces of what is new.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from ridgeline.kvcache.gaps import Gaps, Wait
from ridgeline.kvcache.kinds import CUTS_TOKENS, LEFT, SHARED, history_kind, new_kind

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


class Piece(Wait):
    """Blocks of a prompt from `begin` to `end`, which no earlier one of its conversation had."""

    __slots__ = ("begin", "end")

    def __init__(self, kind: int, begin: int, end: int) -> None:
        super().__init__(kind)
        self.begin = begin
        self.end = end


class Conversation:
    """Requests that continue one another.

    Attributes:
        turns: requests so far.
        own: blocks of the last prompt that were in an earlier one.
        blocks: full blocks of the last prompt.
        shared: the longest prefix that other conversations have too, if there is one.
        history: the wait for blocks before `own` that are not shared.
        pieces: the waits for blocks from `own` on; the last one is also for those of the answer.
        anchors: its keys that are remembered.
    """

    __slots__ = ("anchors", "blocks", "history", "own", "pieces", "shared", "turns")

    def __init__(self, own: int, blocks: int, shared: Shared | None) -> None:
        self.turns = 1
        self.own = own
        self.blocks = blocks
        self.shared = shared
        self.history = Wait()
        self.pieces: list[Piece] = []
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
            self._begin(keys, self._branch(before, position, key, now), now)

    def _begin(self, keys: Sequence[Hashable], shared: Shared | None, now: float) -> None:
        """The first request of a conversation."""
        if not keys:
            return
        conversation = Conversation(shared.blocks if shared else 0, len(keys), shared)
        conversation.pieces = self._pieces(conversation)
        self._want_shared(shared, now)
        self._remember(conversation, keys)

    def _continue(
        self, conversation: Conversation, keys: Sequence[Hashable], position: int, now: float
    ) -> None:
        """A request that has an earlier prompt of the conversation at its beginning."""
        old: list[Wait] = [conversation.history, *conversation.pieces]
        gap = now - max(wait.since_seconds for wait in old)
        if conversation.history.is_open:
            self._gaps.end(conversation.history, now)
        self._want_pieces(conversation, position, now)
        self._want_shared(conversation.shared, now)
        if position + 1 < len(keys) or len(keys) != conversation.blocks:
            conversation.turns += 1
            conversation.own = position + 1
            conversation.blocks = len(keys)
        conversation.history = Wait(history_kind(conversation.turns, gap))
        conversation.pieces = self._pieces(conversation)
        for wait in old:
            self._leave(wait)
        self._remember(conversation, keys)

    def _branch(self, before: Conversation, position: int, key: Hashable, now: float) -> Shared:
        """Another conversation has a part of the first prompt of this one, up to an anchor."""
        shared = Shared(position + 1, before.shared)
        shared.anchors.append(key)
        self._anchors[key] = shared, position, False
        if before.turns == 1:
            self._want_pieces(before, position, now)
            for piece in before.pieces:
                if not piece.is_open:
                    self._leave(piece)
            before.pieces = [piece for piece in before.pieces if piece.kind != LEFT]
            before.own = shared.blocks
            before.shared = shared
        return shared

    def _leave(self, wait: Wait) -> None:
        """Blocks of it that the present request does not take stay behind."""
        self._gaps.forget(wait)
        wait.kind = LEFT
        self._on_kind(wait)

    def _pieces(self, conversation: Conversation) -> list[Piece]:
        """What is new in the last prompt, cut at the distances of `CUTS_TOKENS`."""
        own, end = conversation.own, conversation.blocks
        cuts = [own + max(1, cut // self._block_tokens) for cut in CUTS_TOKENS]
        pieces: list[Piece] = []
        begin = own
        for number, cut in enumerate((*cuts, end)):
            until = min(end, cut)
            if until > begin or not pieces:
                pieces.append(Piece(new_kind(conversation.turns, number), begin, until))
                begin = until
        return pieces

    def _want_pieces(self, conversation: Conversation, position: int, now: float) -> None:
        """A request has the blocks up to this position: at least half of a piece counts as the piece."""
        for piece in conversation.pieces:
            if piece.is_open and 2 * position + _TAIL >= piece.begin + piece.end:
                self._gaps.end(piece, now)

    def _want_shared(self, shared: Shared | None, now: float) -> None:
        while shared is not None:
            if shared.is_open:
                self._gaps.end(shared, now)
            if shared.anchors:
                self._known[shared] = None
                self._known.move_to_end(shared)
            shared = shared.shared

    def _remember(self, conversation: Conversation, keys: Sequence[Hashable]) -> None:
        begin, end = conversation.own, len(keys)
        positions = set()
        step = 1
        while begin + step <= end:
            positions |= {begin + step - 1, end - step}
            step *= 2
        for position in positions:
            is_end = conversation.turns > 1 or position > end - 1 - _TAIL
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
            for wait in (old.history, *old.pieces):
                self._gaps.forget(wait)
        else:
            self._gaps.forget(old)
