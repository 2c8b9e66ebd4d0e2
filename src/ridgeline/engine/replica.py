"""A replica: the `Backend` that turns requests into sequences and outputs back into deltas.

Lives in the server's event loop; the engines live in their threads. Between them go messages.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from ridgeline.engine.answer import Answer
from ridgeline.engine.cache_log import CacheLog
from ridgeline.engine.core.messages import Cancel, MarkAnswer, Output, Submit
from ridgeline.engine.core.sequence import Mark
from ridgeline.engine.intake import answer_marks, check_ids, encode, prompt_of, sequences_of
from ridgeline.engine.recorder import RequestRecorder
from ridgeline.engine.runner import Report, Runner
from ridgeline.engine.served import ServedModel
from ridgeline.kvcache import LabelChanges
from ridgeline.protocol import Delta, Message, ModelInfo, ModelStatus, Refusal, Request, Status, Timeline
from ridgeline.protocol.cached import CacheReport
from ridgeline.protocol.load import LOAD_HEADER, ReplicaLoad
from ridgeline.telemetry.timelines import Timelines


@dataclass(slots=True, eq=False)
class _Live:
    """A request in flight: its answers by sequence id, and what the engine has said of them."""

    served: ServedModel
    request: Request
    answers: dict[str, Answer]
    mailbox: asyncio.Queue[Output]
    marks: tuple[Mark, ...] = ()
    said: list[str] = field(default_factory=list)
    """Of the first answer, where front doors are told what is cached of it."""


class Replica:
    """Serves several models of one process. Use from one event loop; `start` first."""

    def __init__(self, models: Sequence[ServedModel], runners: Sequence[Runner]) -> None:
        """Each model has its engine in one of the runners."""
        self._models = {served.info.name: served for served in models}
        self._names = {alias: name for name, s in self._models.items() for alias in (name, *s.info.aliases)}
        self.runners = tuple(runners)
        self._runner_of = {name: runner for runner in runners for name in runner.names}
        self._live: dict[str, _Live] = {}
        self._live_requests: dict[str, _Live] = {}
        self._timelines = Timelines()
        self._epoch = secrets.token_hex(4)
        self._cache_logs: dict[tuple[str, str], CacheLog] = {}
        """By model and tenant."""
        self._statuses: dict[str, ModelStatus] = {}
        self._state: Literal["starting", "ready", "draining", "failed"] = "starting"
        self._detail = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engines; ready when it returns."""
        self._loop = asyncio.get_running_loop()
        for runner in self.runners:
            runner.start(self._deliver)
        self._state = "ready"

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new requests, wait for those in flight, then cancel what is left."""
        self._state = "draining" if self._state == "ready" else self._state
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            for request_id in list(self._live_requests):
                self.cancel(request_id)

    async def close(self) -> None:
        """Stop the engines after the step they are in."""
        self._state = "draining"
        for runner in self.runners:
            runner.stop()
        for runner in self.runners:
            await asyncio.to_thread(runner.join)

    # --- Backend -------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        """Models served by this process."""
        return [served.info for served in self._models.values()]

    def status(self) -> Status:
        """The engines' latest snapshots."""
        return Status(
            self._state,
            tuple(self._statuses.values()),
            self._detail,
            len(self._live_requests),
        )

    def cancel(self, request_id: str) -> None:
        """End a request's unfinished answers; their streams end with finish `cancelled`."""
        live = self._live_requests.get(request_id)
        if live is not None:
            self._cancel_unfinished(live)

    async def tokenize(
        self, model: str, text: str | None = None, messages: Sequence[Message] | None = None
    ) -> list[int]:
        """Token ids as the engine would see them."""
        return await encode(self._resolve(model), text, messages)

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        """Text of token ids."""
        served = self._resolve(model)
        check_ids(token_ids, served.tokenizer.vocab_size, "tokens")
        return served.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    async def timeline(self, name: str, tenant: str) -> Sequence[Timeline]:
        """See `Explaining`."""
        return self._timelines.find(name, tenant)

    def cache_report(self, model: str, tenant: str, epoch: str, number: int) -> CacheReport:
        """See `Caching`."""
        return self._cache_log(self._resolve(model).info.name, tenant).since(epoch, number)

    def _cache_log(self, model: str, tenant: str) -> CacheLog:
        return self._cache_logs.setdefault((model, tenant), CacheLog(self._epoch))

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream the deltas of all `n` answers, interleaved as the steps give them."""
        is_new = self._timelines.begin(request)
        served = self._served(request)
        recorder = RequestRecorder(served.meter, request)
        try:
            prompt = await prompt_of(served, request)
            recorder.prompt_tokens = len(prompt)
            # Closed at once when our own reader leaves, not when the collector comes by.
            async with aclosing(self._stream(served, request, prompt, recorder)) as deltas:
                async for delta in deltas:
                    yield delta
        except Refusal as refusal:
            self._tell_load(served, request)
            recorder.outcome = refusal.code
            if is_new:
                self._timelines.refused(request, refusal)
            raise
        except Exception:
            recorder.outcome = "failed"
            raise
        finally:
            recorder.close()

    async def _stream(
        self, served: ServedModel, request: Request, prompt: tuple[int, ...], recorder: RequestRecorder
    ) -> AsyncGenerator[Delta, None]:
        live = self._register(served, request, prompt)
        began = False
        try:
            while live.answers:
                for delta in self._assemble(live, recorder, await _all_of(live.mailbox)):
                    recorder.outcome = recorder.outcome or delta.finish
                    if not began:  # the head of the response goes out with the first token
                        began = True
                        self._tell_load(served, request)
                    yield delta
        finally:
            self._forget(live)

    # --- a request's way in --------------------------------------------------------------------

    def _served(self, request: Request) -> ServedModel:
        try:
            self._refuse_unless_ready()
            return self._resolve(request.model)
        except Refusal as refusal:
            self._timelines.refused(request, refusal)
            raise

    def _refuse_unless_ready(self) -> None:
        if self._state != "ready":
            reason = f"This server is {self._state}{self._detail and ': ' + self._detail}."
            raise Refusal("shutting_down" if self._state == "draining" else "no_replica", reason)

    def _resolve(self, model: str) -> ServedModel:
        name = self._names.get(model)
        if name is None:
            served = ", ".join(sorted(self._models))
            raise Refusal(
                "model_not_found", f"Model {model!r} is not served here; there are: {served}.", param="model"
            )
        return self._models[name]

    def _register(self, served: ServedModel, request: Request, prompt: tuple[int, ...]) -> _Live:
        # Asked again: the engine may have ended while a long prompt was tokenised.
        self._refuse_unless_ready()
        if request.id in self._live_requests:
            raise Refusal("invalid_request", f"The request id {request.id} is in use.", param="id")
        specs = sequences_of(served, request, prompt)
        self._refuse_beyond_slots(served, request)
        live = _Live(served, request, {}, asyncio.Queue(), specs[0].marks)
        for index, spec in enumerate(specs):
            live.answers[spec.id] = Answer(
                index,
                prompt,
                request.stopping,
                served.tokenizer,
                echo=request.echo,
                logprobs=request.sampling.logprobs is not None,
            )
            self._live[spec.id] = live
        self._live_requests[request.id] = live
        self._idle.clear()
        for spec in specs:
            self._runner_of[served.info.name].send(
                served.info.name, Submit(spec, request.received_seconds or time.monotonic())
            )
        return live

    def _refuse_beyond_slots(self, served: ServedModel, request: Request) -> None:
        """Who does not want to wait and would have to, for a slot; for memory the engine refuses it."""
        status = self._statuses.get(served.info.name)
        if status is None or not request.begin_at_once:
            return
        there = self._there(served)
        slots = status.slots if there else status.max_batch_size
        if there + request.n > slots:
            raise Refusal(
                "at_capacity",
                f"{served.info.name} has {there} of {slots} sequences, and this request is not to wait.",
                retry_after_seconds=status.estimated_wait_seconds,
            )

    def _there(self, served: ServedModel) -> int:
        """Sequences that this process has in flight, which no snapshot is late for."""
        return sum(live.served is served for live in self._live.values())

    def _tell_load(self, served: ServedModel, request: Request) -> None:
        """Tell how full the model is now, in the head of the answer."""
        status = self._statuses.get(served.info.name)
        if status is None:
            return
        there, blocks = self._there(served), max(1, status.blocks_total)
        load = ReplicaLoad(
            running=min(there, status.slots),
            slots=status.slots,
            waiting=max(0, there - status.slots),
            kv_held=status.blocks_held / blocks,
            kv_promised=status.blocks_promised / blocks,
            kv_tokens=status.blocks_total * status.block_size_tokens,
            wait_seconds=status.estimated_wait_seconds,
            cache_log=self._cache_log(served.info.name, request.tenant).next,
        )
        request.told[LOAD_HEADER] = load.header()

    # --- an answer's way out -------------------------------------------------------------------

    def _deliver(self, report: Report) -> None:
        """From an engine thread into the loop, once per step."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._receive, report)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return

    def _receive(self, report: Report) -> None:
        if report.status is not None:
            self._statuses[report.model] = report.status
        if report.told:
            self._timelines.tell(report.told)
        if report.labels is not None:
            self._log(report.model, report.labels)
        if report.failure is not None:
            self._state, self._detail = "failed", report.failure
            refusal = Refusal("internal_error", f"The engine stopped: {report.failure}.")
            for sequence_id, live in self._live.items():
                live.mailbox.put_nowait(Output(sequence_id, refusal=refusal))
        for output in report.outputs:
            if (addressee := self._live.get(output.sequence_id)) is not None:
                addressee.mailbox.put_nowait(output)

    def _log(self, model: str, changes: LabelChanges) -> None:
        for label in changes.cached:
            self._cache_log(model, label.tenant).add((label.key,), ())
        for label in changes.evicted:
            self._cache_log(model, label.tenant).add((), (label.key,))

    def _assemble(self, live: _Live, recorder: RequestRecorder, outputs: list[Output]) -> list[Delta]:
        """Join the outputs of each answer into one delta."""
        deltas = []
        by_sequence: dict[str, list[Output]] = {}
        for output in outputs:
            if output.refusal is not None:
                raise output.refusal
            by_sequence.setdefault(output.sequence_id, []).append(output)
        for sequence_id, of_answer in by_sequence.items():
            answer = live.answers.get(sequence_id)
            if answer is None:
                continue  # ended by a stop string; the engine was told
            delta = answer.push(of_answer)
            recorder.observe(of_answer)
            if delta is not None and answer.index == 0 and live.request.begin_at_once:
                live.said.append(delta.text)
            if answer.finished:
                del live.answers[sequence_id]
                del self._live[sequence_id]
                if of_answer[-1].finish is None:
                    self._send_cancel(live, sequence_id, "stop")
                if answer.index == 0 and live.request.begin_at_once:
                    self._mark_answer(live, sequence_id, answer)
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _mark_answer(self, live: _Live, sequence_id: str, answer: Answer) -> None:
        """A front door takes the conversation to be cached, answer and all: the engine tells if it is."""
        said = "".join(live.said)
        marks = answer_marks(live.request, live.marks, said, answer.prompt_tokens, answer.completion_tokens)
        if marks:
            name = live.served.info.name
            self._runner_of[name].send(name, MarkAnswer(sequence_id, marks))

    def _send_cancel(self, live: _Live, sequence_id: str, reason: Literal["cancelled", "stop"]) -> None:
        name = live.served.info.name
        self._runner_of[name].send(name, Cancel(sequence_id, reason))

    def _cancel_unfinished(self, live: _Live) -> None:
        for sequence_id in live.answers:
            self._send_cancel(live, sequence_id, "cancelled")

    def _forget(self, live: _Live) -> None:
        """The stream is over, for whatever reason: free what the engine still holds for it."""
        self._cancel_unfinished(live)
        for sequence_id in live.answers:
            self._live.pop(sequence_id, None)
        del self._live_requests[live.request.id]
        if not self._live_requests:
            self._idle.set()


async def _all_of(mailbox: asyncio.Queue[Output]) -> list[Output]:
    """Everything that has come, at least one: a slow reader gets fewer, larger deltas."""
    outputs = [await mailbox.get()]
    while not mailbox.empty():
        outputs.append(mailbox.get_nowait())
    return outputs
