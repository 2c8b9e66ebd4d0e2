import math
from array import array

import pytest

from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Row, StepPlan
from ridgeline.engine.executors.clock import RealClock, VirtualClock
from ridgeline.engine.executors.simulated import BadPlan, SimulatedExecutor
from ridgeline.engine.executors.simulated_kv import KVMismatch
from ridgeline.engine.executors.simulated_model import HashModel, extend_hashes, readable_token_ids
from ridgeline.models.errors import ModelError
from ridgeline.protocol import Sampling
from ridgeline.roofline import HARDWARE, ModelShape, Work, step_cost

SHAPE = ModelShape(30, 576, 9, 3, 64, 1536, 49152, tied_head=True)
GREEDY = Sampling(temperature=0.0, seed=0)


def executor(clock=None, **changed):
    settings = {
        "dtype": "bfloat16",
        "vocab_size": 1000,
        "kv_memory_bytes": 64 * 16 * 23_040,
        "max_batch": 4,
        "max_context_tokens": 512,
        "depth": 1,
        "clock": clock or VirtualClock(),
    }
    return SimulatedExecutor(SHAPE, HARDWARE["h100"], **{**settings, **changed})


class Driver:
    """Writes plans by hand."""

    def __init__(self, **changed):
        self.executor = executor(**changed)
        self.step = 0

    def __call__(self, *rows, admissions=(), releases=()):
        plan = StepPlan(self.step, tuple(rows), tuple(admissions), tuple(releases))
        self.step += 1
        return self.executor.collect(self.executor.launch(plan))


def admit(slot, tokens, prompt_tokens=None, sampling=GREEDY, **more):
    return Admission(slot, tuple(tokens), prompt_tokens or len(tokens), sampling, **more)


PROMPT = tuple(range(100, 140))  # two full blocks and a half


def answer(drive, prompt, blocks, count, sampling=GREEDY):
    """Undisturbed run in slot 0: prefill whole, then decode; the slot is released."""
    result = drive(
        Row(0, 0, tuple(prompt), blocks, sample=True), admissions=[admit(0, prompt, sampling=sampling)]
    )
    tokens = [result.rows[0].token_ids[0]]
    while len(tokens) < count:
        row = Row(0, len(prompt) + len(tokens) - 1, (tokens[-1],), sample=True)
        tokens.append(drive(row).rows[0].token_ids[0])
    drive(releases=[0])
    return tokens


# --- geometry and time -----------------------------------------------------------------------


def test_blocks_are_what_the_weights_leave_of_the_memory():
    whole = executor(kv_memory_bytes=None).geometry
    assert whole.block_bytes == 16 * 23_040
    usable = int(0.9 * HARDWARE["h100"].memory_bytes) - 2 * 134_515_008
    assert whole.blocks == usable // whole.block_bytes
    assert executor().geometry.blocks == 64
    assert executor(kv_dtype="float8").geometry.blocks == 128


def test_what_does_not_fit_is_one_clear_sentence():
    big = ModelShape(80, 8192, 64, 8, 128, 28672, 128256, tied_head=False)
    with pytest.raises(ModelError, match=r"weights take 141\.1 GB in bfloat16.*memory of h100 77\.0 GB"):
        SimulatedExecutor(
            big,
            HARDWARE["h100"],
            dtype="bfloat16",
            vocab_size=1000,
            kv_memory_bytes=None,
            max_batch=4,
            max_context_tokens=512,
            depth=1,
            clock=VirtualClock(),
        )
    with pytest.raises(ModelError, match="--kv-memory"):
        executor(kv_memory_bytes=10**12)
    with pytest.raises(ModelError, match="one block takes 368640 bytes"):
        executor(kv_memory_bytes=1000)
    with pytest.raises(ModelError, match=r"does not compute in 'int4'; it has .*another --dtype"):
        executor(dtype="int4")
    with pytest.raises(ValueError, match="depth must be 0 or 1"):
        executor(depth=2)


