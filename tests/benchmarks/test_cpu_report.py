"""The CPU comparison's own arithmetic: ratios, verdicts, limits, table and page, from made figures."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from cpu import page, plot  # noqa: E402
from cpu.limits import Ceilings, Model, best_rate, step_seconds  # noqa: E402
from cpu.report import OURS, median_ceilings, summaries, table  # noqa: E402
from cpu.rows import ROWS, chosen  # noqa: E402

from ridgeline.roofline import ModelShape, Work  # noqa: E402

FAST, SLOW = "fast peer", "slow peer"
ROW = {row.name: row for row in ROWS}

MODEL = Model(ModelShape(2, 64, 4, 2, 16, 128, 256, tied_head=True), bytes_per_weight=0.625)
MATRICES = 2 * 64 * (64 + 32 + 32 + 64 + 3 * 128)
"""Parameters of its layers' matrices; the head has 256 * 64, the norms 5 * 64."""

CEILINGS = Ceilings(1e9, 1e12, 1e11)


def taken(metric: str, *values: float) -> list[dict[str, Any]]:
    """Samples of one contender, one in each repetition."""
    return [{"repetition": n, metric: value} for n, value in enumerate(values)]


def samples() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Of one rate, one time and one row without peers."""
    rate, wait, start = "tokens_per_second", "first_token_seconds", "start_seconds"
    return {
        "decode 16": {OURS: taken(rate, 90, 210, 200), FAST: taken(rate, 100, 99), SLOW: taken(rate, 50)},
        "ttft 16": {
            OURS: taken(wait, 1.2),
            FAST: taken(wait, 2.0),
            SLOW: taken(wait, 3.0),
        },
        "start": {OURS: taken(start, 2.5)},
    }


def summary(name: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return summaries([ROW[name]], {name: found}, None, None)[0]


def record() -> dict[str, Any]:
    """As `compare.py` prints it."""
    measured = samples()
    return {
        "date": "1 January 2026",
        "machine": {"processor": "Example", "cores_used": "2"},
        "model": "small",
        "contenders": {OURS: {"dtype": "int8"}, FAST: {"version": "1"}, SLOW: {"version": "2"}},
        "ceilings": {
            "read_bytes_per_second": 30e9,
            "int8_operations_per_second": 1.4e12,
            "float32_operations_per_second": 160e9,
        },
        "rows": summaries([ROW[name] for name in measured], measured, CEILINGS, MODEL),
        "left_out": {"vLLM": "no vllm/bin/python in peers"},
        "client_share": {OURS: 0.07, FAST: 0.02},
        "disturbed": 3,
        "failures": ["slow peer, start: ended with 1"],
        "samples": measured,
    }


def test_a_rate_is_compared_with_the_fastest_peer() -> None:
    row = summary("decode 16", samples()["decode 16"])
    assert row["contenders"][OURS] == {"median": 200.0, "least": 90.0, "most": 210.0}
    assert row["fastest_peer"] == FAST
    assert row["ratio"] == pytest.approx(200 / 99.5)
    assert row["met"] is True


def test_the_spread_of_a_ratio_is_of_repetitions_in_which_both_were_measured() -> None:
    row = summary("decode 16", samples()["decode 16"])
    assert (row["ratio_least"], row["ratio_most"]) == pytest.approx((0.9, 210 / 99))


def test_of_times_the_shortest_is_the_fastest() -> None:
    row = summary("ttft 16", samples()["ttft 16"])
    assert row["fastest_peer"] == FAST
    assert row["ratio"] == pytest.approx(0.6)
    assert row["met"] is False


def test_a_goal_in_seconds_needs_no_peer() -> None:
    row = summary("start", samples()["start"])
    assert row["met"] is True
    assert "ratio" not in row
    assert summary("start", {OURS: taken("start_seconds", 3.5)})["met"] is False


@pytest.mark.parametrize(("own", "met"), [(159.9, False), (160.0, True)])
def test_a_goal_is_met_from_its_figure_on(own: float, met: bool) -> None:
    rate = "tokens_per_second"
    assert summary("decode 16", {OURS: taken(rate, own), FAST: taken(rate, 100)})["met"] is met


def test_without_ours_nothing_is_claimed() -> None:
    row = summary("decode 16", {OURS: [], FAST: taken("tokens_per_second", 100)})
    assert row["met"] is None
    assert "ratio" not in row
    assert "share_of_limit" not in row


def test_the_table_shows_medians_spread_and_verdict() -> None:
    lines = table(record()["rows"], [OURS, FAST, SLOW]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| 200 (90.0 to 210) | 99.5 (99.0 to 100) | 50.0 |" in lines[2]
    assert "| 2.01x (0.90 to 2.12) | 1.6x (2x) | yes |" in lines[2]
    assert "| ttft 16, s | 1.20 | 2.00 | 3.00 | 0.60x | at most 0.5x | no |" in lines[3]
    assert "| start, s | 2.50 | - | - | - | under 3 s | yes |" in lines[4]


def test_chosen_rows_are_those_that_begin_so() -> None:
    assert [row.name for row in chosen(["decode 16", "start"])] == ["decode 16", "decode 16 at 1024", "start"]
    with pytest.raises(ValueError, match="no row begins with 'nothing'"):
        chosen(["nothing"])


def test_ceilings_are_medians_of_what_was_measured() -> None:
    names = [f"{name}_per_second" for name in ("read_bytes", "int8_operations", "float32_operations")]
    measured = [dict.fromkeys(names, value) for value in (1.0, 9.0, 3.0)]
    assert median_ceilings(measured) == Ceilings(3.0, 3.0, 3.0)
    assert median_ceilings([]) is None


def test_a_step_that_memory_binds_takes_as_long_as_its_bytes() -> None:
    weights = 0.625 * (MATRICES + 5 * 64 + 256 * 64)
    kv_bytes = 2 * 2 * 2 * 16 * 2 * (10 + 1)  # layers, K and V, heads, elements, bytes, tokens
    embedding = 64  # a row of one byte each is read beside the table that is the head
    seconds = step_seconds(CEILINGS, MODEL, Work.of([(1, 10)], 1))
    assert seconds == pytest.approx((weights + kv_bytes + embedding) / 1e9)


def test_a_step_that_arithmetic_binds_takes_as_long_as_its_products() -> None:
    n = 100
    products = 2 * MATRICES * n + 2 * 256 * 64
    attention = 4 * 2 * 64 * n * (n + 1) / 2
    seconds = step_seconds(Ceilings(1e30, 1e12, 1e11), MODEL, Work.of([(n, 0)], 1))
    assert seconds == pytest.approx(products / 1e12 + attention / 1e11)
    in_tiles = step_seconds(Ceilings(1e30, 1e12, 1e11, 5e12), MODEL, Work.of([(n, 0)], 1))
    assert in_tiles == pytest.approx((products + attention) / 5e12)


def test_limits_of_rows_are_tokens_over_the_seconds_of_their_steps() -> None:
    # So little arithmetic that every step takes the millisecond that its weights do, where it has the head.
    table_and_layers = 0.625 * (MATRICES + 5 * 64 + 256 * 64)
    vast = Model(MODEL.shape, bytes_per_weight=0.625 * 1e9)
    ceilings = Ceilings(1e9 * table_and_layers * 1e3, 1e30, 1e30)
    expected = {"prefill 512": 512e3, "decode 1": 1e3, "decode 32": 32e3, "decode 16 at 1024": 16e3}
    for name, rate in expected.items():
        assert best_rate(ROW[name], ceilings, vast) == pytest.approx(rate, rel=1e-3)
    # Per turn a step for the questions and one for each further token.
    chats = best_rate(ROW["http 16"], ceilings, vast, [410.0, 510.0, 610.0])
    assert chats == pytest.approx(16 * 1e3, rel=1e-3)
    assert best_rate(ROW["http 16"], ceilings, vast) is None
    assert best_rate(ROW["ttft 16"], ceilings, vast, [410.0]) is None


def test_prompts_that_are_shared_or_known_are_computed_once() -> None:
    ceilings = Ceilings(1e30, 1e12, 1e30)  # products bind
    growing = best_rate(ROW["http 16"], ceilings, MODEL, [400.0, 500.0, 600.0])
    # New tokens of each user and turn: 52, of which those of the answers are drawn one by one.
    tokens, shared = 16 * 3 * (52 + 47), 400 - 52
    seconds = (2 * MATRICES * (tokens + shared) + 2 * 256 * 64 * 16 * 3 * 48) / 1e12
    assert growing == pytest.approx(16 * 3 * 48 / seconds, rel=1e-6)


def test_the_chart_has_a_bar_for_each_contender_of_rows_with_peers() -> None:
    root = ET.fromstring(plot.bar_chart(record()))
    space = "{http://www.w3.org/2000/svg}"
    bars = [node for node in root.iter(f"{space}rect") if node.get("x") == str(plot.LABELS)]
    widths = [float(node.get("width") or 0) for node in bars if node.get("height") == str(plot.BAR)]
    assert len(widths) == 6
    assert widths[0] / widths[1] == pytest.approx(200 / 99.5, rel=1e-2)
    assert widths[3] / widths[4] == pytest.approx(2.0 / 1.2, rel=1e-2)  # a shorter time has a longer bar
    texts = [node.text for node in root.iter(f"{space}text")]
    assert {"200", "1.20 s", "ttft 16"} <= set(texts)
    assert "start" not in texts


def test_the_page_takes_results_between_its_marks() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    first = page.replaced(text, page.results(record()))
    for told in (
        "| decode 16 | 200 (90.0 to 210) |",
        "Measured on 1 January 2026: processor Example, cores used 2; model small.",
        "read 30 GB/s and compute 1,400 GOP/s in int8, 160 GFLOP/s in float32",
        "at most 7% beside Ridgeline, 2% beside fast peer.",
        "vLLM was left out: no vllm/bin/python in peers.",
        "3 measurements began while others used the cores.",
        "Failed: slow peer, start: ended with 1.",
    ):
        assert told in first
    assert page.replaced(first, page.results(record())) == first
    assert first.partition(page.BEGIN)[0] == text.partition(page.BEGIN)[0]
    assert first.partition(page.END)[2] == text.partition(page.END)[2]
    with pytest.raises(ValueError, match="must have the lines"):
        page.replaced("# Another page", "")


def test_the_last_line_of_json_is_the_result() -> None:
    assert page.last_result('a table\n{"rows": 1}\n{"rows": 2}\n') == {"rows": 2}
    with pytest.raises(ValueError, match="no line of JSON"):
        page.last_result("a table\n")
