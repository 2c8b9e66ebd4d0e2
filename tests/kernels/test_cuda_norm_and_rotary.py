"""The small fused kernels against the plain operations, in Triton's interpreter where no GPU is."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_rounding import rounding_as_on_a_gpu

from ridgeline.kernels.cuda.activation import silu_mul
from ridgeline.kernels.cuda.norm import MAX_HIDDEN, add_rms_norm, rms_norm
from ridgeline.kernels.cuda.plan import DevicePlan
from ridgeline.kernels.cuda.rotary import rotary_table, rotate_and_store
from ridgeline.kernels.interface import HeadNorms
from ridgeline.kernels.reference import ReferenceKernels, rope
from ridgeline.kernels.reference import rms_norm as plain_rms_norm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REFERENCE = ReferenceKernels()
EPS = 1e-5

FLOAT8 = torch.float8_e4m3fn

# One unit in the last place for what is rounded from float32, some of float32's own otherwise.
TOLERANCE = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 2e-6}
# What is stored in float8 is rounded from what may differ by the last place of another dtype.
FLOAT8_TOLERANCE = 2**-3


@pytest.fixture(autouse=True)
def rounded() -> Iterator[None]:
    with rounding_as_on_a_gpu():
        yield


@pytest.fixture(params=TOLERANCE, ids=["bfloat16", "float16", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(0)
    return request.param


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape).to(dtype).to(DEVICE)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.dtype == wanted.dtype
    if got.dtype == FLOAT8:
        got, wanted = got.float(), wanted.float()
        torch.testing.assert_close(got.cpu(), wanted.cpu(), rtol=FLOAT8_TOLERANCE, atol=2**-9)
        assert (got != wanted).sum() <= 0.01 * got.numel()
        return
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.cpu(), wanted.cpu(), rtol=tolerance, atol=tolerance)


SIZES = [(1, 48), (17, 48), (17, 576), (3, 1000), (2, 4096)]


@pytest.mark.parametrize(("tokens", "hidden"), SIZES)
def test_rms_norm(dtype: torch.dtype, tokens: int, hidden: int) -> None:
    x, weight = random(tokens, hidden, dtype=dtype) * 7, random(hidden, dtype=dtype)
    before = x.clone()
    close(rms_norm(x, weight, EPS), plain_rms_norm(x, weight, EPS))
    assert torch.equal(x, before)


def test_rms_norm_over_heads_and_of_tiny_numbers(dtype: torch.dtype) -> None:
    x, weight = random(5, 3, 64, dtype=dtype) * 1e-3, random(64, dtype=dtype)
    close(rms_norm(x, weight, EPS), plain_rms_norm(x, weight, EPS))


@pytest.mark.parametrize(("tokens", "hidden"), SIZES)
def test_add_rms_norm(dtype: torch.dtype, tokens: int, hidden: int) -> None:
    residual, x = random(tokens, hidden, dtype=dtype) * 7, random(tokens, hidden, dtype=dtype)
    weight, wanted_residual, before = random(hidden, dtype=dtype), residual.clone(), x.clone()
    wanted = REFERENCE.add_rms_norm(wanted_residual, x, weight, EPS)
    close(add_rms_norm(residual, x, weight, EPS), wanted)
    assert torch.equal(residual, wanted_residual)
    assert torch.equal(x, before)


def test_the_sum_is_rounded_before_its_norm() -> None:
    residual = torch.full((1, 64), 256.0, dtype=torch.bfloat16, device=DEVICE)
    x = torch.zeros_like(residual)
    x[0, :32] = 0.9  # vanishes beside 256
    # The norm is 1 and, times this, rounds to 1; that of the unrounded sum is more, and rounds up.
    weight = torch.full((64,), 1 + 2**-8 - 2**-12, device=DEVICE)
    normed = add_rms_norm(residual, x, weight, EPS)
    assert torch.equal(normed.cpu(), torch.ones(1, 64, dtype=torch.bfloat16))


def test_norms_refuse_what_they_cannot_do() -> None:
    weight = torch.ones(MAX_HIDDEN + 1)
    with pytest.raises(ValueError, match="up to 16384"):
        rms_norm(torch.ones(1, MAX_HIDDEN + 1), weight, EPS)
    with pytest.raises(ValueError, match="not contiguous"):
        rms_norm(torch.ones(4, 64)[:, :32], weight[:32], EPS)
    with pytest.raises(ValueError, match="not contiguous"):
        add_rms_norm(torch.ones(4, 64)[:, :32], torch.ones(4, 32), weight[:32], EPS)
    with pytest.raises(ValueError, match="not contiguous"):
        silu_mul(torch.ones(64, 4).T)


@pytest.mark.parametrize(("tokens", "ffn"), [(1, 80), (17, 80), (3, 1536), (2, 1024)])
def test_silu_mul(dtype: torch.dtype, tokens: int, ffn: int) -> None:
    gate_up = random(tokens, 2 * ffn, dtype=dtype) * 4
    close(silu_mul(gate_up), REFERENCE.silu_mul(gate_up))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_silu_mul_at_the_ends_of_its_range() -> None:
    gate_up = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 2.0, 3.0, 4.0, 5.0]], device=DEVICE)
    assert silu_mul(gate_up).cpu().tolist() == [[0.0, 0.0, 0.0, 500.0]]


def test_nothing_is_written_past_a_row(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Results are allocated before a margin, which the threads beyond the end of a row must leave alone."""
    margins, new_empty = [], torch.Tensor.new_empty

    def allocate(like: torch.Tensor, shape: tuple[int, ...], **others: Any) -> torch.Tensor:
        if others:  # the interpreter's own
            return new_empty(like, shape, **others)
        size = math.prod(shape)
        buffer = like.new_full((size + 64,), math.nan)
        margins.append(buffer[size:])
        return buffer[:size].view(shape)

    x, weight, gate_up = random(1, 48, dtype=dtype), random(48, dtype=dtype), random(1, 160, dtype=dtype)
    residual = allocate(x, x.shape).zero_()
    monkeypatch.setattr(torch.Tensor, "new_empty", allocate)
    for result in (rms_norm(x, weight, EPS), add_rms_norm(residual, x, weight, EPS), silu_mul(gate_up)):
        assert result.isfinite().all()
    assert len(margins) == 4
    assert all(margin.isnan().all() for margin in margins)


