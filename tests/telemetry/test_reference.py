"""The generated page is current, and names no metric that nothing can export."""

from pathlib import Path

from step_record import STEP

from ridgeline.engine.shadows import Shadows
from ridgeline.telemetry.definitions import BY_NAME, DEFINITIONS
from ridgeline.telemetry.metrics import Metrics
from ridgeline.telemetry.records import RequestRecord, TierRecord
from ridgeline.telemetry.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_of_metrics_is_current():
    assert PAGE.read_text() == reference(), "run python -m ridgeline.telemetry.reference > docs/metrics.md"


def test_every_metric_defined_can_be_scraped():
    metrics = Metrics(clock=lambda: 10.0)
    meter = metrics.engine("m", block_size_tokens=16, blocks_total=100)
    meter.computes("int8", "kernels")
    meter.step(STEP)
    meter.recomputed(3, 0.1, "preempted")
    meter.evicted(2, "room")
    meter.drafted(5, 3)
    meter.shadow = Shadows(100, 16)
    meter.tiers([TierRecord("host", 10, 5, 4, 3, 2, 1, 0.5)])
    meter.finished(RequestRecord("stop", 0.1, 0.2, 0.3, 4, 5, 0))
    assert {name for name, _, _ in meter.numbers()} | set(meter.histograms()) == set(BY_NAME)
    assert {family.name for family in metrics.collect()} == {
        definition.name.removesuffix("_total") for definition in DEFINITIONS
    }
