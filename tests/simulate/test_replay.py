"""`ridgeline replay` and what is behind it, on a trace made here, and on Mooncake's where it is given."""

import json
import os
from pathlib import Path

import pytest
from prefix_workloads import workloads
from typer.testing import CliRunner

from ridgeline.bench.trace import BLOCK_TOKENS, TraceRequest, read_trace, trace_lines
from ridgeline.bench.workload import WorkloadError
from ridgeline.cli.main import app
from ridgeline.kvcache import belady
from ridgeline.roofline import find_hardware, find_shape, recompute_seconds
from ridgeline.simulate.replay import Part, replay


def trace(name="chats and summaries", seconds=200.0):
    return [
        TraceRequest(now, BLOCK_TOKENS * len(keys), 10, keys) for now, keys in workloads(1, seconds)[name]
    ]


def write(path: Path, requests) -> Path:
    rows = [
        {
            "timestamp": round(request.at_seconds * 1000),
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": list(request.hash_ids),
        }
        for request in requests
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: str):
    return CliRunner().invoke(app, ["replay", *arguments])


def costs(position: int) -> float:
    return recompute_seconds(
        find_shape("llama-3.1-8b"),
        find_hardware("h100"),
        "bfloat16",
        start_token=position * BLOCK_TOKENS,
        tokens=BLOCK_TOKENS,
    )


def test_deeper_blocks_take_longer() -> None:
    # 2 * 7.0e9 * 512 FLOP at 702 TFLOP/s, and attention on top.
    assert costs(0) == pytest.approx(10.2e-3, rel=0.02)
    assert costs(100) > 1.5 * costs(0)


def test_an_endless_room_finds_all_that_was_there_before() -> None:
    requests = trace()
    seen: set[int] = set()
    again = 0
    for request in requests:
        again += sum(key in seen for key in request.hash_ids)
        seen.update(request.hash_ids)
    for policy in ("lru", "price", "optimal"):
        result = replay(requests, policy, 10**9, lambda position: 1.0)
        assert result.saved_seconds == again
        assert result.hit_ratio == pytest.approx(again / sum(len(r.hash_ids) for r in requests))


def test_no_policy_beats_the_optimum_and_price_beats_lru() -> None:
    requests = trace(seconds=800.0)
    lru, price, optimal = (
        replay(requests, policy, 400 * BLOCK_TOKENS, lambda position: 1.0).saved_seconds
        for policy in ("lru", "price", "optimal")
    )
    assert lru < price < optimal


def test_parts_add_up_to_the_whole() -> None:
    requests, room = trace(), 200 * BLOCK_TOKENS
    whole = replay(requests, "price", room, costs)
    halves = [replay(requests, "price", room, costs, part) for part in (Part(0, 0.5), Part(0.5, 1))]
    assert sum(half.saved_seconds for half in halves) == pytest.approx(whole.saved_seconds)
    assert len(Part(0, 0.5).of(requests)) + len(Part(0.5, 1).of(requests)) == len(requests)
    assert Part().of(requests) == range(len(requests))


def test_progress_is_told_for_every_request() -> None:
    requests = trace()
    for policy in ("lru", "optimal"):
        told: list[int] = []
        replay(requests, policy, 10**6, costs, on_progress=told.append)
        assert sum(told) == len(requests)


def test_less_than_a_block_is_no_room() -> None:
    with pytest.raises(ValueError, match="a room of 511 tokens has no block of 512"):
        replay(trace(), "lru", 511, costs)


# --- the command -----------------------------------------------------------------------------------


