"""A whole measurement: find the model, put the load on, compute the report, say what it ran on."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ridgeline
from ridgeline.bench.client import ServerError, new_session, served_models
from ridgeline.bench.report import Report, Targets, summarise
from ridgeline.bench.runner import Load, Runner, TurnRecord
from ridgeline.bench.workload import (
    Conversation,
    Shape,
    made_conversations,
    read_conversations,
    repeated,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how.

    Attributes:
        url: the server's address, without `/v1`.
        model: None for the first that the server lists.
        load: how many, how fast.
        shape: of made conversations; its `output_tokens` is also the limit for a file's.
        prompts: a file of conversations to ask instead of made ones.
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
    body: Mapping[str, object] = field(default_factory=dict)
    targets: Targets = field(default_factory=Targets)
    timeout_seconds: float = 600.0
    headers: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """A report, and the model that was asked."""

    model: str
    report: Report


def _conversations(plan: Plan) -> Iterator[Conversation]:
    if plan.prompts is None:
        return made_conversations(plan.shape, plan.seed)
    return repeated(read_conversations(plan.prompts, plan.shape.output_tokens))


async def measure(plan: Plan, on_turn: Callable[[TurnRecord], None] = lambda record: None) -> Measured:
    """Carry the plan out.

    Raises `ServerError` where the server is not there or does not serve the model, and
    `WorkloadError` for a file that cannot be used. Requests that fail later are in the report.
    """
    conversations = _conversations(plan)
    async with new_session(plan.timeout_seconds, plan.headers) as session:
        served = await served_models(session, plan.url)
        if not served or (plan.model is not None and plan.model not in served):
            raise ServerError(404, "model_not_found", f"the server serves {', '.join(served) or 'no model'}")
        model = plan.model or served[0]
        runner = Runner(session, plan.url, {"model": model, **plan.body}, conversations, on_turn=on_turn)
        result = await runner.run(plan.load)
    return Measured(model, summarise(result, plan.targets))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def as_json(plan: Plan, measured: Measured) -> dict[str, object]:
    """Everything needed to read the figures later: versions, machine, load, figures."""
    workload = {"file": plan.prompts.name} if plan.prompts else asdict(plan.shape)
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
        "workload": {**workload, "seed": plan.seed},
        "request": dict(plan.body),
        "targets": asdict(plan.targets),
        **measured.report.as_json(),
    }
