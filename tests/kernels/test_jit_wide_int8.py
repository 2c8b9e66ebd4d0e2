"""Attention of chunks in tiles over K and V in int8, against plain float64 over what is stored."""

import pytest
from attention_cases import WIDE_BOUND, Case, check

from ridgeline.kernels.jit.kv_pool import INT8


@pytest.mark.parametrize("tokens", [2, 33, 100])
@pytest.mark.parametrize("start", [0, 7, 90, 600])
@pytest.mark.parametrize("window", [0, 40])
def test_chunks_in_tiles(tokens: int, start: int, window: int) -> None:
    case = Case(9, 3, 64, [start + tokens, start + 2], [tokens, 2], window=window, form=INT8)
    check(case, 0, bound=WIDE_BOUND, wide=True)
