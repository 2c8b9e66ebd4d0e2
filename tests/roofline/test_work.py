from hypothesis import given
from hypothesis import strategies as st

from ridgeline.roofline import Work

SEQUENCES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 90)), min_size=1, max_size=6)


@given(SEQUENCES, st.lists(st.one_of(st.none(), st.integers(1, 80)), min_size=1, max_size=4))
def test_pairs_and_reads_are_those_of_counting(sequences, windows):
    cached = pairs = single = 0
    for window in windows:
        for new, context in sequences:
            seen = [range(max(0, at + 1 - (window or 10**6)), at + 1) for at in range(context, context + new)]
            pairs += sum(map(len, seen))
            read = sum(position < context for position in set().union(*seen))
            cached += read
            single += read if new == 1 else 0
    work = Work.of(sequences, 1, windows)
    layers = len(windows)
    assert round(work.attended_pairs * layers, 6) == pairs
    assert round(work.cached_tokens * layers, 6) == cached
    assert round(work.single_cached_tokens * layers, 6) == single


@given(SEQUENCES, st.integers(1, 60), st.integers(0, 90))
def test_a_chunk_more(sequences, tokens, context):
    assert Work.of(sequences, 2).with_chunk(tokens, context, 1) == Work.of([*sequences, (tokens, context)], 3)


def test_decode_is_one_token_of_each():
    assert Work.decode(3, 100) == Work.of([(1, 100)] * 3, 3)
    assert Work.decode(3, 100).chunk_pairs == 0
