"""What a front door remembers of each request: where it was sent, why, and what became of it there."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

from ridgeline.fleet.continuation import Given, usage_of
from ridgeline.fleet.core.decisions import Arrival, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.lately import Lately
from ridgeline.protocol import Event, Refusal, Request, Timeline, Told
from ridgeline.protocol.request import SERVED_MODEL
from ridgeline.protocol.timeline import Finished, FirstToken, Placed, Queued, Returned, WentOn
from ridgeline.telemetry.timelines import Timelines

SERVED_BY = "x-served-by"
OVERHEAD = "x-overhead-ms"


class Notes:
    """Timelines of requests, the headers that tell the shortest part of them, and what was done lately."""

    def __init__(self) -> None:
        self.lately = Lately(time.monotonic())
        self._timelines = Timelines()
        self._began: dict[str, float] = {}

    def find(self, name: str, tenant: str) -> Sequence[Timeline]:
        """See `Explaining.timeline`."""
        return self._timelines.find(name, tenant)

    def came(self, request: Request) -> None:
        """A request is there."""
        self.lately.came(time.monotonic())
        self._timelines.begin(request)

    def refused(self, request: Request, refusal: Refusal) -> None:
        """It is not served."""
        self.lately.refused(refusal.code, time.monotonic())
        self._timelines.refused(request, refusal)

    def over(self, request: Request) -> None:
        """Nothing more will come."""
        self._began.pop(request.id, None)
        self.lately.over(request.id)

    def queued(self, request: Request, arrival: Arrival, door: Door, now: float) -> None:
        """It is about to be placed, or to wait for a place."""
        serving = [each for each in door.replicas.values() if request.model in each.models]
        running = sum(each.running for each in serving)
        prompt, most = door.prompt_tokens(arrival), request.stopping.max_tokens or 0
        takers = sum(each.takes(request.model, now) for each in serving)
        self.lately.asked(request.id, request.model, prompt, takers)
        self._tell(request, Queued(now, prompt, most, door.waiting, running))

    def placed(self, request: Request, decision: Send, since: float) -> float | None:
        """It is being sent to a replica, after waiting since then.

        Returns the seconds that the front door itself took of its time, before the first attempt only.
        """
        now, chosen = time.monotonic(), decision.chosen
        waited, mine = now - since, None
        self.lately.placed(decision, waited, now)
        request.told[SERVED_BY] = decision.replica
        if decision.model != request.model:
            request.told[SERVED_MODEL] = decision.model
        if decision.attempt == 1:
            mine = max(0.0, since - (request.received_seconds or since))
            request.told[OVERHEAD] = f"{mine * 1000:.2f}"
        others = {each.replica: each.cost_seconds for each in decision.others}
        self._tell(
            request,
            Placed(
                now,
                decision.replica,
                decision.attempt,
                waited,
                chosen.cached_tokens,
                chosen.queue_seconds,
                chosen.prefill_seconds,
                chosen.round_trip_seconds,
                chosen.crowding_seconds,
                others,
            ),
        )
        return mine

    def began(self, request: Request, decision: Send, goes_on: bool, now: float) -> None:
        """The first piece of a replica's part has come."""
        self.lately.began(request.id, now)
        if goes_on:
            self._tell(request, WentOn(now))
            return
        self._began[request.id] = now
        after = now - (request.received_seconds or now)
        self._tell(request, FirstToken(now, after, decision.chosen.seconds))

    def returned(
        self,
        request: Request,
        decision: Send,
        why: Literal["full", "fault"],
        message: str,
        answers: Mapping[int, Given],
    ) -> None:
        """A replica gave it back."""
        self.lately.returned(request.id, decision.replica, why)
        pieces = sum(answer.pieces for answer in answers.values())
        self._tell(request, Returned(time.monotonic(), decision.replica, why, message[:500], pieces))

    def ended(self, request: Request, answers: dict[int, Given], now: float) -> None:
        """All of its answers are whole."""
        usage = usage_of(answers)
        self.lately.ended(request.id, usage.prompt_tokens, usage.cached_tokens)
        decoding = now - self._began.get(request.id, now)
        finish = answers[0].finish
        reason = "stop" if finish is None or finish.finish is None else finish.finish
        self._tell(request, Finished(now, reason, usage.completion_tokens, decoding))

    def _tell(self, request: Request, event: Event) -> None:
        """To all of its answers: they are made together."""
        self._timelines.tell(Told(f"{request.id}/{index}", (event,)) for index in range(request.n))
