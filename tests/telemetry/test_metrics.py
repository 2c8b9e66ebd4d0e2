"""The meter as Prometheus sees it, with a clock in our hands."""

import dataclasses

import pytest
from prometheus_client.parser import text_string_to_metric_families
from step_record import STEP

from ridgeline.telemetry.histogram import Histogram
from ridgeline.telemetry.metrics import Metrics
from ridgeline.telemetry.records import RESOURCES, RequestRecord


class Bench:
    """A meter, a clock, and what a scrape gives."""

    def __init__(self) -> None:
        self.now = 100.0
        self.metrics = Metrics(clock=lambda: self.now)
        self.meter = self.metrics.engine("m", block_size_tokens=16, blocks_total=100)

    def step(self, **changes: object) -> None:
        self.now += changes.get("step_seconds", STEP.step_seconds)
        self.meter.step(dataclasses.replace(STEP, ended_seconds=self.now, **changes))

    def scrape(self) -> dict[str, float]:
        """Samples by name and labels (besides the model's), as `name{a,b}`."""
        text, content_type = self.metrics.render()
        assert content_type.startswith("text/plain")
        found = {}
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                labels = [
                    value
                    for key, value in sorted(sample.labels.items())
                    if key not in ("model", "model_name")
                ]
                found[sample.name + (f"{{{','.join(labels)}}}" if labels else "")] = sample.value
        return found

    def bound_by(self) -> str:
        scraped = self.scrape()
        (one,) = [name for name in RESOURCES if scraped[f"ridgeline_bound_by{{{name}}}"] == 1]
        assert sum(scraped[f"ridgeline_bound_by{{{name}}}"] for name in RESOURCES) == 1
        return one


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_step_is_seen_in_the_gauges(bench):
    bench.step()
    seen = bench.scrape()
    assert seen["ridgeline_batch_size"] == seen["vllm:num_requests_running"] == 4
    assert seen["ridgeline_batch_tokens"] == 40
    assert seen["ridgeline_batch_headroom_sequences"] == 3
    assert seen["ridgeline_requests{waiting}"] == seen["vllm:num_requests_waiting"] == 2
    assert seen["ridgeline_kv_utilization_ratio{device}"] == seen["vllm:kv_cache_usage_perc"] == 0.3
    assert seen["ridgeline_kv_idle_ratio{device}"] == 0.2
    assert seen["ridgeline_arithmetic_intensity"] == 40
    assert seen["ridgeline_ridge_point"] == 10
    assert seen["vllm:cache_config_info{16,100}"] == 1


def test_utilisation_is_over_the_last_five_seconds(bench):
    for _ in range(20):
        bench.step()
    seen = bench.scrape()
    assert seen["ridgeline_flops_utilization_ratio"] == pytest.approx(0.8, abs=0.05)
    assert seen["ridgeline_bandwidth_utilization_ratio"] == pytest.approx(0.2, abs=0.02)
    assert seen["ridgeline_device_busy_ratio"] == pytest.approx(0.8, abs=0.05)
    bench.now += 2.5
    assert bench.scrape()["ridgeline_flops_utilization_ratio"] == pytest.approx(0.4, abs=0.05)
    bench.now += 5
    seen = bench.scrape()
    assert seen["ridgeline_flops_utilization_ratio"] == seen["ridgeline_device_busy_ratio"] == 0
    assert "ridgeline_arithmetic_intensity" not in seen


def test_what_is_bound_by_follows_the_last_five_seconds_and_ends_idle(bench):
    assert bench.bound_by() == "idle"
    for _ in range(10):
        bench.step(bound="compute")
    assert bench.bound_by() == "compute"
    for _ in range(6):
        bench.step(bound="kv_capacity")
    assert bench.bound_by() == "kv_capacity"
    bench.now += 4
    assert bench.bound_by() == "idle"


def test_bound_seconds_add_up_to_the_time_that_passed(bench):
    bench.step(bound="compute")
    bench.step(bound="host")
    bench.now += 3
    bench.meter.idle(bench.now)
    bench.step(bound="host")
    seen = bench.scrape()
    assert seen["ridgeline_bound_seconds_total{compute}"] == pytest.approx(0.5)
    assert seen["ridgeline_bound_seconds_total{host}"] == pytest.approx(1.0)
    assert seen["ridgeline_bound_seconds_total{idle}"] == pytest.approx(3.0)


