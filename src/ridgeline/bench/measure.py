"""A whole measurement: find the model, put the load on, compute the report, say what it ran on."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

import ridgeline
from ridgeline.bench import counters
from ridgeline.bench.client import ServerError, new_session, served_contexts
from ridgeline.bench.notes import notes
from ridgeline.bench.ramp import Climbed, Ramp, climb
from ridgeline.bench.report import Report, Targets, summarise
from ridgeline.bench.runner import Load, Runner, RunResult, TurnRecord
from ridgeline.bench.saturation import Step
from ridgeline.bench.work import Source, Work, prepare, read_files
from ridgeline.bench.workload import Shape, WorkloadError


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how.

    Attributes:
        url: the server's address, without `/v1`.
        model: None for the first that the server lists.
        load: how many, how fast.
        shape: of made conversations; its `output_tokens` is also the limit for a file's.
        prompts: a file of conversations to ask instead of made ones.
        source: where conversations come from, in place of `shape` and `prompts`.
        ramp: raise the load in steps, beginning at the load's rate or users.
        body: further fields of every request, such as temperature.
        targets: for goodput.
        timeout_seconds: after which a request has failed.
        headers: of every request.
        seed: of made questions.
    """

    url: str
    load: Load
    model: str | None = None
    shape: Shape = field(default_factory=Shape)
    prompts: Path | None = None
    source: Source | None = None
    ramp: Ramp | None = None
    body: Mapping[str, object] = field(default_factory=dict)
    targets: Targets = field(default_factory=Targets)
    timeout_seconds: float = 600.0
    headers: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    @property
    def asks(self) -> Source:
        """Where conversations come from."""
        return self.source or Source(self.shape, prompts=self.prompts)


@dataclass(frozen=True, slots=True)
class Listener:
    """What is told while measuring goes on: each answered request, each step of a ramp."""

    on_turn: Callable[[TurnRecord], None] = lambda record: None
    on_step: Callable[[Step], None] = lambda step: None


@dataclass(frozen=True, slots=True)
class Measured:
    """A report, and what it is of.

    Attributes:
        model: that was asked.
        report: of the run; of a ramp, that of the step at the knee.
        workload: what was asked, for the JSON line.
        started: the clock's seconds when measuring began.
        records: the report's requests, without those of the warm-up.
        notes: what a reader must know beside the figures.
        climbed: the steps of a ramp.
    """

    model: str
    report: Report
    workload: Mapping[str, object] = field(default_factory=dict)
    started: float = 0.0
    records: Sequence[TurnRecord] = ()
    notes: tuple[str, ...] = ()
    climbed: Climbed | None = None


class _Bench:
    """One measurement at one server, whose model and context are known."""

    def __init__(self, plan: Plan, session: aiohttp.ClientSession, model: str, work: Work) -> None:
        self._plan = plan
        self._session = session
        self._model = model
        self._work = work
        self._before: counters.CacheCounters | None = None

    async def _read_before(self) -> None:
        self._before = await counters.read(self._session, self._plan.url, self._model)

    async def run(self, load: Load, listener: Listener) -> RunResult:
        """Put a load on."""
        body = {"model": self._model, **self._plan.body}
        runner = Runner(
            self._session,
            self._plan.url,
            body,
            self._work.conversations,
            warmup=self._work.warmup,
            on_turn=listener.on_turn,
        )
        return await runner.run(load, self._work.arrivals, before_measuring=self._read_before)

    async def summarise(self, result: RunResult) -> Report:
        """The report of a run that has just ended."""
        after = await counters.read(self._session, self._plan.url, self._model)
        prompt = sum(r.tokens.prompt for r in result.records if r.tokens and not r.warmup)
        load = self._plan.load
        return summarise(
            result,
            self._plan.targets,
            open_loop=load.concurrency is None,
            requested_per_second=load.rate_per_second if load.concurrency is None else None,
            server_cache=counters.change(self._before, after, prompt),
        )


async def _model(plan: Plan, session: aiohttp.ClientSession) -> tuple[str, int | None]:
    """The model to ask, and its context. Raises `ServerError` where the server does not serve it."""
    served = await served_contexts(session, plan.url)
    if not served or (plan.model is not None and plan.model not in served):
        raise ServerError(404, "model_not_found", f"the server serves {', '.join(served) or 'no model'}")
    model = plan.model or next(iter(served))
    return model, served[model]


async def measure(
    plan: Plan,
    on_turn: Callable[[TurnRecord], None] = lambda record: None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Measured:
    """Carry the plan out.

    Raises `ServerError` where the server is not there or does not serve the model, and
    `WorkloadError` for a file that cannot be used. Requests that fail later are in the report.
    """
    source, listener = plan.asks, Listener(on_turn, on_step)
    files = read_files(source)
    async with new_session(plan.timeout_seconds, plan.headers) as session:
        model, context = await _model(plan, session)
        work = await prepare(
            source,
            files,
            session,
            plan.url,
            {"model": model, **plan.body},
            seed=plan.seed,
            context_tokens=context,
            duration_seconds=plan.load.duration_seconds,
        )
        if work.arrivals == ():
            raise WorkloadError(
                "no request of the trace is left: all exceed the model's context or come too late"
            )
        bench = _Bench(plan, session, model, work)
        climbed = None
        if plan.ramp is not None:
            climbed, report, result = await climb(
                plan.load, plan.ramp, plan.targets, lambda load: bench.run(load, listener), on_step
            )
        else:
            result = await bench.run(plan.load, listener)
            report = await bench.summarise(result)
    records = [record for record in result.records if not record.warmup]
    said = notes(source, work, report, records, climbed)
    return Measured(model, report, work.about, result.started, records, said, climbed)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def as_json(plan: Plan, measured: Measured) -> dict[str, object]:
    """Everything needed to read the figures later: versions, machine, load, figures."""
    return {
        "benchmark": "ridgeline bench",
        "version": ridgeline.__version__,
        "url": plan.url,
        "model": measured.model,
        "client_machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "load": asdict(plan.load),
        "workload": {**measured.workload, "seed": plan.seed},
        "request": dict(plan.body),
        "targets": asdict(plan.targets),
        **measured.report.as_json(),
        "notes": list(measured.notes),
        **({"ramp": asdict(measured.climbed)} if measured.climbed else {}),
    }
