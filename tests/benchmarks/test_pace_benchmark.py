"""The comparison of step sizes plays what it says, and the target does what it is for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from pace.compare import SEEDS, best, finals, mean
from pace.live import difference
from pace.play import Setting
from pace.scenarios import H100, TARGET, Phase, Scenario
from pace.workloads import CHAT, conversations

SHORT = Scenario("short", H100, (Phase("summarise", 6, seconds=5), Phase("write", 20, seconds=3)))


def test_prompts_beside_answers_are_cut_to_the_target():
    followed, fixed = SHORT.play(TARGET, 1), SHORT.play(Setting(4096, 256), 1)
    assert followed.offered == fixed.offered > 60
    assert followed.goodput > 0.9
    assert fixed.goodput < followed.goodput - 0.15  # 4,096 tokens take four times the target
    assert followed.prediction_error < 0.1


def test_the_same_is_played_for_the_same_seed():
    scenario = Scenario("few", H100, (Phase("chat", 2, seconds=4),))
    assert scenario.play(TARGET, 2) == scenario.play(TARGET, 2)


def test_conversations_come_at_their_rate():
    came = list(conversations(CHAT, 10, 5.0, 105.0, 1))
    assert len(came) == pytest.approx(1000, rel=0.1)
    assert all(5.0 < conversation.seconds < 105.0 for conversation in came)
    assert {len(conversation.turns) for conversation in came} == {CHAT.turns}


def test_only_what_was_played_with_every_seed_is_judged():
    few, many, other = Setting(512, 64), Setting(512, 128), Setting(1024, 256)
    results = {
        "a": {
            "target": {"1": 0.9, "2": 0.9, "3": 0.9},
            few.name: {"1": 0.8},
            many.name: {"1": 0.95, "2": 0.5, "3": 0.5},
            other.name: {"1": 0.9, "2": 0.7, "3": 0.7},
        }
    }
    assert [setting for _, setting in best(results, ["a"], SEEDS)] == [other, many]
    assert mean(results, ["a"], few, SEEDS) is None
    chosen = {setting for _, setting, _ in finals(results, ["a"])}
    assert chosen == {TARGET, many, other}


def test_an_interval_of_differences():
    mean_gap, half = difference([0.9, 0.8, 0.7], [0.8, 0.8, 0.6])
    assert mean_gap == pytest.approx(0.0667, abs=1e-3)
    assert half == pytest.approx(4.30 * 0.0577 / 3**0.5, rel=0.01)
