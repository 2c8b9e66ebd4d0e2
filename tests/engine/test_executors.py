"""What every executor must do, on small random models: whatever shares a step, the answers are the same.

The CUDA executor runs on a device of host memory that does everything as late as it may, with its
kernels replaced by plain ones. Where K and V are stored in float8, answers are those of a plain model that
rounds them so.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lazy_device import LazyDevice
from plain_launchers import plain_launchers
from plain_model import PlainModel, plain_greedy
from small_models import ARCHITECTURES, make_model, reference_greedy, reference_logits
from step_driver import GREEDY, StepDriver

from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Executor, Row, RowResult, StepPlan
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.models.files import ModelFiles
from ridgeline.protocol import Sampling

NEAR_TIE = 1e-3
WITH_FLOAT8 = "cuda, K and V in float8"


def prompt(length: int, salt: int = 0) -> list[int]:
    return [(i * i * 7 + 3 * i + 101 * salt) % 320 for i in range(length)]


PROMPTS = [prompt(n, salt) for salt, n in enumerate((33, 1, 16, 7, 120, 17))]
DRAWN = Sampling(temperature=0.9, top_p=0.95, seed=11)


@pytest.fixture(params=["cpu", "cuda", WITH_FLOAT8], scope="module")
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    with plain_launchers():
        yield request.param


def make_executor(kind: str, files: ModelFiles) -> Executor:
    settings: dict[str, Any] = {
        "dtype": "float32",
        "kv_memory_bytes": 2**20,
        "max_batch": 8,
        "max_context_tokens": None,
    }
    if kind == "cpu":
        return CpuExecutor(files, **settings, threads=1)
    kv_dtype = "float8" if kind == WITH_FLOAT8 else "auto"
    return TorchCudaExecutor(files, **settings, kv_dtype=kv_dtype, max_batch_tokens=256, device=LazyDevice())


def wanted_greedy(
    kind: str, reference: Any, files: ModelFiles, ids: list[int], count: int
) -> tuple[list[int], list[float]]:
    """The reference's answer and its distances of the two best logits."""
    if kind == WITH_FLOAT8:
        return plain_greedy(files, torch.float8_e4m3fn, ids, count)
    return reference_greedy(reference, ids, count)


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return make_model("llama3-rope")[1]


@pytest.fixture
def driver(kind: str, files: ModelFiles) -> StepDriver:
    return StepDriver(make_executor(kind, files))


