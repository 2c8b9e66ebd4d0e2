"""Times a request for the metrics."""

import time
from collections.abc import Sequence

from ridgeline.engine.core.messages import Output
from ridgeline.protocol import Request
from ridgeline.telemetry.meter import EngineMeter
from ridgeline.telemetry.records import RequestRecord


class RequestRecorder:
    """One request from receipt to end; TTFT counts from receipt at the server."""

    def __init__(self, meter: EngineMeter, request: Request) -> None:
        self.outcome: str | None = None
        self.prompt_tokens = 0
        self._meter = meter
        self._received = request.received_seconds or time.monotonic()
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._queue_seconds: float | None = None
        self._first: float | None = None
        self._last: dict[str, float] = {}

    def observe(self, outputs: Sequence[Output]) -> None:
        """Outputs of one answer arrived together."""
        now = time.monotonic()
        count = sum(len(output.token_ids) for output in outputs)
        sequence_id = outputs[0].sequence_id
        self._queue_seconds = outputs[0].queue_seconds
        self._cached_tokens = max(self._cached_tokens, outputs[0].cached_tokens)
        if not count:
            return
        self._completion_tokens += count
        if self._first is None:
            self._first = now - self._received
        if sequence_id in self._last:
            self._meter.inter_token((now - self._last[sequence_id]) / count, count)
        self._last[sequence_id] = now

    def close(self) -> None:
        """The request is over; without an outcome its client went away."""
        self._meter.finished(
            RequestRecord(
                outcome=self.outcome or "cancelled",
                queue_seconds=self._queue_seconds,
                time_to_first_token_seconds=self._first,
                request_seconds=time.monotonic() - self._received,
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self._completion_tokens,
                cached_tokens=self._cached_tokens,
            )
        )
