"""What is in `deploy/` asks for metrics and labels that a server really exports, and for no others."""

import json
import re
from pathlib import Path
from typing import Any

import measured
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql import Sample, faults, groupings, selectors
from server_process import serving, write_config

from ridgeline.telemetry.ledger import PREDICTIONS, TOLERATED
from ridgeline.telemetry.metrics import Metrics
from ridgeline.telemetry.records import RequestRecord

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "operating.md"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "ridgeline.json").read_text())
(GROUP,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: list[dict[str, Any]] = GROUP["rules"]
# Made by Prometheus itself, for every target.
UP = Sample("up", {"job": "ridgeline"})
# Exported from the first event on, which not every server has.
EVENTS = {"ridgeline_recomputed_tokens_total", "ridgeline_kv_blocks_evicted_total"}


def samples_of(text: str) -> list[Sample]:
    return [
        Sample(sample.name, dict(sample.labels))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """All that an engine exports to which everything has happened."""
    clock = measured.Clock()
    metrics = Metrics(clock)
    meter = metrics.engine("m", block_size_tokens=16, blocks_total=100)
    meter.computes("int8", "kernels")
    measured.busy(meter, clock)
    meter.recomputed(3, 0.1, "preempted")
    meter.finished(RequestRecord("failed", 0.1, 0.2, 0.3))
    for what in PREDICTIONS:
        meter.predicted(what, 1.0, 1.0)
    return [*samples_of(metrics.render()[0].decode()), UP]


def asked() -> list[tuple[str, str]]:
    """Every expression, with where it stands."""
    found = [(rule["alert"], rule["expr"]) for rule in RULES]
    found += [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found.append(
                (variable["name"], re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1])
            )
    return found


@pytest.mark.parametrize(("where", "expression"), asked(), ids=[where for where, _ in asked()])
def test_all_that_is_asked_for_is_exported(where: str, expression: str, samples: list[Sample]) -> None:
    assert selectors(expression), "an expression without a metric was not understood"
    assert faults(expression, samples) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("ridgeline_batch_sise > 1", "ridgeline_batch_sise is not exported"),
        ("rate(ridgeline_step_seconds[5m])", "ridgeline_step_seconds is not exported"),
        ('ridgeline_bound_by{ressource="host"}', "ridgeline_bound_by has no label ressource"),
        ('ridgeline_bound_by{resource="gpu"} == 1', "ridgeline_bound_by never has"),
        ('up{job="x"} == 0 and ridgeline_batch > 0', "ridgeline_batch is not exported"),
        ("sum by (model, tier) (rate(ridgeline_requests_total[1m]))", "nothing there has the label tier"),
        ('ridgeline_requests_total{outcome=~"at_.*|nope"} / absent_total', "absent_total is not exported"),
    ],
)
def test_what_is_absent_is_found_out(expression: str, fault: str, samples: list[Sample]) -> None:
    (found,) = faults(expression, samples)
    assert found.startswith(fault)


def test_expressions_are_understood() -> None:
    expression = (
        'histogram_quantile(0.95, sum by (model, le) (rate(a_bucket{m=~"$m", i="x"}[5m])))'
        " > on (model) 1.5e3 * b_c:d or +Inf < e"
    )
    assert [selector.name for selector in selectors(expression)] == ["a_bucket", "b_c:d", "e"]
    assert selectors(expression)[0].matchers == (("m", "=~", "$m"), ("i", "=", "x"))
    assert groupings(expression) == {"model", "le"}


def test_a_running_server_exports_them_too(tmp_path: Path) -> None:
    """After one request all is there but what needs an event to exist."""
    import httpx

    config = write_config(tmp_path)
    with serving("--device", "simulated:h100", "--random-weights", str(config), data_dir=tmp_path) as served:
        body = {"model": "sim", "prompt": "Hello there, " * 20, "max_tokens": 30}
        httpx.post(f"{served.url}/v1/completions", json=body, timeout=60).raise_for_status()
        exported = {sample.name for sample in samples_of(httpx.get(f"{served.url}/metrics").text)}
    names = {selector.name for _, expression in asked() for selector in selectors(expression)}
    assert names - exported <= EVENTS | {"up"}


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert "__inputs" not in DASHBOARD
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "model", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"] and panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert all(
                'model=~"$model"' in part for part in re.findall(r"ridgeline_\w+\{[^}]*\}", target["expr"])
            )


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_legends_name_labels_that_there_are(samples: list[Sample]) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            by = groupings(target["expr"])
            (*_, selector) = selectors(target["expr"])
            have = by or next(sample.labels.keys() for sample in samples if selector.takes(sample))
            assert wanted <= set(have), (panel["title"], target["legendFormat"])


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "warn", "info")
    notes = rule["annotations"]
    assert notes["summary"] and notes["description"]
    page, _, anchor = notes["runbook"].partition("#")
    assert ROOT / page == GUIDE
    headings = re.findall(r"^#+ (.+)$", GUIDE.read_text(), flags=re.M)
    assert anchor in {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    assert anchor == rule["alert"].lower()


def test_alerts_call_bad_what_the_dashboard_calls_bad() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "RidgelinePredictionsOff"]
    limits = dict(re.findall(r'what="(\w+)"\} > ([\d.]+)', rule["expr"]))
    assert {what: float(limit) for what, limit in limits.items()} == TOLERATED