def alone(
    kind: str, files: ModelFiles, token_ids: list[int], sampling: Sampling, new_tokens: int
) -> list[int]:
    driver = StepDriver(make_executor(kind, files))
    return driver.generate([driver.admit(token_ids, sampling)], new_tokens)[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_answers_equal_the_reference(kind: str, architecture: str) -> None:
    """Every token but those of near-ties; after one, the reference's token is gone on with."""
    reference, files = make_model(architecture, seed=1)
    driver = StepDriver(make_executor(kind, files))
    wanted, gaps = wanted_greedy(kind, reference, files, PROMPTS[0], 64)
    slot = driver.admit(PROMPTS[0])
    for token, gap in zip(wanted, gaps, strict=True):
        drawn = driver.step({slot: driver.pending(slot)})[slot].token_ids[0]
        assert drawn == token or gap < NEAR_TIE
        driver.sequences[slot].token_ids[-1] = token
    assert sum(gap < NEAR_TIE for gap in gaps) < 6


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_batched_equals_single(kind: str, files: ModelFiles, driver: StepDriver, sampling: Sampling) -> None:
    slots = [driver.admit(ids, sampling) for ids in PROMPTS]
    together = driver.generate(slots, 24)
    assert together == [alone(kind, files, ids, sampling, 24) for ids in PROMPTS]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("size", [1, 5, 16, 50])
def test_chunked_equals_whole(
    kind: str, files: ModelFiles, driver: StepDriver, sampling: Sampling, size: int
) -> None:
    """A prompt in pieces, mixed with a sequence that decodes meanwhile."""
    other = driver.admit(PROMPTS[3], sampling)
    driver.generate([other], 2)
    slot = driver.admit(PROMPTS[4], sampling)
    while driver.pending(slot) > size:
        assert driver.step({other: 1, slot: size})[slot].token_ids == ()
    driver.step({other: 1, slot: driver.pending(slot)})
    assert driver.generate([slot], 16)[0] == alone(kind, files, PROMPTS[4], sampling, 16)


@pytest.mark.parametrize("shared", [1, 3, 7])
def test_prefix_hit_equals_cold(kind: str, files: ModelFiles, driver: StepDriver, shared: int) -> None:
    """Leading blocks of a sequence that has ended, used by two that run at once."""
    first = driver.admit(PROMPTS[4])
    driver.generate([first], 1)
    blocks = driver.sequences[first].blocks[:shared]
    driver.release(first, keep_blocks=True)
    longer = PROMPTS[4] + prompt(30, 5)
    slots = [driver.admit(ids, DRAWN, shared_blocks=blocks) for ids in (PROMPTS[4], longer)]
    assert driver.generate(slots, 12) == [alone(kind, files, ids, DRAWN, 12) for ids in (PROMPTS[4], longer)]


def test_preempted_equals_undisturbed(kind: str, files: ModelFiles, driver: StepDriver) -> None:
    """Draws and penalties go on where they were, though prompt and answer are computed again."""
    sampling = replace(DRAWN, frequency_penalty=0.8, repetition_penalty=1.2)
    slot = driver.admit(PROMPTS[0], sampling)
    driver.generate([slot], 9)
    known = list(driver.sequences[slot].token_ids)
    driver.release(slot)
    other = driver.admit(PROMPTS[4])
    driver.generate([other], 3)
    slot = driver.admit(known, sampling, prompt_tokens=len(PROMPTS[0]))
    assert driver.generate([slot, other], 20)[0] == alone(kind, files, PROMPTS[0], sampling, 20)


def test_given_tokens_count_as_the_answer(kind: str, files: ModelFiles, driver: StepDriver) -> None:
    """A plan may continue with other tokens than were drawn or with several at once."""
    sampling = replace(GREEDY, presence_penalty=1e4, logprobs=0)
    slot = driver.admit(PROMPTS[0], sampling)
    driver.step({slot: len(PROMPTS[0])})
    driver.sequences[slot].token_ids += list(range(100, 300))
    result = driver.step({slot: driver.pending(slot)})[slot]
    (drawn,) = result.token_ids
    assert not 100 <= drawn < 300


def test_prompt_scores_equal_the_reference(kind: str) -> None:
    reference, files = make_model("qwen3")
    driver = StepDriver(make_executor(kind, files))
    ids = PROMPTS[4]
    if kind == WITH_FLOAT8:
        expected = PlainModel(files, torch.float8_e4m3fn)(ids).log_softmax(-1)
    else:
        expected = reference_logits(reference, ids).log_softmax(-1)
    slot = driver.admit(ids, replace(GREEDY, prompt_logprobs=2, logprobs=1))
    parts = [driver.step({slot: n})[slot] for n in (1, 70, 49)]
    assert [len(part.prompt_scores) for part in parts] == [1, 70, 48]
    scores = [scored for part in parts for scored in part.prompt_scores]
    for position, scored in enumerate(scores):
        row = expected[position]
        assert scored.token_id == ids[position + 1]
        assert scored.logprob == pytest.approx(row[ids[position + 1]].item(), abs=2e-3)
        assert [v for _, v in scored.top] == pytest.approx(row.topk(2).values.tolist(), abs=2e-3)
    drawn = parts[-1]
    (score,) = drawn.scores
    assert score.logprob == pytest.approx(expected[-1].max().item(), abs=2e-3)
    assert (score.top[0][0],) == drawn.token_ids
    assert driver.step({slot: 1})[slot].prompt_scores == ()


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        replace(DRAWN, logprobs=2),
        replace(DRAWN, presence_penalty=0.5, repetition_penalty=1.2),
        replace(GREEDY, frequency_penalty=0.7),
    ],
    ids=["greedy", "drawn", "penalised", "greedy and penalised"],
)
def test_drafts_change_no_answer(files: ModelFiles, sampling: Sampling) -> None:
    """Right, wrong, and wrong in the middle: each token, and its score, is what it is without drafts."""
    plain, driver = (StepDriver(make_executor("cpu", files)) for _ in range(2))
    slots = {each: [each.admit(ids, sampling) for ids in PROMPTS[:3]] for each in (plain, driver)}
    for each in (plain, driver):
        each.step({slot: each.pending(slot) for slot in slots[each]})
    wanted = {slot: [plain.step({slot: 1})[slot] for _ in range(40)] for slot in slots[plain]}
    drawn: dict[int, list[RowResult]] = {slot: [] for slot in slots[driver]}
    accepted = 0
    for turn in range(12):
        parts = dict.fromkeys(slots[driver], 1)
        drafts = {}
        for place, slot in enumerate(slots[driver]):
            done = len(driver.answer(slot)) - 1
            right = [result.token_ids[0] for result in wanted[slot][done : done + 4]]
            wrong = 1 + (turn + place) % 5
            drafts[slot] = tuple(t if i + 1 != wrong else (t + 1) % 320 for i, t in enumerate(right))
        for slot, result in driver.step(parts, drafts).items():
            drawn[slot].append(result)
            accepted += len(result.token_ids) - 1
            drafted = drafts[slot]
            assert len(result.token_ids) == 5 or result.token_ids[-1] != drafted[len(result.token_ids) - 1]
    assert accepted > 40
    for slot, results in drawn.items():
        tokens = [token for result in results for token in result.token_ids]
        assert tokens == [result.token_ids[0] for result in wanted[slot][: len(tokens)]]
        scores = [score for result in results for score in result.scores]
        assert len(scores) == (len(tokens) if sampling.logprobs is not None else 0)
        for score, other in zip(scores, wanted[slot], strict=False):
            assert score.logprob == pytest.approx(other.scores[0].logprob, abs=1e-4)


