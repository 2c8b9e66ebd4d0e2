"""KV memory of a simulated replica, in the pieces that keys stand for.

| pieces in use, shared by whoever begins alike | tails, answers | idle pieces, LRU | free |
  `_users`: how many hold each                    `private`        `_idle`
"""

from collections import OrderedDict
from collections.abc import Sequence

from ridgeline.simulate.fleet_load import PIECE_TOKENS


class KeyMemory:
    """Who holds which pieces, and what is left of those that nobody holds.

    Args:
        tokens: that there is room for.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.private = 0.0
        """Tokens in use that no key stands for: ends of prompts, and answers that are being drawn."""
        self._users: dict[bytes, int] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._changed: dict[bytes, None] = {}
        """Pieces that have come or gone since the last `changes`, or both."""

    @property
    def held_tokens(self) -> float:
        """In use."""
        return len(self._users) * PIECE_TOKENS + self.private

    @property
    def idle_tokens(self) -> int:
        """Kept in case that they are asked for again."""
        return len(self._idle) * PIECE_TOKENS

    def matched(self, keys: Sequence[bytes]) -> int:
        """Pieces, from the first on, that are there."""
        for place, key in enumerate(keys):
            if key not in self._users and key not in self._idle:
                return place
        return len(keys)

    def new_pieces(self, keys: Sequence[bytes]) -> int:
        """Pieces that would be in use more than now."""
        return sum(key not in self._users for key in keys)

    def hold(self, keys: Sequence[bytes]) -> None:
        """A sequence uses these."""
        for key in keys:
            self._users[key] = self._users.get(key, 0) + 1
            self._idle.pop(key, None)

    def release(self, keys: Sequence[bytes], computed: int) -> None:
        """A sequence does not use these any more, of which so many have been computed.

        What nobody uses stays, the end of a chain to be forgotten first.
        """
        for place in range(len(keys) - 1, -1, -1):
            key = keys[place]
            left = self._users[key] - 1
            if left:
                self._users[key] = left
                continue
            del self._users[key]
            self._changed[key] = None
            if place < computed:
                self._idle[key] = None

    def keep(self, keys: Sequence[bytes]) -> None:
        """These are computed and in no use, as an answer that has ended."""
        for key in reversed(keys):
            if key not in self._users:
                self._idle[key] = None
                self._idle.move_to_end(key)
                self._changed[key] = None

    def shrink(self) -> None:
        """Forget idle pieces, the least recently used first, until all fits."""
        room = max(0.0, self.tokens - self.held_tokens) // PIECE_TOKENS
        while len(self._idle) > room:
            self._changed[self._idle.popitem(last=False)[0]] = None

    def changes(self) -> tuple[list[bytes], list[bytes]]:
        """Pieces that are there and that are not, of those that came or went since this was asked last."""
        there: list[bytes] = []
        gone: list[bytes] = []
        for key in self._changed:
            (there if key in self._users or key in self._idle else gone).append(key)
        self._changed = {}
        return there, gone

    def check(self) -> None:
        """Prove that nothing is both in use and idle, or in use by nobody; AssertionError if it is."""
        assert not self._users.keys() & self._idle.keys(), "a piece is in use and idle"
        assert all(users > 0 for users in self._users.values()), "a piece is in use by nobody"
        assert self.private > -1e-3 * PIECE_TOKENS, "more was let go than was taken"