def test_a_step_takes_the_time_of_the_roofline():
    clock = VirtualClock(start=100.0)
    drive = Driver(clock=clock)
    result = drive(Row(0, 0, PROMPT, (0, 1, 2), sample=True), admissions=[admit(0, PROMPT)])
    expected = step_cost(SHAPE, HARDWARE["h100"], "bfloat16", Work.of([(40, 0)], 1)).seconds
    assert result.device_seconds == expected
    assert clock.now() == pytest.approx(100.0 + expected)


def test_steps_launched_ahead_run_one_after_the_other():
    clock = VirtualClock()
    device = executor(clock)
    first = device.launch(StepPlan(0, (Row(0, 0, PROMPT, (0, 1, 2), sample=True),), (admit(0, PROMPT),)))
    second = device.launch(StepPlan(1, (Row(0, 40, (IN_FLIGHT,), sample=True),)))
    assert clock.now() == 0.0
    one = device.collect(first)
    assert clock.now() == pytest.approx(one.device_seconds)
    two = device.collect(second)
    assert clock.now() == pytest.approx(one.device_seconds + two.device_seconds)


def test_an_idle_device_starts_at_once():
    clock = VirtualClock()
    drive = Driver(clock=clock)
    drive(Row(0, 0, PROMPT, (0, 1, 2)), admissions=[admit(0, PROMPT)])
    clock.wait_until(50.0)
    result = drive(Row(1, 0, PROMPT, (3, 4, 5)), admissions=[admit(1, PROMPT)])
    assert clock.now() == pytest.approx(50.0 + result.device_seconds)


def test_the_real_clock_waits():
    clock = RealClock()
    drive = Driver(clock=clock)
    began = clock.now()
    result = drive(Row(0, 0, PROMPT, (0, 1, 2)), admissions=[admit(0, PROMPT)])
    assert clock.now() - began >= result.device_seconds


# --- tokens ----------------------------------------------------------------------------------


def test_an_answer_depends_on_the_prefix_alone():
    alone = answer(Driver(), PROMPT, (0, 1, 2, 3), 20)
    assert len(set(alone)) > 10
    other = Driver(max_batch=3, clock=VirtualClock(7.0))
    other(Row(2, 0, (5, 6, 7), (60,), sample=True), admissions=[admit(2, (5, 6, 7))])
    assert answer(other, PROMPT, (9, 8, 40, 3), 20) == alone
    assert answer(Driver(), (*PROMPT, 7), (0, 1, 2, 3), 20) != alone


def test_chunked_equals_whole_and_in_flight_equals_known():
    alone = answer(Driver(), PROMPT, (0, 1, 2), 3)
    device = executor()
    handles = [
        device.launch(plan)
        for plan in (
            StepPlan(0, (Row(0, 0, PROMPT[:5], (0,)),), (admit(0, PROMPT),)),
            StepPlan(1, (Row(0, 5, PROMPT[5:33], (1, 2)),)),
            StepPlan(2, (Row(0, 33, PROMPT[33:], sample=True),)),
            StepPlan(3, (Row(0, 40, (IN_FLIGHT,), sample=True),)),
            StepPlan(4, (Row(0, 41, (IN_FLIGHT,), sample=True),)),
        )
    ]
    drawn = [device.collect(handle).rows[0].token_ids for handle in handles]
    assert drawn == [(), (), *((token,) for token in alone)]


def test_a_continuation_after_preemption_is_the_same():
    alone = answer(Driver(), PROMPT, (0, 1, 2, 3), 10)
    drive = Driver()
    tokens = [*PROMPT, *alone[:4]]
    result = drive(
        Row(1, 0, tuple(tokens), (7, 6, 5), sample=True), admissions=[admit(1, tokens, prompt_tokens=40)]
    )
    assert result.rows[0].token_ids[0] == alone[4]


def test_the_seed_matters_only_above_temperature_zero():
    def run(temperature, seed):
        return answer(Driver(), PROMPT, (0, 1, 2, 3), 10, Sampling(temperature=temperature, seed=seed))

    assert run(0.0, 1) == run(0.0, 2)
    assert run(1.0, 1) == run(1.0, 1)
    assert run(1.0, 1) != run(1.0, 2)