def test_only_who_waits_for_each_step_takes_drafts(kind: str, driver: StepDriver) -> None:
    slot = driver.admit(PROMPTS[0])
    driver.step({slot: len(PROMPTS[0])})
    if kind == "cpu":
        assert driver.step({slot: 1}, {slot: (1, 2)})[slot].token_ids
    else:
        with pytest.raises(ValueError, match="drafts follow one token, on executors of depth 0 only"):
            driver.step({slot: 1}, {slot: (1, 2)})


def test_tokens_banned_until_enough_are_generated(kind: str, files: ModelFiles, driver: StepDriver) -> None:
    undisturbed = alone(kind, files, PROMPTS[0], GREEDY, 4)
    slot = driver.admit(PROMPTS[0], banned_token_ids=(undisturbed[0],), min_tokens=3)
    assert undisturbed[0] not in driver.generate([slot], 3)[0]
    slot = driver.admit(PROMPTS[0], banned_token_ids=(undisturbed[0],), min_tokens=0)
    assert driver.generate([slot], 4)[0] == undisturbed


def test_rows_in_any_order(kind: str, files: ModelFiles, driver: StepDriver) -> None:
    """A chunk before a decode row, and rows whose contexts ascend: results are in the plan's order."""
    slots = [driver.admit(ids) for ids in PROMPTS]
    driver.generate(slots[:3], 3)
    driver.step({slots[4]: 100})
    driver.step({slots[4]: 20, slots[1]: 1, slots[5]: 17, slots[0]: 1, slots[2]: 1, slots[3]: 7})
    assert [driver.answer(s)[: 4 if s in slots[:3] else 1] for s in slots] == [
        alone(kind, files, ids, GREEDY, 4 if i < 3 else 1) for i, ids in enumerate(PROMPTS)
    ]