def frequencies(head_dim: int) -> tuple[float, ...]:
    return tuple(10_000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2))


def test_rotary_table() -> None:
    table = rotary_table(frequencies(8), 40, DEVICE)
    assert table.shape == (40, 8)
    assert table.dtype == torch.float32
    angles = torch.arange(40).double()[:, None] * torch.tensor(frequencies(8)).double()
    wanted = torch.cat((angles.cos(), angles.sin()), 1).float()
    torch.testing.assert_close(table.cpu(), wanted, rtol=0, atol=5e-6)


LAYERS, BLOCKS, BLOCK_SIZE, SLOTS, WIDTH = 3, 11, 16, 3, 3
LAYER = 1

# First and last entry of blocks, neighbours of one sequence, padding between and after.
POSITIONS = (0, 15, 16, 47, -1, 31, 32, 1, 2, 3, 4, 5, 46, 14, 17, -1, -7)
OWNERS = (0, 1, 2, 0, 5, 1, 1, 2, 2, 2, 2, 2, 1, 0, 0, -1, 99)


def plan_of(tokens: int) -> DevicePlan:
    """Scattered blocks, none of them in two tables; the first `tokens` of the positions above."""
    tables = torch.randperm(BLOCKS)[: SLOTS * WIDTH].view(SLOTS, WIDTH)
    columns = (torch.tensor(POSITIONS[:tokens]), torch.tensor(OWNERS[:tokens]), tables)
    return DevicePlan(*(column.to(torch.int32).to(DEVICE) for column in columns), works=())