def test_ranks_are_drawn_with_their_probabilities():
    model = HashModel(1000)
    sampling = [Sampling(temperature=1.0, seed=seed, logprobs=0) for seed in range(20_000)]
    scores = [model.draw(12345, s)[1].logprob for s in sampling]
    for rank in range(4):
        logprob = -math.log(2) * (rank + 1)
        share = sum(math.isclose(s, logprob) for s in scores) / len(scores)
        assert share == pytest.approx(math.exp(logprob), rel=0.1)


def test_scores_are_of_the_distribution_drawn_from():
    model = HashModel(1000)
    token, score = model.draw(777, Sampling(temperature=0.0, logprobs=3))
    assert score.token_id == token
    assert next(t for t, _ in score.top) == token
    assert len({t for t, _ in score.top}) == 3
    assert score.logprob == score.top[0][1] == pytest.approx(math.log(0.5))
    assert model.score(777, token, Sampling(temperature=0.0)).logprob == score.logprob
    assert model.draw(777, Sampling(temperature=0.0))[1] is None


def test_prompt_scores_end_with_the_prompt():
    drive = Driver()
    asked = Sampling(temperature=0.0, seed=0, prompt_logprobs=2)
    first = drive(
        Row(0, 0, PROMPT[:16], (0, 1, 2), score_prompt=True), admissions=[admit(0, PROMPT, sampling=asked)]
    )
    second = drive(Row(0, 16, PROMPT[16:], sample=True, score_prompt=True))
    scores = first.rows[0].prompt_scores + second.rows[0].prompt_scores
    assert [score.token_id for score in scores] == list(PROMPT[1:])
    assert all(len(score.top) == 2 and score.logprob < 0 for score in scores)


def test_answers_end_with_the_mean_length_asked_for():
    for temperature in (0.0, 1.0):
        model = HashModel(1000, eos_token_id=2, mean_answer_tokens=50)
        lengths = []
        for seed in range(400):
            hashes = _hashes((seed,))
            token = None
            while token != 2:
                token, _ = model.draw(hashes[-1], Sampling(temperature=temperature, seed=seed))
                extend_hashes(hashes, (token,))
            lengths.append(len(hashes) - 1)
        assert sum(lengths) / len(lengths) == pytest.approx(50, rel=0.15)


def test_only_allowed_tokens_and_no_end_before_min_tokens():
    drive = Driver(allowed_token_ids=[10, 11, 12], eos_token_id=2, mean_answer_tokens=1)
    tokens = list(PROMPT)
    admission = admit(0, tokens, banned_token_ids=(2, 11), min_tokens=30)
    result = drive(Row(0, 0, PROMPT, tuple(range(8)), sample=True), admissions=[admission])
    drawn = [result.rows[0].token_ids[0]]
    for _ in range(39):
        row = Row(0, 40 + len(drawn) - 1, (drawn[-1],), sample=True)
        drawn.append(drive(row).rows[0].token_ids[0])
    assert set(drawn[:30]) == {10, 12}
    assert set(drawn[30:]) == {2}


def test_fingerprints_tell_what_changes_answers():
    plain = executor()
    assert plain.fingerprint == executor(max_batch=2, kv_memory_bytes=None).fingerprint
    assert plain.fingerprint != executor(vocab_size=999).fingerprint
    assert plain.fingerprint != executor(eos_token_id=3).fingerprint


def test_impossible_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"tokens in \[0, 10\)"):
        HashModel(10, allowed_token_ids=[3, 10])
    with pytest.raises(ValueError, match="allowed_token_ids"):
        HashModel(10, allowed_token_ids=[3], eos_token_id=3)
    with pytest.raises(ValueError, match="mean_answer_tokens"):
        HashModel(10, mean_answer_tokens=0)
    with pytest.raises(ValueError, match="banned"):
        HashModel(10, allowed_token_ids=[3]).draw(1, GREEDY, (3,))


