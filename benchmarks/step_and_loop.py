"""Do the engine and the event loop stay out of each other's way?

A step is some 900 short torch calls that each give up and take back the interpreter's lock, and the
loop writes everybody's stream meanwhile. In one process a loop that is never idle made a step of 50 ms
one of 120 to 500 ms, by the interpreter's switch interval; therefore the engines have a process of
their own. Two questions, asked of the default model decoding a full batch:

    step    how much longer is a step while the loop is never idle, than alone?    goal 1.3 x
    loop    how late is a timer of the loop while the engine is never idle?        goal p99 20 ms

With one compute thread on two cores the answer is about what the two share as programs. With two, a
loop that is never idle also takes half a core from the computation, whatever anybody does.
The host's part of a step (scheduling, committing, preparing; not computing) is printed as well.

    python benchmarks/step_and_loop.py [--batch 32] [--threads 1] [--seconds 5] [--repetitions 3]
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field

import orjson

from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.engine.replica import Replica
from ridgeline.engine.start import build_replica
from ridgeline.protocol import Request, Sampling, Stopping
from ridgeline.telemetry.meter import EngineMeter
from ridgeline.telemetry.metrics import Metrics
from ridgeline.telemetry.records import StepRecord

BEAT_SECONDS = 0.005


@dataclass
class Steps:
    """Seconds of the decode steps that ran with the whole batch."""

    batch: int
    step: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)

    def watch(self, meter: EngineMeter) -> None:
        """Listen to what the engine reports of its steps."""
        step = EngineMeter.step

        def recorded(record: StepRecord) -> None:
            if record.batch_size == self.batch == record.batch_tokens:
                self.step.append(record.step_seconds)
                self.host.append(record.host_seconds)
            step(meter, record)

        meter.step = recorded  # type: ignore[method-assign]


async def decode(replica: Replica, batch: int, tokens: int) -> None:
    """A full batch of answers of so many tokens, from first to last."""

    async def one(i: int) -> None:
        request = Request(
            id=f"bench-{time.monotonic_ns()}-{i}",
            model=replica.models()[0].name,
            prompt=f"{i}: once upon a time there was a machine that counted " * 8,
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=tokens, ignore_eos=True),
            received_seconds=time.monotonic(),
        )
        async for _ in replica.generate(request):
            pass

    await asyncio.gather(*(one(i) for i in range(batch)))


async def saturate(stop: asyncio.Event) -> None:
    """Keeps the loop busy with what a server does all day: making and joining small messages."""
    message = {"choices": [{"index": 0, "delta": {"content": "word"}}], "id": "x" * 32}
    while not stop.is_set():
        b"".join(b"data: " + orjson.dumps(message) + b"\n\n" for _ in range(200))
        await asyncio.sleep(0)


async def heartbeat(stop: asyncio.Event, late: list[float]) -> None:
    """Notes how late each beat of the loop is, in seconds."""
    while not stop.is_set():
        due = time.monotonic() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        late.append(time.monotonic() - due)


async def beside(replica: Replica, batch: int, tokens: int, companion, *args) -> None:
    """Decode while a companion runs in the loop."""
    stop = asyncio.Event()
    task = asyncio.create_task(companion(stop, *args))
    await decode(replica, batch, tokens)
    stop.set()
    await task


def quantile(values: list[float], q: float) -> float:
    """The value that a fraction `q` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


async def measure(args: argparse.Namespace) -> dict[str, float]:
    """Alternate both loads; medians over the repetitions, in seconds."""
    options = EngineOptions(max_batch=args.batch, max_batch_tokens=max(256, args.batch), threads=args.threads)
    metrics = Metrics()
    replica = build_replica([ModelSpec("smollm2-135m")], options, metrics)
    meter = metrics.engine(replica.models()[0].name)
    await replica.start()
    try:
        await decode(replica, args.batch, 8)
        runs: dict[str, list[float]] = {"alone": [], "busy": [], "host": [], "late": []}
        for _ in range(args.repetitions):
            late: list[float] = []
            for name, companion in (("alone", (heartbeat, late)), ("busy", (saturate,))):
                steps = Steps(args.batch)
                steps.watch(meter)
                await beside(replica, args.batch, args.tokens, *companion)
                runs[name].append(statistics.median(steps.step))
                if name == "alone":
                    runs["host"].append(statistics.median(steps.host))
            runs["late"].append(quantile(late, 0.99))
        return {name: statistics.median(values) for name, values in runs.items()} | {
            "ratio": statistics.median(b / a for a, b in zip(runs["alone"], runs["busy"], strict=True)),
            "ratio_spread": max(runs["busy"]) / min(runs["busy"]),
        }
    finally:
        await replica.close()


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=60, help="of each answer; one step each")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(args))
    print(
        f"default model, batch {args.batch}, {args.threads} compute threads, {args.repetitions} repetitions"
    )
    print(f"  step alone                     {result['alone'] * 1e3:8.1f} ms")
    print(f"  step beside a saturated loop   {result['busy'] * 1e3:8.1f} ms   {result['ratio']:.2f} x")
    print(f"  host's part of a step          {result['host'] * 1e3:8.2f} ms")
    print(f"  loop's delay, p99              {result['late'] * 1e3:8.1f} ms")
    print(json.dumps({"batch": args.batch, "threads": args.threads, **result}))


if __name__ == "__main__":
    main()
