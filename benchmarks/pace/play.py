"""Plays conversations on one engine under a virtual clock, and counts the requests that went well."""

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pace.device import Place, TimedDevice
from pace.workloads import Conversation, Kind
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.messages import Output, Submit
from ridgeline.engine.core.plan import Executor
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.clock import Clock, VirtualClock
from ridgeline.engine.loop import Engine
from ridgeline.engine.meter import CostModel, StepMeter
from ridgeline.protocol import Sampling
from ridgeline.roofline import find_hardware

TARGET_SECONDS = 0.05
"""Of inter-token latency: 95 of 100 gaps of an answer must keep it."""

MAX_TOKENS = 8192
DRAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How steps are sized; neither number given: by the target."""

    tokens: int | None = None
    sequences: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return "target" if self.tokens is None else f"{self.tokens} tokens, {self.sequences} sequences"


@dataclass(slots=True)
class Asked:
    """A request being answered, and what has come of it."""

    conversation: Conversation
    turn: int
    prompt: tuple[int, ...]
    arrived: float
    first: float | None = None
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    finished: bool = False

    def took(self, now: float) -> None:
        """A token came."""
        if self.first is None:
            self.first = now - self.arrived
        else:
            self.gaps.append(now - self.last)
        self.last = now

    def is_good(self, target_seconds: float) -> bool:
        """Whether it met every target; the one of inter-token latency is given."""
        kind: Kind = self.conversation.kind
        if not self.finished or self.first is None or self.first > kind.ttft_seconds:
            return False
        late = sum(gap > target_seconds for gap in self.gaps)
        return late <= 0.05 * len(self.gaps)


@dataclass(frozen=True, slots=True)
class Score:
    """Of one run.

    Attributes:
        good: requests that met every target.
        offered: all there were; a turn after one that was refused or unfinished is offered too.
        tokens_per_second: drawn.
        prediction_error: median of |predicted - taken| / taken over the run's steps.
    """

    good: int
    offered: int
    tokens_per_second: float
    prediction_error: float

    @property
    def goodput(self) -> float:
        """Share of the offered."""
        return self.good / max(1, self.offered)


class _Ignored:
    """A meter that nobody reads, but for the errors of predicted steps."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def step(self, record: Any) -> None:
        """Note how far the prediction was off."""
        self.errors.append(abs(record.predicted_seconds / record.step_seconds - 1.0))

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Play:
    """An engine that conversations are played on.

    Args:
        device: what carries out the steps.
        costs: believed of it, and learned from it.
        clock: of the device.
        setting: how steps are sized.
        target_seconds: of inter-token latency: followed where the setting is the target, and judged by.
    """

    def __init__(
        self,
        device: Executor,
        costs: CostModel,
        clock: Clock,
        setting: Setting,
        target_seconds: float = TARGET_SECONDS,
    ) -> None:
        self._clock, self._target = clock, target_seconds
        geometry = device.geometry
        sequences = min(setting.sequences or geometry.max_batch, geometry.max_batch)
        scheduler = Scheduler(
            replace(geometry, max_batch=sequences),
            Limits(max_batch_tokens=setting.tokens or MAX_TOKENS, max_waiting=100_000),
            step_time=costs.step_time,
            target_seconds=target_seconds if setting.tokens is None else 0.0,
        )
        self._meter = _Ignored()
        self._engine = Engine("played", scheduler, device, StepMeter(costs, self._meter))
        self._coming: list[tuple[float, int, Conversation, int, tuple[int, ...]]] = []
        self._asked: dict[str, Asked] = {}
        self._all: list[Asked] = []
        self._numbers = itertools.count()
        self._offered = self._tokens = 0

    @classmethod
    def timed(cls, place: Place, setting: Setting, seed: int) -> "Play":
        """On a device that only takes time, under a virtual clock."""
        clock = VirtualClock()
        costs = CostModel(place.shape, find_hardware(place.hardware), "bfloat16", MAX_TOKENS)
        return cls(TimedDevice(place, clock, seed), costs, clock, setting)

    def run(self, work: Iterable[Conversation]) -> Score:
        """Until everything is answered, or some time after the last has come."""
        began = self._clock.now()
        self._all, self._offered, self._tokens = [], 0, 0
        for conversation in work:
            self._offered += len(conversation.turns)
            system = tuple(range(conversation.kind.system_tokens))
            self._expect(began + conversation.seconds, conversation, 0, system)
        end = max(entry[0] for entry in self._coming) + DRAIN_SECONDS
        while (self._coming or self._engine.has_work) and self._clock.now() < end:
            self._submit_due()
            if self._engine.has_work:
                self._take(self._engine.step(self._clock.now))
            else:
                self._clock.wait_until(self._coming[0][0])
        errors = sorted(self._meter.errors)
        return Score(
            sum(asked.is_good(self._target) for asked in self._all),
            self._offered,
            self._tokens / (self._clock.now() - began),
            errors[len(errors) // 2],
        )

    def close(self) -> None:
        """Give back what the device holds."""
        self._engine.executor.close()

    def _expect(
        self, seconds: float, conversation: Conversation, turn: int, history: tuple[int, ...]
    ) -> None:
        heapq.heappush(self._coming, (seconds, next(self._numbers), conversation, turn, history))

    def _submit_due(self) -> None:
        now = self._clock.now()
        while self._coming and self._coming[0][0] <= now:
            seconds, number, conversation, turn, history = heapq.heappop(self._coming)
            asked = conversation.turns[turn]
            # Nobody else begins like this, and every model has these ids.
            prompt = history + tuple((number * 7919 + i) % 40_000 for i in range(asked.question))
            spec = SequenceSpec(
                str(number), prompt, Sampling(temperature=0.0, seed=0), max_tokens=asked.answer
            )
            request = Asked(conversation, turn, prompt, seconds)
            self._asked[spec.id] = request
            self._all.append(request)
            self._take(self._engine.handle(Submit(spec, seconds), now))

    def _take(self, outputs: list[Output]) -> None:
        now = self._clock.now()
        for output in outputs:
            asked = self._asked[output.sequence_id]
            for _ in output.token_ids:
                self._tokens += 1
                asked.took(now)
            if output.refusal is not None:
                del self._asked[output.sequence_id]
            elif output.finish is not None:
                del self._asked[output.sequence_id]
                asked.finished = True
                self._go_on(asked, now)

    def _go_on(self, asked: Asked, now: float) -> None:
        following = asked.turn + 1
        if following < len(asked.conversation.turns):
            answer = (7,) * asked.conversation.turns[asked.turn].answer
            think = asked.conversation.turns[following].think_seconds
            self._expect(now + think, asked.conversation, following, asked.prompt + answer)
