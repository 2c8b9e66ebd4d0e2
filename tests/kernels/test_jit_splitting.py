"""How many rows a product takes at a time: the cheapest way by what each number costs."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.kernels.jit.products import BLOCK_BYTES, MAX_ROWS
from ridgeline.kernels.jit.splitting import (
    ROWS_PLANNED,
    least_wide_of,
    measure_least_wide,
    measure_splits,
    splits_of,
)
from ridgeline.kernels.jit.target import has_tiles


def parts_of(splits: np.ndarray, rows: int) -> list[int]:
    parts = []
    while rows:
        parts.append(int(splits[min(rows, ROWS_PLANNED)]))
        rows -= parts[-1]
    return parts


def test_even_parts_where_a_row_less_saves_little() -> None:
    splits = splits_of([1.0, 1.1, 1.2, 1.3, 2.0, 2.5])
    assert sorted(parts_of(splits, 8)) == [4, 4]
    assert parts_of(splits, 4) == [4]
    assert splits[ROWS_PLANNED] == 4  # 1.3 / 4 is the least for a row


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(1, 7))
def test_no_other_parts_cost_less(seconds: list[float], rows: int) -> None:
    chosen = sum(seconds[part - 1] for part in parts_of(splits_of(seconds), rows))
    sizes = range(1, len(seconds) + 1)
    for count in range(1, rows + 1):
        for parts in itertools.combinations_with_replacement(sizes, count):
            if sum(parts) == rows:
                assert chosen <= sum(seconds[part - 1] for part in parts) + 1e-9


def test_what_is_measured_can_be_carried_out() -> None:
    splits = measure_splits()
    assert splits.shape == (len(BLOCK_BYTES), ROWS_PLANNED + 1)
    for form in splits:
        for rows in (*range(1, 40), 1000):
            parts = parts_of(form, rows)
            assert sum(parts) == rows and all(1 <= part <= MAX_ROWS for part in parts)


def test_rows_are_wide_from_where_that_is_faster_for_good() -> None:
    assert least_wide_of([1.0, 2.0, 3.0], [1e-9, 1e-9]) == 1
    assert least_wide_of([1.0, 2.0, 3.0], [1e9, 1e9]) == ROWS_PLANNED
    assert least_wide_of([1.0, 2.0, 3.0], [9.5, 20.5]) == 21  # 10 to 16 rows would be, 17 to 20 not
    assert least_wide_of([1.0, 2.0, 3.0], [9.5, 9.5]) == 10


def test_what_is_measured_is_a_number_of_rows_or_never() -> None:
    least = measure_least_wide()
    assert 1 <= least <= ROWS_PLANNED if has_tiles() else least > 1 << 40
