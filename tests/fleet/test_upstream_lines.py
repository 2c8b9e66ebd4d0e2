"""A replica's stream in lines, however it is cut on its way."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.fleet.upstream import MAX_LINE_BYTES, Fault, Lines

CONTENT = st.lists(st.sampled_from([b"data: x", b"\n", b"\r\n", b"", b": alive"]), max_size=12).map(b"".join)


@given(CONTENT, st.lists(st.integers(0, 60), max_size=6))
def test_lines_are_the_same_however_they_come(content: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    lines, found = Lines(), []
    for begin, end in itertools.pairwise(places):
        found += lines.ended_by(content[begin:end])
    assert found == content.split(b"\n")[:-1]


def test_a_line_without_end_is_a_fault() -> None:
    lines = Lines()
    with pytest.raises(Fault, match=f"more than {MAX_LINE_BYTES} bytes"):
        for _ in range(MAX_LINE_BYTES // 2**20 + 1):
            assert lines.ended_by(b"x" * 2**20) == []