def plainly(
    qkv: torch.Tensor, pool: torch.Tensor, norms: HeadNorms | None, plan: DevicePlan, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What qkv and the whole pool ought to be afterwards, token by token."""
    qkv, pool = qkv.cpu().clone(), pool.cpu().clone()
    kv_heads, head_dim = pool.shape[3], pool.shape[5]
    for token, (position, slot) in enumerate(zip(plan.positions.tolist(), plan.slots.tolist(), strict=True)):
        if position < 0:
            continue
        rows = qkv[token].view(1, heads + 2 * kv_heads, head_dim)
        query, key, value = rows.tensor_split((heads, heads + kv_heads), dim=1)
        turned = query, key
        if norms is not None:
            turned = tuple(plain_rms_norm(x, gain.cpu(), EPS) for x, gain in zip(turned, norms, strict=True))
        new_query, new_key = (rope(x, torch.tensor([position]), frequencies(head_dim)) for x in turned)
        block = int(plan.tables[slot, position // BLOCK_SIZE])
        for kind, new in enumerate((new_key[0], value[0])):
            stored = new.float().clamp(-448, 448) if pool.dtype == FLOAT8 else new
            pool[block, LAYER, kind, :, position % BLOCK_SIZE] = stored.to(pool.dtype)
        query.copy_(new_query)
    return qkv, pool


@pytest.mark.parametrize("stored", [None, FLOAT8], ids=["same", "float8"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "head_dim"),
    [
        (1, 9, 3, 64),
        (17, 4, 2, 8),
        (17, 9, 3, 16),
        (3, 32, 8, 64),
        (3, 14, 2, 128),
        (2, 6, 6, 96),
        (2, 5, 1, 256),
    ],
)
def test_rotate_and_store(
    dtype: torch.dtype,
    normed: bool,
    stored: torch.dtype | None,
    tokens: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
) -> None:
    qkv = random(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype) * 3
    pool = random(BLOCKS, LAYERS, 2, kv_heads, BLOCK_SIZE, head_dim, dtype=stored or dtype)
    norms = HeadNorms(random(head_dim, dtype=dtype), random(head_dim, dtype=dtype)) if normed else None
    plan = plan_of(tokens)
    wanted_qkv, wanted_pool = plainly(qkv, pool, norms, plan, heads)
    table = rotary_table(frequencies(head_dim), 64, DEVICE)
    rotate_and_store(qkv, norms, EPS, table, plan, pool[:, LAYER], heads)
    close(qkv, wanted_qkv)
    close(pool, wanted_pool)


def test_float8_ends_at_its_largest_and_keeps_what_is_no_number(dtype: torch.dtype) -> None:
    row = torch.zeros(3 * 64, dtype=dtype, device=DEVICE)
    row[64:70] = torch.tensor([447.0, 465.0, -1e4, 6e4, math.nan, 2**-10])
    row[128:134] = row[64:70]
    pool = torch.zeros(BLOCKS, LAYERS, 2, 1, BLOCK_SIZE, 64, device=DEVICE).to(FLOAT8)
    plan = plan_of(1)
    table = rotary_table((0.0,) * 32, 64, DEVICE)
    rotate_and_store(row[None], None, EPS, table, plan, pool[:, LAYER], 1)
    key, value = pool[int(plan.tables[0, 0]), LAYER, :, 0, 0, :6].float().cpu()
    wanted = torch.tensor([448.0, 448.0, -448.0, 448.0, math.nan, 0.0])
    for got in (key, value):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


def test_what_is_not_rotated_is_not_touched(dtype: torch.dtype) -> None:
    heads, kv_heads, head_dim = 4, 2, 16
    qkv = random(17, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    pool = random(BLOCKS, LAYERS, 2, kv_heads, BLOCK_SIZE, head_dim, dtype=dtype)
    before, pool_before, plan = qkv.clone(), pool.clone(), plan_of(17)
    table = rotary_table(frequencies(head_dim), 64, DEVICE)
    rotate_and_store(qkv, None, EPS, table, plan, pool[:, LAYER], heads)
    padding = plan.positions < 0
    assert torch.equal(qkv[padding], before[padding])
    assert torch.equal(qkv[:, heads * head_dim :], before[:, heads * head_dim :])
    written = torch.zeros(pool.shape[:2] + pool.shape[4:5], dtype=torch.bool, device=DEVICE)
    for position, slot in zip(plan.positions.tolist(), plan.slots.tolist(), strict=True):
        if position >= 0:
            written[plan.tables[slot, position // BLOCK_SIZE].item(), LAYER, position % BLOCK_SIZE] = True
    assert 0 < written.sum() == (~padding).sum()
    untouched = ~written[:, :, None, None, :, None].expand_as(pool)
    assert torch.equal(pool[untouched], pool_before[untouched])


def test_a_norm_is_rounded_before_rotation() -> None:
    """Position 0 turns nothing, so what is stored is the rounded norm itself, bit for bit."""
    torch.manual_seed(0)
    qkv = random(1, 3 * 64, dtype=torch.bfloat16)
    norms = HeadNorms(random(64, dtype=torch.bfloat16), random(64, dtype=torch.bfloat16))
    pool = torch.zeros(BLOCKS, LAYERS, 2, 1, BLOCK_SIZE, 64, dtype=torch.bfloat16, device=DEVICE)
    query, key, _ = (x.clone() for x in qkv.chunk(3, 1))
    plan = plan_of(1)
    table = rotary_table(frequencies(64), 64, DEVICE)
    table[0, :32] = 1 + 2**-9
    rotate_and_store(qkv, norms, EPS, table, plan, pool[:, LAYER], 1)
    stored = pool[int(plan.tables[0, 0]), LAYER, 0, 0, 0]
    for got, x, gain in ((qkv[0, :64], query[0], norms.query), (stored, key[0], norms.key)):
        wanted = (plain_rms_norm(x, gain, EPS).float() * (1 + 2**-9)).to(torch.bfloat16)
        assert torch.equal(got, wanted)


def test_rotate_and_store_refuses_strided_blocks() -> None:
    pool = torch.zeros(BLOCKS, 2, 1, BLOCK_SIZE, 64)[..., :32]
    with pytest.raises(ValueError, match="not contiguous"):
        rotate_and_store(torch.zeros(1, 96), None, EPS, torch.zeros(64, 32), plan_of(1), pool, 1)