def test_json_has_a_result_for_every_room_and_policy(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", trace())
    done = run(str(file), "--room", "50k,0.2M", "--policy", "lru,price,optimal", "--json")
    assert done.exit_code == 0
    body = json.loads(done.stdout)
    assert [(row["policy"], row["room_tokens"]) for row in body["results"]] == [
        (policy, room) for room in (50_000, 200_000) for policy in ("lru", "price", "optimal")
    ]
    for row in body["results"]:
        assert 0 <= row["hit_ratio"] <= 1
        assert row["saved_seconds"] >= 0
    assert body["results"][0]["saved_over_lru"] == 1.0
    assert (body["model"], body["hardware"], body["part"]) == ("llama-3.1-8b", "h100", [0.0, 1.0])


def test_a_table_for_people(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", trace())
    done = run(str(file), "--room", "50k", "--part", "50-100", "--hardware", "b200", "--model", "qwen3-8b")
    assert done.exit_code == 0
    assert "qwen3-8b on b200" in done.stdout
    for word in ("room, tokens", "over LRU", "optimal", "1.00 x"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--room", "much"), "'much' is no number of tokens"),
        (("--room", "1M,100"), "'100' has no room for a block of 512 tokens"),
        (("--policy", "lru,lfu"), "there is no policy 'lfu': known are lru, price, optimal"),
        (("--part", "60-50"), "'60-50' must go from 0 or more to more"),
        (("--part", "second"), "'second' is no part"),
        (("--model", "gpt-5"), "model 'gpt-5' is unknown; there is llama-3.1-8b"),
        (("--hardware", "abacus"), "hardware 'abacus' is unknown"),
        (("--dtype", "float64"), "h100 does not compute in 'float64'"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = run(str(write(tmp_path / "t.jsonl", trace())), *arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input_length": None}, "'input_length' is None, which is no number"),
        ({"input_length": 0}, "'input_length' is 0, but must be 1 or more"),
        ({"timestamp": "soon"}, "'timestamp' is 'soon'"),
        ({"hash_ids": [1]}, "'hash_ids' has 1 of them, not one for each 512 of 600 tokens"),
        ({"hash_ids": ["a", "b"]}, "'hash_ids' is no list of whole numbers"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, change: dict[str, object], says: str) -> None:
    good = {"timestamp": 1, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]}
    file = tmp_path / "t.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    with pytest.raises(WorkloadError, match="line 2") as error:
        list(trace_lines(file))
    assert says in str(error.value)
    failed = run(str(file))
    assert failed.exit_code == 1
    done = run(str(file), "--skip-bad-lines", "--room", "1k", "--json")
    assert done.exit_code == 0
    assert "1 lines left out" in done.stderr
    assert json.loads(done.stdout)["skipped_lines"] == 1


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"timestamp": 1, "input_length": 600}\n')
    with pytest.raises(WorkloadError, match=r"line 1 .* it has no 'output_length'"):
        read_trace(file)


def test_a_trace_without_ids_says_so(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"timestamp": 1, "input_length": 600, "output_length": 3}\n')
    done = run(str(file))
    assert done.exit_code == 1
    assert "has no 'hash_ids'" in str(done.exception)


# --- an hour of a chat service ---------------------------------------------------------------------

LEAST_OVER_LRU = {1: 2.0, 3: 1.3, 10: 1.05, 20: 0.99, 50: 0.99}


@pytest.fixture(scope="module")
def hour() -> list[TraceRequest]:
    return read_trace(Path(os.environ["RIDGELINE_TEST_DATA"]) / "mooncake-conversation.jsonl")


@pytest.mark.needs_data
@pytest.mark.skipif("RIDGELINE_TEST_DATA" not in os.environ, reason="RIDGELINE_TEST_DATA is not set")
@pytest.mark.parametrize(("millions", "percent"), [(1, 5), (3, 14), (10, 28.5), (50, 36), (10**6, 37)])
def test_lru_hits_what_was_published(hour: list[TraceRequest], millions: int, percent: float) -> None:
    assert 100 * replay(hour, "lru", millions * 10**6, costs).hit_ratio == pytest.approx(percent, abs=0.5)


@pytest.mark.needs_data
@pytest.mark.skipif("RIDGELINE_TEST_DATA" not in os.environ, reason="RIDGELINE_TEST_DATA is not set")
@pytest.mark.parametrize("millions", LEAST_OVER_LRU)
def test_price_saves_more_than_lru_in_the_hour_s_second_half(hour: list[TraceRequest], millions: int) -> None:
    lru, price = (replay(hour, name, millions * 10**6, costs, Part(0.5, 1)) for name in ("lru", "price"))
    assert price.saved_seconds >= LEAST_OVER_LRU[millions] * lru.saved_seconds
    blocks = millions * 10**6 // BLOCK_TOKENS
    assert price.hit_ratio <= sum(belady([request.hash_ids for request in hour], blocks))
