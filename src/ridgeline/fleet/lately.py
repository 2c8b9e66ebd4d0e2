"""What a front door did lately, for people: where requests went and why, how many came, who was refused."""

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Literal

from ridgeline.fleet.core.decisions import Send
from ridgeline.fleet.core.route import Option
from ridgeline.telemetry.sentences import duration

MOST_PLACEMENTS = 30
SPAN_SECONDS = 60

WORTH_A_WORD_SECONDS = 0.05
"""Shorter waits are not called waits."""

WORTH_A_WORD_TOKENS = 64
"""Who has no more than so many tokens more cached was not passed over."""

Outcome = Literal["sent", "answering", "answered", "full", "fault", "left"]
"""On its way; the first piece came; whole; came back, as the replica was full or broken; nobody waits for
it any more."""


@dataclass(slots=True)
class Placement:
    """One attempt at one request.

    Attributes:
        request: its id.
        model: that answers.
        replica: where it was sent.
        at_seconds: since 1970.
        attempt: 1 is the first.
        prompt_tokens: as far as its text tells.
        cached_tokens: believed to be there.
        expected_seconds: to its first token.
        why: in a sentence.
        outcome: so far.
        first_token_seconds: that it took, from when it was sent.
        found_tokens: that were cached; known at its end.
    """

    request: str
    model: str
    replica: str
    at_seconds: float
    attempt: int
    prompt_tokens: int
    cached_tokens: int
    expected_seconds: float
    why: str
    outcome: Outcome = "sent"
    first_token_seconds: float | None = None
    found_tokens: int | None = None


@dataclass(slots=True)
class Returns:
    """What was sent to a replica, and came back without an answer, since this front door began."""

    sent: int = 0
    full: int = 0
    fault: int = 0


@dataclass(slots=True)
class Found:
    """Tokens of prompts that were answered: all, those believed to be cached, and those that were."""

    prompt: int = 0
    believed: int = 0
    found: int = 0


@dataclass(slots=True)
class _Second:
    second: int
    came: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Asked:
    """A request between its arrival and its end."""

    model: str
    prompt_tokens: int
    takers: int
    back: tuple[str, Literal["full", "fault"]] | None = None
    sent_seconds: float = 0.0
    placement: Placement | None = None


class Lately:
    """Remembers the latest placements, and counts. Whoever calls says the time, of `time.monotonic()`."""

    def __init__(self, now: float) -> None:
        self.placements: deque[Placement] = deque(maxlen=MOST_PLACEMENTS)
        self.returns: defaultdict[str, Returns] = defaultdict(Returns)
        """By replica."""
        self.cached = Found()
        self._began_seconds = now
        self._seconds: deque[_Second] = deque(maxlen=SPAN_SECONDS)
        self._asked: dict[str, _Asked] = {}

    def came(self, now: float) -> None:
        """A request is there."""
        self._second(now).came += 1

    def refused(self, code: str, now: float) -> None:
        """One is not served."""
        self._second(now).refused[code] += 1

    def asked(self, request: str, model: str, prompt_tokens: int, takers: int) -> None:
        """It is about to be placed on one of so many replicas, or to wait for a place."""
        self._asked[request] = _Asked(model, prompt_tokens, takers)

    def placed(self, decision: Send, waited_seconds: float, now: float) -> None:
        """It is being sent to a replica."""
        asked, chosen = self._asked[decision.request], decision.chosen
        asked.sent_seconds = now
        asked.placement = Placement(
            decision.request,
            decision.model,
            decision.replica,
            time.time(),
            decision.attempt,
            asked.prompt_tokens,
            chosen.cached_tokens,
            chosen.seconds,
            _why(asked, decision, waited_seconds),
        )
        self.placements.append(asked.placement)
        self.returns[decision.replica].sent += 1

    def began(self, request: str, now: float) -> None:
        """The first piece of a replica's part has come."""
        asked = self._asked[request]
        if asked.placement is not None:
            asked.placement.outcome = "answering"
            asked.placement.first_token_seconds = now - asked.sent_seconds

    def returned(self, request: str, replica: str, why: Literal["full", "fault"]) -> None:
        """A replica gave it back."""
        asked, returns = self._asked[request], self.returns[replica]
        asked.back = (replica, why)
        if why == "full":
            returns.full += 1
        else:
            returns.fault += 1
        if asked.placement is not None:
            asked.placement.outcome = why

    def ended(self, request: str, prompt_tokens: int, found_tokens: int) -> None:
        """It was answered; so the replica counted the tokens."""
        placement = self._asked[request].placement
        if placement is None:
            return
        placement.outcome, placement.found_tokens = "answered", found_tokens
        self.cached.prompt += prompt_tokens
        self.cached.believed += placement.cached_tokens
        self.cached.found += found_tokens

    def over(self, request: str) -> None:
        """Nothing more will come."""
        asked = self._asked.pop(request, None)
        placement = None if asked is None else asked.placement
        if placement is not None and placement.outcome in ("sent", "answering"):
            placement.outcome = "left"

    def last_minute(self, now: float) -> tuple[float, int, dict[str, int]]:
        """Seconds that it spans, requests that came in it, and refusals by code."""
        self._second(now)
        refused: Counter[str] = Counter()
        for each in self._seconds:
            refused.update(each.refused)
        span = min(float(SPAN_SECONDS), now - self._began_seconds)
        return span, sum(each.came for each in self._seconds), dict(refused)

    def _second(self, now: float) -> _Second:
        second = int(now)
        if not self._seconds or self._seconds[-1].second != second:
            self._seconds.append(_Second(second))
        while self._seconds[0].second <= second - SPAN_SECONDS:
            self._seconds.popleft()
        return self._seconds[-1]


