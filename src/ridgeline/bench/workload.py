"""What is asked: conversations, made from a seed or read from a file.

A single prompt is a conversation of one turn. How many tokens made prompts really were is in the
report, from the server's usage. Every question is drawn anew, so that only the system prompt, which
all share, and a conversation's own earlier turns can be found in a prefix cache.
"""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ridgeline.bench.distributions import Fixed
from ridgeline.bench.profiles import Profile
from ridgeline.bench.wording import WORD_IS_A_TOKEN, Wording, words


@dataclass(frozen=True, slots=True)
class Conversation:
    """Questions asked one after the other, each with all that was said before it.

    Attributes:
        questions: the user's turns.
        system: the system prompt; empty for none.
        max_tokens: limit of each answer.
        answer_tokens: limit of each answer where they differ; empty where all are `max_tokens`.
        think_seconds: the pause before each turn; empty where the load's own is used. The first one's
            is between two conversations of a user in the closed loop; the open loop has none.
    """

    questions: tuple[str, ...]
    system: str = ""
    max_tokens: int = 128
    answer_tokens: tuple[int, ...] = ()
    think_seconds: tuple[float, ...] = ()

    def limit(self, turn: int) -> int:
        """Tokens that the answer of this turn may have."""
        return self.answer_tokens[turn] if self.answer_tokens else self.max_tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths of made conversations; tokens are approximate (see above)."""

    turns: int = 1
    system_tokens: int = 0
    input_tokens: int = 128
    output_tokens: int = 64

    def as_profile(self) -> Profile:
        """The same as a profile that draws nothing; pauses are left to the load."""
        question = Fixed(self.input_tokens)
        turns, answer = Fixed(self.turns), Fixed(self.output_tokens)
        return Profile("fixed", turns, self.system_tokens, question, question, answer, Fixed(0))


def _text(draw: random.Random, count: int) -> str:
    return " ".join(words(draw, count))


def made_conversations(shape: Shape, seed: int) -> Iterator[Conversation]:
    """Conversations without end; the same for the same shape and seed."""
    for made in profile_conversations(shape.as_profile(), seed):
        yield Conversation(made.questions, made.system, max_tokens=shape.output_tokens)


def profile_conversations(
    profile: Profile,
    seed: int,
    wording: Wording = WORD_IS_A_TOKEN,
    speed_up: float = 1.0,
    context_tokens: int | None = None,
    cuts: "Cuts | None" = None,
) -> Iterator[Conversation]:
    """Conversations without end; the same for the same arguments.

    Args:
        profile: what lengths, turns and pauses are drawn from.
        seed: of all that is drawn.
        wording: what text takes in tokens.
        speed_up: pauses are divided by it.
        context_tokens: a conversation ends before the turn that would not fit; an only question that
            is too long is shortened. None: no limit.
        cuts: where what did not fit is counted.
    """
    cuts = cuts or Cuts()
    system = ""
    if profile.system_tokens:
        system = _text(random.Random(f"{seed}/system"), wording.words_for(profile.system_tokens))
    number = 0
    while True:
        lengths = random.Random(f"{seed}/{number}/lengths")
        draw = random.Random(f"{seed}/{number}")
        room = None if context_tokens is None else context_tokens - profile.system_tokens
        turns = _fitting(_turns(profile, lengths), room, wording, cuts)
        yield Conversation(
            tuple(_text(draw, wording.words_for(turn.question_tokens)) for turn in turns),
            system,
            answer_tokens=tuple(turn.answer_tokens for turn in turns),
            think_seconds=tuple(turn.think_seconds / speed_up for turn in turns),
        )
        number += 1


@dataclass(slots=True)
class Cuts:
    """What a server's context left no room for, warm-up included.

    Attributes:
        turns: later turns that were left out.
        shortened: only questions that were made shorter.
    """

    turns: int = 0
    shortened: int = 0


@dataclass(frozen=True, slots=True)
class _Turn:
    question_tokens: int
    answer_tokens: int
    think_seconds: float


def _turns(profile: Profile, draw: random.Random) -> list[_Turn]:
    return [
        _Turn(
            max(1, round((profile.later_tokens if number else profile.first_tokens).sample(draw))),
            max(1, round(profile.answer_tokens.sample(draw))),
            profile.think_seconds.sample(draw),
        )
        for number in range(max(1, round(profile.turns.sample(draw))))
    ]


def _fitting(turns: list[_Turn], room: int | None, wording: Wording, cuts: Cuts) -> list[_Turn]:
    """The turns that fit into so many tokens: the first in any case, shortened where it must be."""
    if room is None:
        return turns
    overhead = math.ceil(wording.overhead_tokens)
    ends = accumulate(overhead + turn.question_tokens + turn.answer_tokens for turn in turns)
    kept = [turn for turn, end in zip(turns, ends, strict=True) if end <= room]
    if not kept:
        cuts.shortened += 1
        answer = max(1, min(turns[0].answer_tokens, (room - overhead) // 4))
        kept = [_Turn(max(1, room - overhead - answer), answer, turns[0].think_seconds)]
    cuts.turns += len(turns) - len(kept)
    return kept


class WorkloadError(ValueError):
    """A file of conversations that cannot be used; names the file and the line."""


def _from_messages(messages: list[dict[str, str]], max_tokens: int) -> Conversation:
    """Every user message becomes a turn; the server's own answers take the place of the file's."""
    system = "\n".join(m["content"] for m in messages if m["role"] == "system")
    questions = tuple(m["content"] for m in messages if m["role"] == "user")
    if not questions:
        raise KeyError("a message of role 'user'")
    return Conversation(questions, system, max_tokens=max_tokens)


def _from_line(line: str, default_max_tokens: int) -> Conversation:
    row = json.loads(line)
    max_tokens = int(row.get("max_tokens", default_max_tokens))
    if "messages" in row:
        return _from_messages(row["messages"], max_tokens)
    return Conversation((str(row["prompt"]),), max_tokens=max_tokens)


def read_conversations(path: Path, default_max_tokens: int) -> list[Conversation]:
    """Read JSON lines with `prompt` or `messages`, and optionally `max_tokens`.

    Raises `WorkloadError`.
    """
    found = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.append(_parse(path, number, line, default_max_tokens))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"cannot read {path}: {error}") from error
    if not found:
        raise WorkloadError(f"{path} has no conversation in it")
    return found


def _parse(path: Path, number: int, line: str, default_max_tokens: int) -> Conversation:
    try:
        return _from_line(line, default_max_tokens)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WorkloadError(
            f"{path} line {number} is not an object with 'prompt' or 'messages': {error}"
        ) from error


def repeated(conversations: list[Conversation]) -> Iterator[Conversation]:
    """The file's conversations, over and over."""
    while True:
        yield from conversations


def poisson_starts(rate_per_second: float, seed: int) -> Iterator[float]:
    """Seconds from the start of the run at which conversations begin, without end."""
    draw = random.Random(f"{seed}/arrivals")
    at = 0.0
    while True:
        at += draw.expovariate(rate_per_second)
        yield at
