"""Writes the reference of all metrics: `python -m ridgeline.telemetry.reference > docs/metrics.md`."""

import sys

from ridgeline.telemetry.definitions import DEFINITIONS, Definition, model_label

_HEAD = """\
# Metrics

Served at `/metrics` in Prometheus' text format, base units throughout. This page is generated:
`python -m ridgeline.telemetry.reference > docs/metrics.md`.

Batch size is sequences in a step. KV utilisation is blocks in use by running requests over all
blocks; cached blocks that could be given up at once are counted apart, as idle. Gauges of rates and
of utilisation are over the last 5 s and fall to zero when nothing runs. A metric that cannot have a
value is absent, never 0: utilisation of a device whose peak is unknown, say. Names that begin with
`vllm:` carry the same facts for gateways that know vLLM's.

| name | type | labels | meaning |
|---|---|---|---|
"""


def reference() -> str:
    """The page as Markdown."""
    buckets = (_buckets(definition) for definition in DEFINITIONS if definition.kind == "histogram")
    return _HEAD + "".join(map(_row, DEFINITIONS)) + "\n## Buckets\n\n" + "".join(buckets)


def _row(definition: Definition) -> str:
    labels = ", ".join(f"`{label}`" for label in (model_label(definition), *definition.labels))
    return f"| `{definition.name}` | {definition.kind} | {labels} | {definition.help} |\n"


def _buckets(definition: Definition) -> str:
    return f"- `{definition.name}`: " + ", ".join(f"{bound:g}" for bound in definition.buckets) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
