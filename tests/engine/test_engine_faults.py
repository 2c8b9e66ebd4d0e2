"""What strangers and broken steps must not do to others: fill the line, or leave wrong KV behind."""

from small_models import make_model

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Geometry, RowResult, StepResult
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.protocol import Refusal, Sampling

GREEDY = Sampling(temperature=0.0, seed=0)
BROKEN = Refusal("internal_error", "the step broke")


def step(scheduler: Scheduler, now: float) -> None:
    plan = scheduler.schedule(now)
    assert plan is not None
    rows = tuple(RowResult((7,) if row.sample else ()) for row in plan.rows)
    scheduler.commit(plan, StepResult(rows, 0.1), now)


def test_sequences_parked_behind_one_prompt_do_not_get_round_the_limit_of_the_queue() -> None:
    geometry = Geometry(4096, 16, block_bytes=1, max_batch=4, max_context_tokens=8192)
    scheduler = Scheduler(geometry, Limits(max_batch_tokens=64, max_waiting=2))
    prompt = tuple(range(4000))
    scheduler.submit(SequenceSpec("batch work", (*prompt, 1), GREEDY, 5, priority=10), 0.0)
    refused = 0
    for now in range(40):
        step(scheduler, now)
        for i in range(4):
            try:
                scheduler.submit(SequenceSpec(f"{now}-{i}", prompt, GREEDY, 5), now)
            except Refusal as refusal:
                assert refusal.code == "at_capacity"
                refused += 1
    assert refused > 100
    assert scheduler.waiting <= scheduler.limits.max_waiting + 2 * geometry.max_batch
    scheduler.check()


def test_cancelling_tells_what_was_cached_and_how_long_it_waited() -> None:
    geometry = Geometry(64, 16, block_bytes=1, max_batch=4, max_context_tokens=512)
    scheduler = Scheduler(geometry, Limits())
    for name, arrived in (("first", 0.0), ("second", 5.0)):
        scheduler.submit(SequenceSpec(name, tuple(range(100)), GREEDY, 50), arrived)
        step(scheduler, arrived + 2.0)
    (output,) = scheduler.cancel("second", 9.0)
    assert (output.finish, output.cached_tokens, output.queue_seconds) == ("cancelled", 96, 2.0)


def test_nobody_finds_the_kv_of_a_sequence_that_broke() -> None:
    """Its first chunk is nan and was published; the executor cleans it to numbers that mean nothing."""
    files = make_model("llama3-rope")[1]
    dict(files.tensors())["model.embed_tokens.weight"][319] = float("nan")
    executor = CpuExecutor(
        files, dtype="float32", kv_memory_bytes=2**20, max_batch=2, max_context_tokens=256, threads=1
    )
    scheduler = Scheduler(executor.geometry, Limits(max_batch_tokens=32))
    for name in ("first", "again"):
        scheduler.submit(SequenceSpec(name, (319, *range(47)), GREEDY, 4), 0.0)
        chunk = scheduler.schedule(0.0)
        assert chunk is not None
        scheduler.commit(chunk, executor.collect(executor.launch(chunk)), 0.0)
        last = scheduler.schedule(1.0)
        assert last is not None
        (output,) = scheduler.commit(last, executor.collect(executor.launch(last)), 1.0)
        assert output.sequence_id == name and output.refusal is not None
        assert output.refusal.code == "internal_error" and "non-finite" in output.refusal.message
        scheduler.check()
    assert scheduler.counters.hit == 0
