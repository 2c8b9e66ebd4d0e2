"""Writes the reference of all metrics: `python -m ridgeline.telemetry.reference > docs/metrics.md`."""

import sys

from ridgeline.telemetry.definitions import DEFINITIONS, FLEET_DEFINITIONS, Definition, model_label

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

_FLEET_HEAD = """
## Of a front door

| name | type | labels | meaning |
|---|---|---|---|
"""


def reference() -> str:
    """The page as Markdown."""
    every = DEFINITIONS + FLEET_DEFINITIONS
    buckets = (_buckets(definition) for definition in every if definition.kind == "histogram")
    rows = "".join(_row(each, (model_label(each), *each.labels)) for each in DEFINITIONS)
    fleet = "".join(_row(each, each.labels) for each in FLEET_DEFINITIONS)
    return f"{_HEAD}{rows}{_FLEET_HEAD}{fleet}\n## Buckets\n\n{''.join(buckets)}"


def _row(definition: Definition, names: tuple[str, ...]) -> str:
    labels = ", ".join(f"`{name}`" for name in names)
    return f"| `{definition.name}` | {definition.kind} | {labels} | {definition.help} |\n"


def _buckets(definition: Definition) -> str:
    return f"- `{definition.name}`: " + ", ".join(f"{bound:g}" for bound in definition.buckets) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
