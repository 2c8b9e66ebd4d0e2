"""Products of few tokens against plain ones, in Triton's interpreter where no GPU is."""

import pytest
import torch

from ridgeline.kernels.cuda import linear as module
from ridgeline.kernels.cuda.linear import FEW_ROWS, FewRows, gated_linear, head, linear
from ridgeline.kernels.cuda.tiles import HOPPER_SHARED_BYTES
from ridgeline.kernels.reference import ReferenceKernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REFERENCE = ReferenceKernels()
ERRORS = {torch.bfloat16: 6e-3, torch.float16: 8e-4, torch.float32: 1e-5}

# Rows, outputs, inputs: one step and less, several, a rest, outputs that do not fill a program, many.
SIZES = [(1, 48, 64), (5, 70, 576), (16, 34, 512), (2, 4300, 128), (16, 3300, 40)]


def random(*shape: int, dtype: torch.dtype, spread: float = 1.0) -> torch.Tensor:
    return (spread * torch.randn(shape)).to(dtype).to(DEVICE)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative; infinite where a number is none."""
    assert got.shape == wanted.shape
    assert got.isfinite().all()
    got, wanted = got.double().cpu(), wanted.double().cpu()
    return float((got - wanted).norm() / wanted.norm())


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(0)
    return request.param


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SIZES)
@pytest.mark.parametrize("biased", [False, True])
def test_product(dtype: torch.dtype, rows: int, outputs: int, inputs: int, biased: bool) -> None:
    x, weight = random(rows, inputs, dtype=dtype), random(outputs, inputs, dtype=dtype, spread=inputs**-0.5)
    bias = random(outputs, dtype=dtype) if biased else None
    got = FewRows(weight, bias)(x)
    assert got.dtype == dtype
    assert error(got, REFERENCE.linear(weight, bias)(x)) < ERRORS[dtype]


@pytest.mark.parametrize(("rows", "ffn", "inputs"), [*SIZES, (FEW_ROWS, 70, 576), (17, 200, 128)])
@pytest.mark.parametrize("biased", [False, True])
def test_gated_product(dtype: torch.dtype, rows: int, ffn: int, inputs: int, biased: bool) -> None:
    x, weight = random(rows, inputs, dtype=dtype), random(2 * ffn, inputs, dtype=dtype, spread=inputs**-0.5)
    bias = random(2 * ffn, dtype=dtype) if biased else None
    got = FewRows(weight, bias, gated=True)(x)
    assert got.dtype == dtype
    wanted = REFERENCE.gated_linear(weight.float(), None if bias is None else bias.float())(x.float())
    assert error(got, wanted) < ERRORS[dtype]


def test_sums_of_the_head_are_not_rounded(dtype: torch.dtype) -> None:
    x, weight = random(3, 640, dtype=dtype), random(97, 640, dtype=dtype)
    got = FewRows(weight, None, dtype=torch.float32)(x)
    assert got.dtype == torch.float32
    assert error(got, x.float() @ weight.float().T) < ERRORS[torch.float32]


def test_rows_do_not_depend_on_others(dtype: torch.dtype) -> None:
    x, weight = random(16, 160, dtype=dtype), random(48, 160, dtype=dtype)
    product = FewRows(weight, None)
    x[3] = float("nan")
    rows = [i for i in range(16) if i != 3]
    together = product(x)[rows]
    alone = torch.cat([product(x[i : i + 1].clone()) for i in rows])
    # The interpreter multiplies by numpy, which adds in another order for other shapes on some processors.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(together, alone, rtol=2 * eps, atol=16 * eps)


def test_nothing_beyond_the_rows_is_written(dtype: torch.dtype) -> None:
    weight = random(40, 96, dtype=dtype)
    room = torch.full((8, 40), float("nan"), dtype=dtype, device=DEVICE)
    x = random(5, 96, dtype=dtype)
    shape, launch = FewRows(weight, None)._launches[0]
    launch(module._few_rows_kernel, (-(-40 // shape.outputs),), x, weight, None, room, 5, 40, 96)
    assert room[:5].isfinite().all() and room[5:].isnan().all()


def test_too_many_rows_are_refused(dtype: torch.dtype) -> None:
    product = FewRows(random(32, 64, dtype=dtype), None)
    with pytest.raises(ValueError, match="A product of 17 rows; the kernel takes 16, contiguous"):
        product(random(17, 64, dtype=dtype))
    with pytest.raises(ValueError, match="contiguous"):
        product(random(64, 2, dtype=dtype).T)


@pytest.mark.parametrize("rows", [1, 16, 17, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("shared", [HOPPER_SHARED_BYTES, HOPPER_SHARED_BYTES - 1])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_many_rows_other_gpus_and_float32_go_another_way(
    monkeypatch: pytest.MonkeyPatch, rows: int, shared: int, kind: torch.dtype
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(module, "silu_mul", REFERENCE.silu_mul)
    launched: list[int] = []
    few = FewRows.__call__

    def note(self: FewRows, x: torch.Tensor) -> torch.Tensor:
        launched.append(len(x))
        return few(self, x)

    monkeypatch.setattr(FewRows, "__call__", note)
    x, weight = random(rows, 64, dtype=kind), random(80, 64, dtype=kind, spread=0.125)
    bias = random(80, dtype=kind)
    assert error(linear(weight, bias, shared)(x), REFERENCE.linear(weight, bias)(x)) < ERRORS[kind]
    gated = REFERENCE.gated_linear(weight.float(), bias.float())(x.float())
    assert error(gated_linear(weight, bias, shared)(x), gated) < 2 * ERRORS[kind]
    assert error(head(weight, shared)(x), REFERENCE.head(weight)(x)) < ERRORS[torch.float32]
    here = kind != torch.float32 and shared == HOPPER_SHARED_BYTES
    wanted = [rows] * 3 if rows <= 16 else [rows] * (rows <= FEW_ROWS)
    assert launched == (wanted if here else [])
