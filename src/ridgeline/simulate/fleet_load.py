"""Conversations of a day, drawn: who asks what, when, and what it begins with."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ridgeline.fleet.core.keys import PIECE_BYTES

BYTES_PER_TOKEN = 4
PIECE_TOKENS = PIECE_BYTES // BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked of a fleet.

    Attributes:
        conversations_per_second: begun, on average over a period.
        seconds: in which they begin.
        swing: share by which the rate goes up and down over a period; 0 is even.
        period_seconds: of that.
        system_prompts: there are; a conversation has one of them, the first ones more often.
        system_tokens: of each.
        question_tokens: median of a turn's question.
        answer_tokens: median of an answer.
        turns: on average, at least 1.
        think_seconds: on average, from an answer's end to the next question.
        tenants: that ask.
        model: that is asked for.
    """

    conversations_per_second: float
    seconds: float
    swing: float = 0.0
    period_seconds: float = 86_400.0
    system_prompts: int = 20
    system_tokens: int = 512
    question_tokens: int = 120
    answer_tokens: int = 200
    turns: float = 4.0
    think_seconds: float = 40.0
    tenants: int = 50
    model: str = "m"


@dataclass(slots=True)
class Conversation:
    """One of them, as far as it has come.

    Attributes:
        number: of it.
        tenant: whose.
        system: which system prompt it begins with, and its tokens.
        turns_left: questions to come.
        tokens: of all that was said, the system prompt included.
        rng: of its lengths and pauses, so that those do not depend on when it is answered.
    """

    number: int
    tenant: str
    system: int
    system_tokens: int
    turns_left: int
    tokens: int
    rng: random.Random

    def keys(self, tokens: int) -> tuple[bytes, ...]:
        """Of its first so many tokens: those of the system prompt are shared with others."""
        shared = self.system_tokens // PIECE_TOKENS
        return tuple(
            b"s%d.%d" % (self.system, piece) if piece < shared else b"c%d.%d" % (self.number, piece)
            for piece in range(tokens // PIECE_TOKENS)
        )


def conversations(traffic: Traffic, rng: random.Random) -> Iterator[tuple[float, Conversation]]:
    """All of them with the times of their first questions, in order."""
    most = traffic.conversations_per_second * (1 + traffic.swing)
    now, number = 0.0, 0
    while True:
        now += rng.expovariate(most)
        if now >= traffic.seconds:
            return
        wave = 1 - traffic.swing * math.cos(2 * math.pi * now / traffic.period_seconds)
        if rng.random() * (1 + traffic.swing) > wave:
            continue
        number += 1
        system = min(int(rng.expovariate(4 / traffic.system_prompts)), traffic.system_prompts - 1)
        turns = 1 + int(rng.expovariate(1 / max(1e-9, traffic.turns - 1))) if traffic.turns > 1 else 1
        yield (
            now,
            Conversation(
                number,
                f"t{rng.randrange(traffic.tenants)}",
                system,
                traffic.system_tokens,
                turns,
                traffic.system_tokens,
                random.Random(rng.getrandbits(64)),
            ),
        )


def drawn_tokens(median: int, rng: random.Random) -> int:
    """Log-normal, as lengths of texts are."""
    return max(4, int(rng.lognormvariate(math.log(median), 0.7)))
