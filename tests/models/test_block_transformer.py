"""The compiled int8 step against transformers, with weights that are rounded alike.

Rounding activations to int8 costs something, and where it is nearly a tie the last bit of a sum
decides: in small models of random weights such differences grow from layer to layer. So the step
must lose no more than transformers loses when its activations are rounded in the same blocks.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from small_models import ARCHITECTURES, make_model, reference_logits

from ridgeline.kernels.interface import Batch, Chunk
from ridgeline.kernels.jit.kv_pool import FLOAT16, INT8
from ridgeline.kernels.jit.target import has_tiles
from ridgeline.models import block_job, block_transformer
from ridgeline.models.block_transformer import BlockTransformer
from ridgeline.models.block_weights import load_blocks, misfit
from ridgeline.models.computed import Computed
from ridgeline.models.files import ModelFiles

SIZES = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}
PROMPT = [(i * i * 7 + 3 * i) % 320 for i in range(90)]
OTHER = [(i * 11 + 5) % 320 for i in range(70)]
TABLES = np.array([[5, 2, 7, 0, 1, 6], [3, 4, 8, 10, 9, 11]], dtype=np.int64)


def rounded_weights(reference: Any) -> None:
    """Replace all matrices by what is left of them in blocks of 8 bits."""
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 2:
                raw = quantize(parameter.numpy(), GGMLQuantizationType.Q8_0)
                parameter.copy_(torch.from_numpy(dequantize(raw, GGMLQuantizationType.Q8_0)))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What is left of activations in int8 with a scale for 32 of them."""
    blocks = x.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return (torch.round(blocks / scale.clamp(min=1e-30)) * scale).flatten(-2)


@dataclass
class Model:
    exact: Any
    rounding: Any
    transformer: BlockTransformer

    def check(self, got: torch.Tensor, token_ids: list[int]) -> None:
        """That no more is lost than by rounding activations alone."""
        exact = reference_logits(self.exact, token_ids)
        rounding = error(reference_logits(self.rounding, token_ids), exact)
        assert rounding < 0.1
        assert error(got, exact) < 1.25 * rounding


NEVER = sys.maxsize
WAYS = [NEVER, 1] if has_tiles() else [NEVER]
"""From how many tokens on products are wide."""


class Steps(BlockTransformer):
    """What comes of a step is good until the next one; tests keep it."""

    def forward(self, *arguments: Any) -> Computed:
        hidden, logits, peaks = super().forward(*arguments)
        assert peaks is not None
        for row, place in zip(logits, peaks, strict=True):
            assert place == (int(row.argmax()) if torch.isfinite(row).all() else -1)
        return Computed(hidden.clone(), logits.clone(), peaks)


def block_model(
    files: ModelFiles, threads: int = 2, least_wide: int = NEVER, kv_form: int = FLOAT16
) -> BlockTransformer:
    return Steps(
        files.config,
        load_blocks(files),
        blocks=16,
        block_size_tokens=16,
        max_positions=128,
        threads=threads,
        kv_form=kv_form,
        least_wide=least_wide,
    )


@pytest.fixture(scope="module", params=WAYS)
def least_wide(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, least_wide: int) -> Model:
    exact, rounding = (make_model(request.param, **SIZES)[0] for _ in range(2))
    rounded_weights(exact)
    rounded_weights(rounding)
    for module in rounding.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]), *inputs[1:]))
    return Model(exact, rounding, block_model(make_model(request.param, **SIZES)[1], 2, least_wide))


