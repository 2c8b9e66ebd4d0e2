"""Conversations of a day, drawn: who asks what, where and when, and what it begins with."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from ridgeline.protocol.prefix_keys import PIECE_BYTES

BYTES_PER_TOKEN = 4
PIECE_TOKENS = PIECE_BYTES // BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Home:
    """Where people are.

    Attributes:
        region: whose front door they come to.
        share: of all conversations, by weight.
        later: by which part of a period their day is behind.
    """

    region: str
    share: float = 1.0
    later: float = 0.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked of a fleet.

    Attributes:
        conversations_per_second: begun, on average over a period.
        seconds: in which they begin.
        swing: share by which the rate goes up and down over a period, from 0 to 1; 0 is even.
        period_seconds: of that.
        system_prompts: there are, shared by all tenants as those that an operator registers; a
            conversation has one of them, the first ones more often.
        system_tokens: of each.
        question_tokens: median of a turn's question.
        answer_tokens: median of an answer.
        turns: on average, at least 1.
        think_seconds: on average, from an answer's end to the next question.
        tenants: that ask.
        homes: regions that conversations come from.
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
    homes: tuple[Home, ...] = (Home("us"),)
    model: str = "m"

    def wave(self, home: Home, now: float) -> float:
        """The rate of a home over its average."""
        return 1 - self.swing * math.cos(2 * math.pi * (now / self.period_seconds - home.later))


@dataclass(slots=True)
class Conversation:
    """One of them, as far as it has come.

    Attributes:
        number: of it.
        tenant: whose.
        region: where it comes from.
        system: which system prompt it begins with.
        system_tokens: of that.
        turns_left: questions to come.
        tokens: of all that was said and answered, the system prompt included.
        rng: of its lengths and pauses, so that those do not depend on who answers it when.
    """

    number: int
    tenant: str
    region: str
    system: int
    system_tokens: int
    turns_left: int
    tokens: int
    rng: random.Random
    _keys: list[bytes] = field(default_factory=list)

    def keys(self, tokens: int) -> tuple[bytes, ...]:
        """Of its first so many tokens, as `protocol/prefix_keys.py` cuts them; those of the system prompt are
        shared with others."""
        pieces, shared = tokens // PIECE_TOKENS, self.system_tokens // PIECE_TOKENS
        for piece in range(len(self._keys), pieces):
            turn = self.turns_left  # what is asked again after a refusal is another text
            own = b"c%d.%d.%d" % (self.number, turn, piece)
            self._keys.append(b"s%d.%d" % (self.system, piece) if piece < shared else own)
        return tuple(self._keys[:pieces])

    def turn_over(self, tokens: int) -> None:
        """A question has ended, and so much has been said until now: less than asked if it was refused."""
        self.tokens = tokens
        self.turns_left -= 1
        del self._keys[tokens // PIECE_TOKENS :]


def conversations(traffic: Traffic, rng: random.Random) -> Iterator[tuple[float, Conversation]]:
    """All of them with the times of their first questions, in order."""
    most = traffic.conversations_per_second * (1 + traffic.swing)
    shares = [home.share for home in traffic.homes]
    now, number = 0.0, 0
    while True:
        now += rng.expovariate(most)
        if now >= traffic.seconds:
            return
        home = rng.choices(traffic.homes, shares)[0]
        if rng.random() * (1 + traffic.swing) > traffic.wave(home, now):
            continue
        number += 1
        yield now, _drawn(traffic, home, number, rng)


def _drawn(traffic: Traffic, home: Home, number: int, rng: random.Random) -> Conversation:
    system = min(int(rng.expovariate(4 / traffic.system_prompts)), traffic.system_prompts - 1)
    turns = 1 + int(rng.expovariate(1 / (traffic.turns - 0.5))) if traffic.turns > 1 else 1
    return Conversation(
        number,
        f"t{rng.randrange(traffic.tenants)}",
        home.region,
        system,
        traffic.system_tokens,
        turns,
        traffic.system_tokens,
        random.Random(rng.getrandbits(64)),
    )


def drawn_tokens(median: int, rng: random.Random) -> int:
    """Log-normal, as lengths of texts are."""
    return max(4, int(rng.lognormvariate(math.log(median), 0.7)))