def test_an_empty_plan_only_releases(driver: StepDriver) -> None:
    slot = driver.admit(PROMPTS[3])
    driver.step({slot: 7})
    driver.release(slot)
    assert driver.step({}) == {}
    assert driver.executor.collect(driver.executor.launch(StepPlan(9, (), releases=(0, 7)))).rows == ()


def test_impossible_plans_are_refused_and_change_nothing(
    kind: str, files: ModelFiles, driver: StepDriver
) -> None:
    executor = driver.executor
    running = driver.admit(PROMPTS[3])
    driver.step({running: 7})
    admission = Admission(5, (1, 2), 2, GREEDY)
    plans = {
        "no sequence": StepPlan(1, (Row(5, 0, (1,), (9,)),)),
        "taken": StepPlan(1, (), (Admission(running, (1,), 1, GREEDY),)),
        "not in \\[0, 8\\)": StepPlan(1, (), (Admission(8, (1,), 1, GREEDY),)),
        "do not fit": StepPlan(1, (Row(5, 0, tuple(range(17)), (9,)),), (admission,)),
        "block id": StepPlan(1, (Row(5, 0, (1, 2), (10**6,)),), (admission,)),
    }
    if executor.depth == 0:
        plans["in flight"] = StepPlan(1, (Row(running, 7, (IN_FLIGHT,), sample=True),))
    for message, plan in plans.items():
        with pytest.raises(ValueError, match=message):
            executor.launch(plan)
    assert driver.generate([running], 8)[0] == alone(kind, files, PROMPTS[3], GREEDY, 8)


def test_non_finite_numbers_fail_their_row_alone(kind: str) -> None:
    """One embedding is broken; neither what shares the step nor the block's next owner notices."""
    _, files = make_model("llama")
    tensors = dict(files.tensors())
    healthy = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["model.embed_tokens.weight"][319] = float("nan")
    driver = StepDriver(make_executor(kind, files))
    slot, other = driver.admit([319] * 20), driver.admit([5, 6, 7])
    first = driver.step({slot: 20, other: 3})
    assert first[slot].token_ids == () and "non-finite" in str(first[slot].error)
    beside = [first[other].token_ids[0], *(driver.step({other: 1})[other].token_ids[0] for _ in range(5))]
    used = driver.sequences[slot].blocks
    driver.release(slot)
    driver.free_blocks.rotate(len(used))
    slot = driver.admit([1, 2, 3])
    answer = driver.generate([slot], 10)[0]
    assert driver.sequences[slot].blocks[0] in used
    tensors["model.embed_tokens.weight"].copy_(healthy["model.embed_tokens.weight"])
    assert answer == alone(kind, files, [1, 2, 3], GREEDY, 10)
    assert beside == alone(kind, files, [5, 6, 7], GREEDY, 6)


def test_blocks_read_and_written_elsewhere_are_as_good(
    kind: str, files: ModelFiles, driver: StepDriver
) -> None:
    """A long prompt's blocks are copied out while another step follows, and into others' places."""
    executor, token_ids = driver.executor, PROMPTS[4]
    wanted = alone(kind, files, token_ids, GREEDY, 12)
    first = driver.admit(token_ids)
    driver.generate([first], 1)
    kept = driver.sequences[first].blocks[:7]
    snapshot = executor.read_blocks(kept)
    driver.release(first)
    others = [driver.admit(prompt(120, salt)) for salt in (7, 8)]  # some of them into the same blocks
    driver.generate(others, 1)
    contents = snapshot()
    assert {len(content) for content in contents} == {executor.geometry.block_bytes}
    for slot in others:
        driver.release(slot)
    places = [driver.free_blocks.popleft() for _ in kept]
    assert set(places) != set(kept)
    executor.write_blocks(places, contents)
    again = driver.admit(token_ids, shared_blocks=places)
    assert driver.generate([again], 12)[0] == wanted


def test_a_content_of_another_length_is_refused(driver: StepDriver) -> None:
    content = driver.executor.read_blocks([0])()[0]
    with pytest.raises(ValueError, match=f"not {len(content) - 1}"):
        driver.executor.write_blocks([1], [content[:-1]])