def _why(asked: _Asked, decision: Send, waited_seconds: float) -> str:
    """Why it went there: what came before, what is cached, what was expected there and elsewhere."""
    parts = []
    if asked.back is not None:
        replica, why = asked.back
        parts.append(f"{replica} {'was full' if why == 'full' else 'failed'}")
    elif waited_seconds >= WORTH_A_WORD_SECONDS:
        parts.append(f"waited {duration(waited_seconds)} for a place")
    if decision.model != asked.model:
        parts.append(f"{asked.model} had no place, and a smaller model was welcome")
    parts += [*_cached(asked, decision), _expected(asked, decision)]
    return "; ".join(parts)


def _cached(asked: _Asked, decision: Send) -> list[str]:
    chosen, prompt = decision.chosen, f"{asked.prompt_tokens:,}"
    most = max(decision.others, key=lambda each: each.cached_tokens, default=chosen)
    if chosen.cached_tokens:
        parts = [f"{chosen.cached_tokens:,} of {prompt} tokens cached there"]
    else:
        # The next best alone are known: who is further off may have some.
        known = not most.cached_tokens and asked.takers <= len(decision.others) + 1
        parts = [f"none of {prompt} tokens cached {'anywhere' if known else 'there'}"]
    if most.cached_tokens > chosen.cached_tokens + WORTH_A_WORD_TOKENS:
        parts.append(f"{most.replica} has {most.cached_tokens:,}{_but(most, chosen)}")
    return parts


def _expected(asked: _Asked, decision: Send) -> str:
    chosen = decision.chosen
    expected = f"{duration(chosen.seconds)} expected"
    if not decision.others:
        return f"{expected}; nobody else takes it"
    best = decision.others[0]
    beside = f"{best.replica} {duration(best.seconds)}"
    if chosen.has_place != best.has_place:
        return f"{expected}, next best {beside}{_but(best, chosen)}"
    if best.cost_seconds - best.doubt_seconds <= chosen.cost_seconds:
        return f"{expected}; {beside}, as good with crowds and doubts counted: drawn among equals"
    if best.seconds < chosen.seconds:
        return f"{expected}; {beside}{_but(best, chosen)}"
    of = f", soonest of {asked.takers}" if asked.takers > 1 else ""
    return f"{expected}{of}, next best {beside}"


def _but(other: Option, chosen: Option) -> str:
    """What speaks against another than the chosen one; nothing where it was as good."""
    if not other.has_place:
        return ", but no place"
    if other.cost_seconds - other.doubt_seconds <= chosen.cost_seconds:
        return ""
    if other.seconds < chosen.seconds:
        return f", but {duration(other.crowding_seconds)} are counted for the crowd in its batch"
    return f", but would begin in {duration(other.seconds)}"
