"""Replay: the trace's times and lengths, and prefixes that are shared where its ids are."""

import json
import os
from itertools import takewhile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.bench.trace import (
    BLOCK_TOKENS,
    TraceRequest,
    prompt,
    read_trace,
    replayed,
    trace_conversations,
)
from ridgeline.bench.wording import WORD_IS_A_TOKEN, Wording
from ridgeline.bench.work import at_once_ratio, endless_cache_ratio
from ridgeline.bench.workload import WorkloadError


def request(*hash_ids: int, at: float = 0.0, last: int = BLOCK_TOKENS, made: int = 10) -> TraceRequest:
    return TraceRequest(at, BLOCK_TOKENS * (len(hash_ids) - 1) + last, made, hash_ids)


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(timestamp: float = 0, given: int = 600, made: int = 5, **more: object) -> dict[str, object]:
    return {"timestamp": timestamp, "input_length": given, "output_length": made, **more}


def test_a_trace_is_read_in_order_of_its_times(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.jsonl", row(5000, hash_ids=[1, 2]), row(3000, 10, 0, hash_ids=[3]), row(4000, 9)
    )
    assert read_trace(file) == [
        TraceRequest(0.0, 10, 1, (3,)),  # an answer has one token at least
        TraceRequest(1.0, 9, 5, ()),
        TraceRequest(2.0, 600, 5, (1, 2)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        json.dumps(row(hash_ids=[1])),  # 600 tokens are two blocks
        json.dumps(row(hash_ids=7)),
        json.dumps(row(given=0)),
        json.dumps(row(given="many")),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(WorkloadError, match="line 2"):
        read_trace(file)


def test_no_trace_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "absent"):
        with pytest.raises(WorkloadError, match=name):
            read_trace(tmp_path / name)


def shared_words(one: str, other: str) -> int:
    pairs = zip(one.split(), other.split(), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


ids = st.lists(st.integers(0, 5), min_size=1, max_size=5)


@given(ids, ids, st.integers(1, BLOCK_TOKENS), st.floats(1, 6))
def test_equal_ids_are_equal_text(one: list[int], other: list[int], last: int, per_word: float) -> None:
    wording = Wording(per_word, 7)
    texts = [prompt(request(*ids, last=last), 0, 1, wording) for ids in (one, other)]
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    in_block = wording.words_for(BLOCK_TOKENS)
    shared = shared_words(*texts)
    shortest = min(len(text.split()) for text in texts)
    assert shared >= min(same * in_block, shortest)
    # What follows is other text, though two of some hundred words may be the same by chance.
    assert shared <= same * in_block + 8


@given(ids, st.integers(1, BLOCK_TOKENS), st.floats(0.5, 6), st.floats(0, 40))
def test_a_prompt_has_its_length(ids: list[int], last: int, per_word: float, overhead: float) -> None:
    wording = Wording(per_word, overhead)
    asked = request(*ids, last=last)
    tokens = len(prompt(asked, 0, 1, wording).split()) * per_word + overhead
    # Whole words in each block, and one word at least.
    slack = per_word * len(ids)
    assert asked.input_tokens - slack <= tokens <= max(asked.input_tokens, overhead + per_word) + slack


def test_without_ids_nothing_is_shared() -> None:
    bare = TraceRequest(0.0, 50, 1)
    one, other = (prompt(bare, number, 1, WORD_IS_A_TOKEN) for number in (0, 1))
    assert len(one.split()) == 50
    assert shared_words(one, other) < 8
    assert prompt(bare, 0, 1, WORD_IS_A_TOKEN) == one


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 3000)), min_size=1, max_size=20),
    st.floats(0.1, 20),
    st.floats(0.01, 2),
    st.one_of(st.none(), st.integers(10, 3000)),
    st.one_of(st.none(), st.floats(0, 100)),
)
def test_every_request_is_sent_or_counted(
    rows: list[tuple[float, int]], speed_up: float, scale: float, context: int | None, duration: float | None
) -> None:
    trace = [TraceRequest(at, given, 4) for at, given in sorted(rows)]
    plan = replayed(trace, speed_up=speed_up, scale=scale, context_tokens=context, duration_seconds=duration)
    assert len(plan.requests) + plan.too_long + plan.too_late == len(trace)
    assert [kept.at_seconds for kept in plan.requests] == sorted(kept.at_seconds for kept in plan.requests)
    for kept in plan.requests:
        assert context is None or kept.input_tokens + kept.output_tokens <= context
        assert duration is None or kept.at_seconds <= duration


def test_speed_and_scale() -> None:
    trace = [request(1, 2, at=10.0, last=100, made=40), request(1, 3, at=30.0)]
    plan = replayed(trace, speed_up=10, scale=0.5, duration_seconds=2.0)
    assert plan.requests == (TraceRequest(1.0, 306, 20, (1, 2)),)
    assert (plan.block_tokens, plan.too_late) == (256, 1)
    (made,) = trace_conversations(plan, 1, WORD_IS_A_TOKEN)
    assert (len(made.questions[0].split()), made.max_tokens) == (306, 20)


def test_what_an_endless_cache_would_find() -> None:
    trace = (request(1, 2), request(1, 2, 3), request(4, last=100), request(4, last=100))
    assert endless_cache_ratio(trace, BLOCK_TOKENS) == pytest.approx((1024 + 100) / (1024 + 1536 + 200))
    assert endless_cache_ratio((), BLOCK_TOKENS) is None


def test_a_coarse_clock_is_seen() -> None:
    assert at_once_ratio((request(1), request(2), request(3, at=3.0))) == 0.5
    assert at_once_ratio((request(1),)) is None


@pytest.mark.needs_data
@pytest.mark.skipif("RIDGELINE_TEST_DATA" not in os.environ, reason="RIDGELINE_TEST_DATA is not set")
def test_mooncakes_trace_is_read() -> None:
    trace = read_trace(Path(os.environ["RIDGELINE_TEST_DATA"]) / "mooncake-conversation.jsonl")
    assert len(trace) == 12_031
    plan = replayed(trace, context_tokens=8192)
    assert 0.4 < plan.too_long / len(trace) < 0.5
    # Whole blocks hit 37 % in an endless LRU cache; by tokens, last blocks among them, it is about the same.
    assert endless_cache_ratio(replayed(trace).requests, BLOCK_TOKENS) == pytest.approx(0.37, abs=0.02)