class Words:
    def __init__(self, *texts):
        self.texts = texts
        self.vocab_size = len(texts)

    def token_bytes(self, token):
        return self.texts[token]

    def is_special(self, token):
        return self.texts[token].startswith(b"<")


def test_readable_tokens():
    words = Words(b"<s>", b" the", b"x", b" Cat", b" 42", b" of")
    assert readable_token_ids(words, 1000) == (1, 5)
    assert readable_token_ids(words, 5) == (1,)
    assert readable_token_ids(Words(b"<s>", b"A", b"x", b" ", b"\xff"), 1000) == (2, 3)
    assert readable_token_ids(Words(b"<s>", b"A", b"\xff"), 1000) == (1, 2)


# --- discipline ------------------------------------------------------------------------------


def _hashes(tokens):
    hashes = array("Q")
    extend_hashes(hashes, tokens)
    return hashes


def test_a_prefix_that_was_computed_may_be_shared():
    drive = Driver()
    alone = answer(drive, PROMPT, (0, 1, 2), 1)
    tokens = (*PROMPT[:32], 900, 901)
    result = drive(Row(3, 32, (900, 901), (0, 1, 9), sample=True), admissions=[admit(3, tokens)])
    assert result.rows[0].token_ids[0] == answer(Driver(), tokens, (0, 1, 2), 1)[0] != alone[0]


def test_a_prefix_that_was_never_computed_is_noticed():
    drive = Driver()
    with pytest.raises(KVMismatch, match=r"position 0, which is in block 5 at 0, but nothing was written"):
        drive(Row(0, 32, PROMPT[32:], (5, 6, 7), sample=True), admissions=[admit(0, PROMPT)])


def test_blocks_in_the_wrong_order_are_noticed():
    drive = Driver()
    answer(drive, PROMPT, (0, 1, 2), 1)
    with pytest.raises(KVMismatch, match="another prefix was written"):
        drive(Row(0, 32, PROMPT[32:], (1, 0, 7)), admissions=[admit(0, PROMPT)])


def test_a_block_of_another_text_is_noticed():
    drive = Driver()
    answer(drive, PROMPT, (0, 1, 2), 1)
    other = (999, *PROMPT[1:])
    with pytest.raises(KVMismatch, match="position 0"):
        drive(Row(0, 32, other[32:], (0, 1, 7)), admissions=[admit(0, other)])


def test_the_same_tokens_after_another_beginning_are_noticed():
    drive = Driver()
    first = (*range(16), *range(500, 516), 1)
    second = (*range(16, 32), *range(500, 516), 1)
    answer(drive, first, (0, 1, 2), 1)
    answer(drive, second, (3, 4, 5), 1)
    with pytest.raises(KVMismatch, match="position 16, which is in block 4"):
        drive(Row(0, 32, (1,), (0, 4, 7)), admissions=[admit(0, first)])


def test_a_half_filled_block_is_no_full_one():
    drive = Driver()
    answer(drive, PROMPT, (0, 1, 2), 1)  # block 2 holds 8 positions
    longer = (*PROMPT, *range(200, 210))
    with pytest.raises(KVMismatch, match="position 40, which is in block 2 at 8, but nothing"):
        drive(Row(0, 48, longer[48:], (0, 1, 2, 7)), admissions=[admit(0, longer)])


def test_a_block_reused_while_somebody_reads_it_is_noticed():
    drive = Driver()
    first = drive(Row(0, 0, PROMPT, (0, 1, 2), sample=True), admissions=[admit(0, PROMPT)])
    other = tuple(range(300, 310))
    drive(Row(1, 0, other, (1,)), admissions=[admit(1, other)])
    with pytest.raises(KVMismatch, match="slot 0 relies on position 16"):
        drive(Row(0, 40, (first.rows[0].token_ids[0],), sample=True))


