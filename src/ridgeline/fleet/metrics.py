"""What a front door tells Prometheus."""

import time
from collections.abc import Iterator
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Replica
from ridgeline.telemetry.definitions import FLEET_DEFINITIONS, Definition

_BY_NAME = {definition.name.removeprefix("ridgeline_fleet_"): definition for definition in FLEET_DEFINITIONS}
_COUNTED = ("sent_total", "returned_total", "refused_total", "cached_tokens_total", "overhead_seconds")


class FleetMetrics(Collector):
    """Counts what happens; how the replicas stand is asked of the core when it is scraped.

    Args:
        door: the core.
        missing: metrics by replica that ought to be there, see `Membership.missing`.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self.missing: dict[str, tuple[str, ...]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        sent, returned, refused, cached = (self._counter(name) for name in _COUNTED[:4])
        self._sent, self._returned, self._refused, self._cached = sent, returned, refused, cached
        overhead = _BY_NAME["overhead_seconds"]
        self._overhead = Histogram(
            overhead.name, overhead.help, buckets=overhead.buckets, registry=self.registry
        )

    def _counter(self, name: str) -> Counter:
        definition = _BY_NAME[name]
        return Counter(definition.name, definition.help, definition.labels, registry=self.registry)

    def sent(self, replica: str, overhead_seconds: float | None) -> None:
        """A request was sent there; the time counts where it was the first attempt."""
        self._sent.labels(replica).inc()
        if overhead_seconds is not None:
            self._overhead.observe(overhead_seconds)

    def returned(self, replica: str, why: Literal["full", "fault"]) -> None:
        """A request came back without an end."""
        self._returned.labels(replica, why).inc()

    def refused(self, code: str) -> None:
        """A request was not served."""
        self._refused.labels(code).inc()

    def ended(self, predicted_tokens: int, actual_tokens: int) -> None:
        """So many tokens of its prompt were believed to be cached, and were."""
        self._cached.labels("predicted").inc(predicted_tokens)
        self._cached.labels("actual").inc(actual_tokens)

    def describe(self) -> list[Metric]:
        """Names to keep free of other collectors."""
        return [_family(each) for name, each in _BY_NAME.items() if name not in _COUNTED]

    def collect(self) -> Iterator[Metric]:
        """How the fleet stands."""
        now, replicas = time.monotonic(), list(self._door.replicas.values())
        waiting = _family(_BY_NAME["waiting"])
        waiting.add_metric((), self._door.waiting)
        yield waiting
        states = _family(_BY_NAME["replicas"])
        for state in ("up", "left_alone", "cordoned", "draining"):
            states.add_metric((state,), sum(_state(each, now) == state for each in replicas))
        yield states
        families = {name: _family(_BY_NAME[f"replica_{name}"]) for name in ("running", "slots")}
        told = {name: _family(_BY_NAME[f"replica_{name}"]) for name in ("kv_held_ratio", "load_age_seconds")}
        for each in replicas:
            families["running"].add_metric((each.id,), each.running)
            families["slots"].add_metric((each.id,), each.slots)
            if each.load is not None:
                told["kv_held_ratio"].add_metric((each.id,), each.load.kv_held)
                told["load_age_seconds"].add_metric((each.id,), now - each.load.seconds)
        yield from (*families.values(), *told.values())
        corrected = _BY_NAME["corrected_keys_total"]
        corrections = CounterMetricFamily(corrected.name, corrected.help, labels=corrected.labels)
        for how, keys in self._door.keys_corrected.items():
            corrections.add_metric((how,), keys)
        yield corrections
        absent = _family(_BY_NAME["missing_metrics"])
        for replica, names in self.missing.items():
            for name in names:
                absent.add_metric((replica, name), 1)
        yield absent


def _family(definition: Definition) -> GaugeMetricFamily:
    return GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)


def _state(replica: Replica, now: float) -> str:
    return "left_alone" if replica.state == "up" and not replica.breaker.allows(now) else replica.state