def test_steps_that_overlap_are_not_counted_twice(bench):
    bench.step(step_seconds=1.0)
    bench.now += 0.25
    bench.meter.step(dataclasses.replace(STEP, ended_seconds=bench.now, step_seconds=1.0))
    assert bench.scrape()["ridgeline_bound_seconds_total{memory_bandwidth}"] == pytest.approx(1.25)


def test_counters_never_fall_between_scrapes(bench):
    last: dict[str, float] = {}
    for index in range(40):
        bench.now += 0.13
        if index % 5 == 0:
            bench.meter.idle(bench.now)
        if index % 3 == 0:
            bench.step(step_seconds=0.3)
        seen = {name: value for name, value in bench.scrape().items() if "_total" in name}
        assert all(seen[name] >= value for name, value in last.items() if name.startswith("ridgeline"))
        last = seen


def test_idle_empties_the_batch_and_tells_the_blocks(bench):
    bench.step()
    bench.meter.idle(bench.now, blocks_held=0, blocks_idle=50)
    seen = bench.scrape()
    assert seen["ridgeline_batch_size"] == seen["ridgeline_requests{running}"] == 0
    assert seen["ridgeline_requests{waiting}"] == 0
    assert seen["ridgeline_kv_utilization_ratio{device}"] == 0
    assert seen["ridgeline_kv_idle_ratio{device}"] == 0.5


def test_counters_count_what_they_are_told(bench):
    bench.meter.prefix(hit=32, cold=10, evicted=5, short=3)
    bench.meter.recomputed(5, 0.25, "evicted")
    bench.meter.evicted(7, "room")
    bench.meter.preempted()
    bench.step()
    bench.step()
    seen = bench.scrape()
    assert seen["ridgeline_prefix_tokens_total{hit}"] == seen["vllm:prefix_cache_hits_total"] == 32
    assert seen["ridgeline_prefix_tokens_total{short}"] == 3
    assert seen["vllm:prefix_cache_queries_total"] == 50
    assert seen["ridgeline_recomputed_tokens_total{evicted}"] == 5
    assert seen["ridgeline_recompute_seconds_total"] == 0.25
    assert seen["ridgeline_kv_blocks_evicted_total{room}"] == 7
    assert seen["ridgeline_preemptions_total"] == 1
    assert seen["ridgeline_step_flops_total"] == 8e11
    assert seen["ridgeline_step_bytes_total"] == 2e10
    assert seen["ridgeline_step_seconds_count"] == seen["ridgeline_host_step_seconds_count"] == 2


def test_a_request_that_never_ran_has_no_first_token(bench):
    bench.meter.finished(RequestRecord("stop", 0.5, 1.5, 4.0, 10, 20, 8))
    bench.meter.finished(RequestRecord("at_capacity", None, None, 0.001))
    seen = bench.scrape()
    assert seen["ridgeline_requests_total{stop}"] == seen["ridgeline_requests_total{at_capacity}"] == 1
    assert seen["ridgeline_request_seconds_count"] == 2
    assert seen["ridgeline_time_to_first_token_seconds_count"] == seen["ridgeline_queue_seconds_count"] == 1
    assert seen["ridgeline_prompt_tokens_total"] == 10
    assert seen["ridgeline_completion_tokens_total"] == 20


def test_unknown_peaks_leave_their_ratios_out(bench):
    bench.step(peak_flops_per_second=0, peak_bytes_per_second=0)
    seen = bench.scrape()
    assert not {name for name in seen if "utilization_ratio" in name and "kv" not in name}
    assert "ridgeline_ridge_point" not in seen
    assert seen["ridgeline_arithmetic_intensity"] == 40


def test_engines_have_meters_of_their_own(bench):
    assert bench.metrics.engine("m") is bench.meter
    other = bench.metrics.engine("another")
    other.preempted()
    text = bench.metrics.render()[0].decode()
    assert 'ridgeline_preemptions_total{model="m"} 0.0' in text
    assert 'ridgeline_preemptions_total{model="another"} 1.0' in text
    assert 'vllm:num_requests_running{model_name="another"} 0.0' in text


def test_a_histogram_takes_many_equal_observations_at_once():
    histogram = Histogram([0.1, 1.0])
    histogram.observe(0.1, 3)
    histogram.observe(0.5)
    histogram.observe(9.0, 2)
    assert histogram.cumulative() == ([("0.1", 3), ("1.0", 4), ("+Inf", 6)], pytest.approx(18.8))
