"""All metrics of a process, as Prometheus scrapes them."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from ridgeline.telemetry.definitions import DEFINITIONS, Definition, model_label
from ridgeline.telemetry.live import Live
from ridgeline.telemetry.meter import EngineMeter, Number


class Metrics(Collector):
    """The meters of all engines behind one registry of their own.

    Nothing is stored twice: values are computed from the meters when scraped, so that gauges over
    the last seconds are right also when no step has come for long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meters: dict[str, EngineMeter] = {}
        self._others: list[CollectorRegistry] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def engine(
        self, model: str, *, block_size_tokens: int | None = None, blocks_total: int | None = None
    ) -> EngineMeter:
        """The meter of the engine that serves `model`, made at the first call.

        The sizes of its KV cache let the cache's metrics be exported before the first step.
        """
        if model not in self._meters:
            self._meters[model] = EngineMeter(
                self._clock, block_size_tokens=block_size_tokens, blocks_total=blocks_total
            )
        return self._meters[model]

    def also(self, registry: CollectorRegistry) -> None:
        """Tell another room's metrics as well."""
        self._others.append(registry)

    def live(self) -> dict[str, Live]:
        """Every engine as it stands now, by model."""
        return {model: meter.live() for model, meter in list(self._meters.items())}

    def render(self) -> tuple[bytes, str]:
        """Everything in Prometheus' text format, and its content type."""
        texts = [generate_latest(registry) for registry in (self.registry, *self._others)]
        return b"".join(texts), CONTENT_TYPE_PLAIN_0_0_4

    def describe(self) -> list[Metric]:
        """Names to keep free of other collectors."""
        return [_family(definition) for definition in DEFINITIONS]

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value now."""
        meters = list(self._meters.items())
        numbers = {model: _by_name(meter.numbers()) for model, meter in meters}
        histograms = {model: meter.histograms() for model, meter in meters}
        for definition in DEFINITIONS:
            family = _family(definition)
            for model, values in numbers.items():
                if isinstance(family, HistogramMetricFamily):
                    buckets, total = histograms[model][definition.name]
                    family.add_metric([model], buckets, total)
                else:
                    for labels, value in values.get(definition.name, ()):
                        family.add_metric([model, *labels], value)
            if family.samples:
                yield family


def _by_name(numbers: list[Number]) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    grouped: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for name, labels, value in numbers:
        grouped.setdefault(name, []).append((labels, value))
    return grouped


def _family(
    definition: Definition,
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    labels = [model_label(definition), *definition.labels]
    if definition.kind == "histogram":
        return HistogramMetricFamily(definition.name, definition.help, labels=labels)
    if definition.kind == "counter":
        return CounterMetricFamily(definition.name.removesuffix("_total"), definition.help, labels=labels)
    return GaugeMetricFamily(definition.name, definition.help, labels=labels)
