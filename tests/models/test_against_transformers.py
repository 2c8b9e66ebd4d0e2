"""The default model against what Hugging Face transformers answered to 20 prompts.

The answers are stored by `reference/make_generation_reference.py`; the slow test makes them anew.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from step_driver import GREEDY, StepDriver

from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.models.files import ModelFiles, open_model
from ridgeline.protocol import Message, Sampling

REFERENCE = Path(__file__).parent / "reference"
NEAR_TIE = 1e-3
"""Two best logits nearer than this may change places with another order of additions."""


@pytest.fixture(scope="module")
def stored() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(
        (REFERENCE / "smollm2_generation.json").read_text(encoding="utf-8")
    )
    return rows


@pytest.fixture(scope="module")
def files(smollm2_path: Path) -> ModelFiles:
    return open_model(str(smollm2_path))


@pytest.fixture(scope="module")
def executor(files: ModelFiles) -> CpuExecutor:
    return CpuExecutor(
        files, dtype="float32", kv_memory_bytes=2**29, max_batch=20, max_context_tokens=1024, threads=2
    )


def test_prompts_become_the_same_tokens(files: ModelFiles, stored: list[dict[str, Any]]) -> None:
    for row in stored:
        prompt = row["prompt"]
        if isinstance(prompt, str):
            assert files.tokenizer.encode(prompt) == row["prompt_ids"]
        else:
            messages = [Message(turn["role"], turn["content"]) for turn in prompt]
            assert files.tokenizer.encode_chat(messages) == row["prompt_ids"]


def forced_choices(executor: CpuExecutor, stored: list[dict[str, Any]]) -> list[tuple[bool, float, str]]:
    """Whether each greedy choice is the stored one, the stored distance of the two best, and where.

    All prompts in one batch, 64 tokens each; after each step the reference's token is gone on with.
    """
    driver = StepDriver(executor)
    slots = {driver.admit(row["prompt_ids"], GREEDY): row for row in stored}
    choices = []
    for step in range(64):
        results = driver.step({slot: driver.pending(slot) for slot in slots})
        for slot, row in slots.items():
            same = results[slot].token_ids == (row["answer_ids"][step],)
            choices.append((same, row["gaps"][step], f"{row['prompt']!r}, step {step}"))
            driver.sequences[slot].token_ids[-1] = row["answer_ids"][step]
    for slot in slots:
        driver.release(slot)
    driver.step({})
    return choices


def test_greedy_tokens_equal_the_stored_ones(executor: CpuExecutor, stored: list[dict[str, Any]]) -> None:
    choices = forced_choices(executor, stored)
    assert [where for same, gap, where in choices if not same and gap >= NEAR_TIE] == []
    assert sum(gap < NEAR_TIE for _, gap, _ in choices) < 0.01 * len(choices)


@pytest.mark.slow
def test_bfloat16_differs_only_where_the_choice_is_close(
    files: ModelFiles, stored: list[dict[str, Any]]
) -> None:
    """Logits near 20 are rounded to steps of 1/8 by the head alone."""
    executor = CpuExecutor(
        files, dtype="bfloat16", kv_memory_bytes=2**28, max_batch=20, max_context_tokens=1024, threads=2
    )
    choices = forced_choices(executor, stored)
    executor.close()
    assert [where for same, gap, where in choices if not same and gap >= 0.5] == []
    assert sum(same for same, _, _ in choices) >= 0.97 * len(choices)


def test_logits_equal_the_stored_ones(
    executor: CpuExecutor, files: ModelFiles, stored: list[dict[str, Any]]
) -> None:
    """Largest difference at the stored ids over the largest logit, below 1e-3 for every prompt.

    Seen through the log probabilities of the whole vocabulary: the normaliser is common to all ids,
    so that differences to the best token are compared.
    """
    driver = StepDriver(executor)
    everything = Sampling(temperature=0.0, logprobs=files.config.vocab)
    for row in stored:
        slot = driver.admit(row["prompt_ids"], everything)
        result = driver.step({slot: driver.pending(slot)})[slot]
        driver.release(slot)
        (score,) = result.scores
        logprobs = dict(score.top)
        got = torch.tensor([logprobs[i] - score.top[0][1] for i in row["first_logits"]["ids"]])
        wanted = torch.tensor(row["first_logits"]["logits"])
        error = (got - (wanted - wanted.max())).abs().max() / wanted.abs().max()
        assert error < 1e-3, row["prompt"]
    driver.step({})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_stored_answers_are_what_transformers_says_today(stored: list[dict[str, Any]]) -> None:
    spec = importlib.util.spec_from_file_location("make", REFERENCE / "make_generation_reference.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for made, row in zip(script.make(), stored, strict=True):
        assert made["prompt"] == row["prompt"]
        assert made["prompt_ids"] == row["prompt_ids"]
        tied = [i for i, gap in enumerate(row["gaps"]) if gap < NEAR_TIE]
        until = tied[0] if tied else len(row["gaps"])
        assert made["answer_ids"][:until] == row["answer_ids"][:until]
        assert made["first_logits"]["ids"] == row["first_logits"]["ids"]
        assert made["first_logits"]["logits"] == pytest.approx(row["first_logits"]["logits"], abs=1e-3)
