"""What is measured, row by row, and what is wanted of each."""

from dataclasses import dataclass
from typing import Literal

TURNS, SYSTEM_TOKENS, QUESTION_WORDS, ANSWER_TOKENS = 3, 360, 40, 48
"""Of the chats that are put on over HTTP."""

NEW_TOKENS = 64
"""Drawn after every prompt of a decode row; the first comes from the prompt, the others are timed."""

AMPLE_TOKENS = 4 * NEW_TOKENS
"""Allowed where steps are driven: the first sequences draw while the last prompts are computed."""

CONTEXT_TOKENS = 2304
"""That every contender has room for in a sequence."""

Kind = Literal["prefill", "decode", "chats", "streams", "start"]


@dataclass(frozen=True, slots=True)
class Task:
    """What one contender does in one turn.

    Attributes:
        kind: `prefill` of one prompt, `decode` after prompts, `chats` over HTTP that come whole,
            `streams` the same streamed, `start` of a server.
        sequences: at the same time.
        prompt_tokens: of each, for prefill and decode.
    """

    kind: Kind
    sequences: int = 1
    prompt_tokens: int = 0

    @property
    def offline(self) -> bool:
        """Without a server."""
        return self.kind in ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: in the table, and for `--rows`.
        task: that has to be done for it; several rows may come of one.
        metric: which of the task's figures; in `_seconds`, less is better.
        goal: ours divided by the fastest peer's; None where there is none.
        stretch: what would be better still.
        goal_seconds: ours alone, for what has no peer worth beating.
    """

    name: str
    task: Task
    metric: str
    goal: float | None = None
    stretch: float | None = None
    goal_seconds: float | None = None

    @property
    def less_is_better(self) -> bool:
        """Whether it is a time."""
        return self.metric.endswith("_seconds")


def _chats(users: int) -> tuple[Row, ...]:
    whole, streamed = Task("chats", users), Task("streams", users)
    return (
        Row(f"http {users}", whole, "tokens_per_second", 2.5),
        Row(f"turn {users}", whole, "turn_seconds"),
        Row(f"ttft {users}", streamed, "first_token_seconds", 0.5),
        Row(f"gap {users}", streamed, "gap_seconds"),
        Row(f"gap {users} p99", streamed, "gap_p99_seconds"),
    )


RATE = "tokens_per_second"

ROWS: tuple[Row, ...] = (
    Row("prefill 512", Task("prefill", 1, 512), RATE, 1.5),
    Row("prefill 2048", Task("prefill", 1, 2048), RATE, 1.5),
    Row("decode 1", Task("decode", 1, 128), RATE, 1.3),
    Row("decode 8", Task("decode", 8, 128), RATE, 1.7),
    Row("decode 16", Task("decode", 16, 128), RATE, 1.6, 2.0),
    Row("decode 32", Task("decode", 32, 128), RATE, 1.6, 2.0),
    Row("decode 16 at 1024", Task("decode", 16, 1024), RATE, 1.6, 2.0),
    *_chats(16),
    *_chats(32),
    Row("start", Task("start"), "start_seconds", goal_seconds=3.0),
)


def chosen(patterns: list[str] | None) -> tuple[Row, ...]:
    """Rows whose names begin with the words of one of the patterns; all of them for None.

    Raises:
        ValueError: for a pattern that fits no row.
    """
    if patterns is None:
        return ROWS
    for pattern in patterns:
        if not any(_begins(row, pattern) for row in ROWS):
            raise ValueError(f"no row begins with '{pattern}'; there are {', '.join(r.name for r in ROWS)}")
    return tuple(row for row in ROWS if any(_begins(row, pattern) for pattern in patterns))


def _begins(row: Row, pattern: str) -> bool:
    return f"{row.name} ".startswith(f"{pattern} ")
