import pytest

from ridgeline.telemetry.ledger import Ledger


def test_errors_and_bias_are_relative_to_the_outcome():
    ledger = Ledger()
    assert ledger.calibration("step") is None
    for predicted in (0.9, 1.1, 1.2, 1.3, 2.0):
        ledger.note("step", predicted, 1.0)
    found = ledger.calibration("step")
    assert found is not None
    assert found.count == 5
    assert found.median_error == pytest.approx(0.2)
    assert found.high_error == pytest.approx(1.0)
    assert found.bias == pytest.approx(0.2)
    assert ledger.calibration("wait") is None


def test_small_outcomes_do_not_make_large_errors():
    ledger = Ledger()
    ledger.note("wait", 0.01, 0.0)
    ledger.note("cached_tokens", 16, 0)
    assert ledger.calibration("wait").median_error == pytest.approx(0.1)
    assert ledger.calibration("cached_tokens").median_error == pytest.approx(1.0)


def test_only_the_latest_count():
    ledger = Ledger()
    for _ in range(1000):
        ledger.note("step", 5.0, 1.0)
    for _ in range(512):
        ledger.note("step", 1.0, 1.0)
    found = ledger.calibration("step")
    assert (found.count, found.median_error, found.high_error) == (1512, 0.0, 0.0)
    assert ledger.pairs("step", 3) == [(1.0, 1.0)] * 3