def test_a_block_overwritten_in_the_very_step_is_noticed():
    drive = Driver()
    first = drive(Row(0, 0, PROMPT, (0, 1, 2), sample=True), admissions=[admit(0, PROMPT)])
    decode = Row(0, 40, (first.rows[0].token_ids[0],), sample=True)
    other = tuple(range(300, 310))
    for rows in ((decode, Row(1, 0, other, (1,))), (Row(1, 0, other, (1,)), decode)):
        with pytest.raises(KVMismatch, match="slot 0 relies on position 16"):
            drive(*rows, admissions=[admit(1, other)])
        drive(releases=[1])


def test_relying_on_what_the_same_step_computes_is_noticed():
    drive = Driver()
    tokens = (*PROMPT[:32], 5)
    rows = (Row(0, 0, PROMPT, (0, 1, 2)), Row(1, 32, (5,), (0, 1, 3)))
    with pytest.raises(KVMismatch, match="slot 1 relies on position 0"):
        drive(*rows, admissions=[admit(0, PROMPT), admit(1, tokens)])


def test_a_freed_block_may_be_reused():
    drive = Driver()
    answer(drive, PROMPT, (0, 1, 2), 1)
    other = tuple(range(300, 340))
    assert answer(drive, other, (2, 1, 0), 5) == answer(Driver(), other, (0, 1, 2), 5)
    with pytest.raises(KVMismatch):
        drive(Row(0, 32, PROMPT[32:], (0, 1, 7)), admissions=[admit(0, PROMPT)])


def test_writing_the_same_again_harms_nobody():
    drive = Driver()
    first = drive(Row(0, 0, PROMPT, (0, 1, 2), sample=True), admissions=[admit(0, PROMPT)])
    drive(Row(1, 0, PROMPT[:16], (0,)), admissions=[admit(1, PROMPT)])
    drive(Row(0, 40, (first.rows[0].token_ids[0],), sample=True))


@pytest.mark.parametrize(
    ("rows", "admissions", "releases", "message"),
    [
        ([Row(0, 0, PROMPT, (0, 1))], [admit(0, PROMPT)], [], "2 blocks, too few for 40"),
        ([Row(0, 0, PROMPT, (0, 1, 64))], [admit(0, PROMPT)], [], "block 64 of 64"),
        ([Row(0, 0, PROMPT, (0, 1, 1))], [admit(0, PROMPT)], [], "block 1 twice"),
        ([Row(0, 0, PROMPT, (0, 1, 2))], [], [], "never admitted"),
        ([Row(0, 0, (1, 2), (0,))], [admit(0, PROMPT)], [], r"computes \[1, 2\] at 0"),
        ([Row(0, 0, (*PROMPT, 1), (0, 1, 2))], [admit(0, PROMPT)], [], "at 0"),
        ([Row(0, 0, PROMPT[:9], (0,), sample=True)], [admit(0, PROMPT)], [], "samples before"),
        ([Row(0, 0, PROMPT[:9], (0,)), Row(0, 9, PROMPT[9:])], [admit(0, PROMPT)], [], "two rows"),
        ([], [admit(0, PROMPT), admit(0, PROMPT)], [], "not free"),
        ([], [admit(4, PROMPT)], [], "slot 4 of 4"),
        ([], [admit(0, range(513))], [], "513 tokens"),
        ([], [], [1], "slot 1 is released but free"),
    ],
)
def test_plans_that_contradict_what_was_told_are_refused(rows, admissions, releases, message):
    drive = Driver()
    with pytest.raises((BadPlan, KVMismatch), match=message):
        drive(*rows, admissions=admissions, releases=releases)


def test_it_stays_usable_after_a_bad_plan():
    drive = Driver()
    with pytest.raises(BadPlan):
        drive(Row(0, 0, (1, 2), (0,)), admissions=[admit(0, PROMPT)])
    drive(releases=[0])
    assert answer(drive, PROMPT, (0, 1, 2), 5) == answer(Driver(), PROMPT, (0, 1, 2), 5)
    drive.executor.close()
    assert answer(drive, PROMPT, (0, 1, 2), 5) == answer(Driver(), PROMPT, (0, 1, 2), 5)