def batch(singles: list[tuple[int, int, int]], chunks: list[tuple[int, list[int], int]]) -> Batch:
    """singles: (sequence, token, position), longest first; chunks: (sequence, tokens, start)."""
    rows = [(s, token, position) for s, token, position in singles]
    parts = []
    for s, tokens, start in chunks:
        parts.append(Chunk(len(rows), len(tokens), start, TABLES[s], s))
        rows += [(s, token, start + i) for i, token in enumerate(tokens)]
    sequences, token_ids, positions = np.array(rows, dtype=np.int64).T.copy()
    count = len(singles)
    return Batch(
        token_ids,
        positions,
        sequences,
        TABLES[sequences, positions // 16],
        TABLES[sequences[:count]],
        positions[:count] + 1,
        tuple(parts),
    )


def all_rows(given: Batch) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(len(given.token_ids))


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square of the differences over that of the logits."""
    return float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def test_a_prompt_at_once(model: Model) -> None:
    given = batch([], [(0, PROMPT, 0)])
    hidden, logits, _ = model.transformer.forward(given, all_rows(given))
    model.check(logits, PROMPT)
    again = model.transformer.logits(hidden[3:20])
    assert torch.equal(again, logits[3:20])


def test_two_sequences_in_parts_and_token_by_token(model: Model) -> None:
    """Chunks that begin and end inside blocks, beside a decode, then both decoding."""
    got: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    steps = [
        batch([], [(0, PROMPT[:37], 0)]),
        batch([(0, PROMPT[37], 37)], [(1, OTHER[:2], 0)]),
        batch([(0, PROMPT[38], 38)], [(1, OTHER[2:50], 2)]),
        batch([(1, OTHER[50], 50)], [(0, PROMPT[39:60], 39)]),
        *(batch([(0, PROMPT[60 + i], 60 + i), (1, OTHER[51 + i], 51 + i)], []) for i in range(10)),
    ]
    for given in steps:
        _, logits, _ = model.transformer.forward(given, all_rows(given))
        for sequence, row in zip(given.slots.tolist(), logits, strict=True):
            got[sequence].append(row)
    model.check(torch.stack(got[0]), PROMPT[:70])
    model.check(torch.stack(got[1]), OTHER[:61])


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return make_model("llama-biases", **SIZES)[1]


def test_threads_and_company_change_nothing(
    files: ModelFiles, least_wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of a step is summed in the same order, whoever computes it and whatever is beside it."""
    monkeypatch.setattr(block_job, "_GROUP_ROWS", 8)  # so that 3 threads have groups of 32, 17 and 0 rows
    results = []
    for threads in (1, 2, 3):
        model = block_model(files, threads, least_wide)
        model.forward(batch([], [(0, PROMPT[:40], 0), (1, OTHER[:9], 0)]), np.array([39]))
        both = batch([(0, PROMPT[40], 40), (1, OTHER[9], 9)], [])
        results.append(model.forward(both, np.array([0, 1]))[1])
        alone = batch([(1, OTHER[9], 9)], [])
        assert torch.equal(model.forward(alone, np.array([0]))[1][0], results[-1][1])
        model.close()
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("kv_form", [FLOAT16, INT8])
@pytest.mark.parametrize("start", [9, 80])
def test_tokens_that_follow_one_another_at_once(
    files: ModelFiles, least_wide: int, kv_form: int, start: int
) -> None:
    """As drafts are computed: each attends to those before it, whichever thread computed them."""
    ids = PROMPT[start : start + 5]
    alone, together = (block_model(files, 2, least_wide, kv_form) for _ in range(2))
    for each in (alone, together):
        prompts = batch([], [(0, PROMPT[:start], 0), (1, OTHER[:60], 0)])
        each.forward(prompts, all_rows(prompts))
    wanted = [alone.forward(batch([(0, t, start + i)], []), np.arange(1)) for i, t in enumerate(ids)]
    other = alone.forward(batch([(1, OTHER[60], 60)], []), np.arange(1))
    rows = [(0, t, start + i) for i, t in enumerate(ids)] + [(1, OTHER[60], 60)]
    rows.sort(key=lambda row: -row[2])
    for _ in range(20):  # what one thread must wait for, the other is late with only sometimes
        got = together.forward(replace(batch(rows, []), related=True), np.arange(len(rows)))
        for (sequence, _, position), logits in zip(rows, got.logits, strict=True):
            right = other if sequence else wanted[position - start]
            assert error(logits[None], right.logits) < 1e-2
    got = together.forward(replace(batch(rows, []), related=True), np.arange(len(rows)))
    assert got.logits.argmax(-1).tolist() == [
        int((other if sequence else wanted[position - start]).logits.argmax())
        for sequence, _, position in rows
    ]


def test_only_the_rows_that_are_asked_for(files: ModelFiles, least_wide: int) -> None:
    model = block_model(files, 2, least_wide)
    given = batch([], [(0, PROMPT, 0)])
    _, everything, _ = model.forward(given, all_rows(given))
    hidden, some, _ = model.forward(given, np.array([80, 2]))
    assert torch.equal(some, everything[[80, 2]])
    assert hidden.shape == (90, 96)
    assert model.forward(given, np.array([], np.int64))[1].shape == (0, 320)


def test_what_is_not_finite_spoils_its_own_sequence_only(files: ModelFiles, least_wide: int) -> None:
    model = block_model(files, 2, least_wide)
    model.forward(batch([], [(0, PROMPT[:20], 0), (1, OTHER[:20], 0)]), np.array([19]))
    clean = model.forward(batch([(0, 1, 20), (1, 2, 20)], []), np.array([0, 1]))[1]
    model._pool[TABLES[0][0], 1, 1, 0, 5] = np.float16(np.nan).view(np.uint16)
    spoilt = model.forward(batch([(0, 1, 20), (1, 2, 20)], []), np.array([0, 1]))[1]
    assert torch.isnan(spoilt[0]).all()
    assert torch.equal(spoilt[1], clean[1])
    model.clean(TABLES[0])
    assert torch.isfinite(model.forward(batch([(0, 1, 20)], []), np.array([0]))[1]).all()


def test_keys_and_values_in_int8_change_little_and_are_cleaned(files: ModelFiles, least_wide: int) -> None:
    first, then = batch([], [(0, PROMPT[:60], 0), (1, OTHER[:20], 0)]), batch([(0, 1, 60), (1, 2, 20)], [])
    found = []
    for form in (FLOAT16, INT8):
        model = block_model(files, 2, least_wide, form)
        found.append([model.forward(each, all_rows(each))[1] for each in (first, then)])
    for half, narrow in zip(*found, strict=True):
        assert error(narrow, half) < 0.1
    scale = model._pool[TABLES[0][0], 1, 1, 0, 16 * 32 :].view(np.float32)
    scale[5] = np.nan
    spoilt = model.forward(then, all_rows(then))[1]
    assert torch.isnan(spoilt[0]).all()
    assert torch.equal(spoilt[1], found[1][1][1])
    model.clean(TABLES[0])
    assert torch.isfinite(model.forward(then, all_rows(then))[1]).all()


def test_the_head_is_wide_by_its_own_rows_and_steps_by_theirs(files: ModelFiles) -> None:
    """Few logits after many tokens, and steps around the border: all are those of the other ways."""
    narrow, mixed = block_model(files), block_model(files, 2, 8 if has_tiles() else NEVER)
    for tokens in (7, 8, 9, 17, 33):
        given = batch([], [(0, PROMPT[:tokens], 0)])
        for rows in (np.array([tokens - 1]), all_rows(given)):
            wanted, got = narrow.forward(given, rows)[1], mixed.forward(given, rows)[1]
            assert error(got, wanted) < 0.1
    narrow.close()
    mixed.close()


def test_tiles_are_refused_where_there_are_none(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_transformer, "has_tiles", lambda: False)
    with pytest.raises(ValueError, match="no tiles"):
        block_model(files, 1, 16)


def test_models_that_do_not_fit() -> None:
    config = make_model("llama", **SIZES)[1].config
    assert misfit(config) is None
    assert misfit(replace(config, ffn=80)) == "its feed-forward size, 80, is no multiple of 32"
    assert "head size, 16," in str(misfit(replace(config, head_dim=16)))
