"""How far results are from what they should be."""

import math

import torch

from gpu.bench import Bench

ERROR_LIMITS = {"float32": 1e-4, "bfloat16": 10 * 2**-8, "float16": 10 * 2**-11}
"""Of ||result - reference|| / ||reference||, the reference being computed in float32. Of the short dtypes
ten roundings: small random models were seen to lose up to five of bfloat16, a wrong term costs hundreds."""


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """||result - reference|| / ||reference||, or nan where either is not finite."""
    got, wanted = result.detach().double().cpu(), reference.detach().double().cpu()
    if got.shape != wanted.shape:
        raise ValueError(f"shapes {tuple(got.shape)} and {tuple(wanted.shape)} differ")
    return float(torch.linalg.vector_norm(got - wanted) / torch.linalg.vector_norm(wanted))


def worst(errors: list[float]) -> float:
    """The largest, nan being larger than all; of none it is nan as well."""
    return math.nan if not errors or any(math.isnan(error) for error in errors) else max(errors)


def put_check(bench: Bench, name: str, dtype: str, check: str, error: float, limit: float) -> None:
    """Tell the outcome of a check; nan never passes."""
    row = {"model": name, "dtype": dtype, "check": check, "error": error, "limit": limit}
    bench.put("correctness", row | {"ok": bool(error <= limit)})
