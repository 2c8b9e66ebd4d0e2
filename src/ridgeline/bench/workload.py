"""What is asked: conversations, made from a seed or read from a file.

A single prompt is a conversation of one turn. The words of made prompts are short and common, so
that most tokenizers take about one token for each; how many they really were is in the report,
from the server's usage. Every question is drawn anew, so that only the system prompt, which all
share, and a conversation's own earlier turns can be found in a prefix cache.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member law "
    "car city community name president team minute idea kid body information back parent face "
    "others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education foot boy age policy music market sense"
).split()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Questions asked one after the other, each with all that was said before it.

    Attributes:
        questions: the user's turns.
        system: the system prompt; empty for none.
        max_tokens: limit of each answer.
    """

    questions: tuple[str, ...]
    system: str = ""
    max_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """Lengths of made conversations; tokens are approximate (see above)."""

    turns: int = 1
    system_tokens: int = 0
    input_tokens: int = 128
    output_tokens: int = 64


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(_WORDS, k=words))


def made_conversations(shape: Shape, seed: int) -> Iterator[Conversation]:
    """Conversations without end; the same for the same shape and seed."""
    system = _text(random.Random(f"{seed}/system"), shape.system_tokens) if shape.system_tokens else ""
    number = 0
    while True:
        draw = random.Random(f"{seed}/{number}")
        questions = tuple(_text(draw, shape.input_tokens) for _ in range(shape.turns))
        yield Conversation(questions, system, max_tokens=shape.output_tokens)
        number += 1


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
