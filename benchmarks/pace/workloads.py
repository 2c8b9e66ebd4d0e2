"""Three kinds of work, each a stream of conversations that begin at Poisson times.

Lengths are log-normal. Chat: several turns, each with all before it, after some seconds of thinking.
Summarise: long prompts, short answers. Write: short prompts, long answers.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """Medians; `spread` is the standard deviation of the logarithm of each.

    Attributes:
        turns: of a conversation.
        system_tokens: at its head, the same in all.
        question_tokens: that nobody has seen, in each turn.
        answer_tokens: drawn in each turn.
        think_seconds: from an answer to the next question.
        ttft_seconds: target of the time to the first token.
    """

    name: str
    turns: int
    system_tokens: int
    question_tokens: int
    answer_tokens: int
    ttft_seconds: float
    think_seconds: float = 4.0
    spread: float = 0.5


CHAT = Kind("chat", 4, 400, 150, 220, ttft_seconds=1.0)
SUMMARISE = Kind("summarise", 1, 100, 3500, 160, ttft_seconds=2.5)
WRITE = Kind("write", 1, 0, 90, 700, ttft_seconds=1.0)
KINDS = {kind.name: kind for kind in (CHAT, SUMMARISE, WRITE)}


@dataclass(frozen=True, slots=True)
class Turn:
    """A question's and an answer's length in tokens, and the pause before it."""

    question: int
    answer: int
    think_seconds: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, of which the first comes at `seconds`."""

    seconds: float
    kind: Kind
    turns: tuple[Turn, ...]


def conversations(kind: Kind, rate: float, start: float, end: float, seed: int) -> Iterator[Conversation]:
    """Those that begin from `start` until `end`, so many a second on average."""
    draw = random.Random(f"{kind.name}/{seed}")

    def length(median: float) -> float:
        return median * math.exp(draw.gauss(0.0, kind.spread))

    now = start
    while (now := now + draw.expovariate(rate)) < end:
        turns = (
            Turn(
                max(4, min(8000, round(length(kind.question_tokens)))),
                max(4, min(4000, round(length(kind.answer_tokens)))),
                length(kind.think_seconds),
            )
            for _ in range(kind.turns)
        )
        yield Conversation(now, kind, tuple(turns))
