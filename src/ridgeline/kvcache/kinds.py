"""Kinds of waits: what is known of a part of a prompt that tells how likely it is wanted again.

Kinds that were seen seldom are believed to be like a coarser one, so that many of them cost nothing:

    new in a first prompt       new in a later one       history
      by distance                 by distance              by turn
                                                             by pace

What is new is cut into pieces by the distance from its begin. Of a long prompt the begin may come back
and the end not: search results and pasted pages often leave it with the next turn. And what is far from
the begin is part of something long, which is wanted again less often than a short message.
"""

from bisect import bisect_left

from ridgeline.kvcache.gaps import PRIOR_CHANCE

SHARED, LEFT = 0, 1
"""What several conversations have in common; what later turns of the same conversation left behind."""

HARDLY = 1e-4
"""Chance of what was left behind to be wanted at an age. Not learned: see `lineage.py`."""

CUTS_TOKENS = (1024, 4096, 16384, 65536)
"""Tokens that part messages, long ones, pages, documents, and stacks of them."""
_TURNS = (2, 4, 8)
"""Where turns are parted: 2, 3 to 4, 5 to 8, more."""
_PACES_SECONDS = (60.0, 240.0)
"""Where the last pause of a conversation is parted: talking, reading, away."""

_PIECES = len(CUTS_TOKENS) + 1
_PACES = len(_PACES_SECONDS) + 1
_BY_TURN = len(_TURNS) + 1

_FIRST, _LATER, _HISTORY = 2, 3, 4
_FIRST_BY_DISTANCE = 5
_LATER_BY_DISTANCE = _FIRST_BY_DISTANCE + _PIECES
_HISTORY_BY_TURN = _LATER_BY_DISTANCE + _PIECES
_HISTORY_BY_PACE = _HISTORY_BY_TURN + _BY_TURN

BELIEFS: list[int | float] = [
    PRIOR_CHANCE,
    HARDLY,
    *(PRIOR_CHANCE for _ in (_FIRST, _LATER, _HISTORY)),
    *(_FIRST for _ in range(_PIECES)),
    *(_LATER for _ in range(_PIECES)),
    *(_HISTORY for _ in range(_BY_TURN)),
    *(_HISTORY_BY_TURN + i // _PACES for i in range(_BY_TURN * _PACES)),
]
"""Of each kind, the one that it is believed to be like, or its chance at every age."""


def new_kind(turn: int, piece: int) -> int:
    """Of a piece, counted from 0, of what is new in the prompt of a turn, counted from 1."""
    return (_FIRST_BY_DISTANCE if turn == 1 else _LATER_BY_DISTANCE) + piece


def history_kind(turn: int, gap_seconds: float) -> int:
    """Of what the prompt of a turn from 2 on has in common with earlier ones, after a pause."""
    pace = bisect_left(_PACES_SECONDS, gap_seconds)
    return _HISTORY_BY_PACE + _PACES * bisect_left(_TURNS, turn) + pace
