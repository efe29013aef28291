"""The files of docs/observability name metrics, labels and values that the server has, and the
tools that read them accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.ops.otel_setup import OUTCOMES
from server.telemetry.otel.metric_definitions import COUNTERS, GAUGES, HISTOGRAMS
from server.types import REPLICA_STATES
from tests.support.otel_bench import ROOT

FOLDER = ROOT / "docs" / "observability"
NAME = re.compile(r"\b(?:trefoil|rpc|gen_ai)_[a-z_]+\b")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
DOCUMENTED = re.compile(r"`((?:trefoil|rpc|error)\.[a-z.]+|kind|signal)`")


def scraped_names() -> set[str]:
    names = {"up"} | {f"{_plain(name)}{_unit(one.unit)}_total" for name, one in COUNTERS.items()}
    names |= {_plain(name) + _unit(one.unit) for name, one in GAUGES.items()}
    for name, one in HISTOGRAMS.items():
        names |= {_plain(name) + _unit(one.unit) + end for end in ("_bucket", "_sum", "_count")}
    return names


def scraped_labels() -> set[str]:
    """Of the last column of the table of metrics, which has their attributes."""
    text = (ROOT / "docs" / "opentelemetry.md").read_text().partition("## Metrics")[2]
    rows = [line.split("|")[-2] for line in text.splitlines() if line.startswith("| `")]
    found = {_plain(name) for row in rows for name in DOCUMENTED.findall(row)}
    return found | {"trefoil_stamp", "le", "job", "instance"}


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _unit(unit: str) -> str:
    return "_seconds" if unit == "s" else ""


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def expressions() -> list[str]:
    panels = dashboard()["panels"]
    return [rule["expr"] for rule in rules()] + [
        target["expr"] for panel in panels for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_what_a_scrape_has(expression: str) -> None:
    labels = scraped_labels()
    found = set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
    metrics = found - labels
    assert metrics or "up{" in expression
    assert metrics <= scraped_names(), metrics - scraped_names()
    for label, _, value in MATCHER.findall(expression):
        assert label in labels
        if label == "trefoil_state":
            assert value in REPLICA_STATES
        if label == "trefoil_outcome":
            assert set(value.split("|")) <= set(OUTCOMES)


def test_each_of_twelve_alerts_has_a_name_a_severity_and_a_summary() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found) == 12
    for rule in found:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_the_dashboard_has_what_grafana_asks_of_one() -> None:
    found = dashboard()
    assert found["uid"] and found["title"] and found["schemaVersion"] >= 36
    variables = {one["name"] for one in found["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    places = set()
    for panel in found["panels"]:
        assert panel["title"] and panel["type"] in ("timeseries", "stat")
        assert panel["datasource"]["uid"] == "$datasource"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"]) == len(places)


def test_the_collector_has_a_pipeline_for_each_signal_of_parts_that_are_defined() -> None:
    found = yaml.safe_load((FOLDER / "collector.yaml").read_text())
    pipelines = found["service"]["pipelines"]
    assert set(pipelines) == {"traces", "metrics", "logs"}
    for pipeline in pipelines.values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(found[kind])


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: Debian's package prometheus carries it")
    return found


@pytest.mark.interop
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    for command in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        done = subprocess.run(
            [promtool(), "check", *command], cwd=FOLDER, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "12 rules found" in done.stdout


@pytest.mark.interop
def test_the_death_of_the_only_replica_fires_an_alert(tmp_path: Path) -> None:
    state = 'job="trefoil", instance="a"'
    series = {
        f'trefoil_replicas{{{state}, trefoil_state="ready"}}': "1 1 0x30",
        f'trefoil_replicas{{{state}, trefoil_state="dead"}}': "0 0 1x30",
        f"trefoil_replicas_wanted{{{state}}}": "1x32",
        f"trefoil_ready{{{state}}}": "1 1 0x30",
        f"trefoil_draining{{{state}}}": "0x32",
        'trefoil_ready{job="trefoil", instance="leaves"}': "1 1 0x30",
        'trefoil_draining{job="trefoil", instance="leaves"}': "0 0 1x30",
    }
    fired = {"severity": "critical", "job": "trefoil", "instance": "a"}
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": 'ALERTS{alertstate="firing"}', "eval_time": "1m", "exp_samples": []}
        ],
        "alert_rule_test": [
            {
                "eval_time": "10m",
                "alertname": "TrefoilNotReady",
                "exp_alerts": [
                    {
                        "exp_labels": fired,
                        "exp_annotations": {
                            "summary": "a takes no traffic",
                            "action": "server status names the reason",
                        },
                    }
                ],
            },
            {
                "eval_time": "10m",
                "alertname": "TrefoilReplicasMissing",
                "exp_alerts": [
                    {
                        "exp_labels": {**fired, "severity": "warning"},
                        "exp_annotations": {
                            "summary": "a has 0 ready replicas, fewer than --warm-pool"
                        },
                    }
                ],
            },
        ],
    }
    file = tmp_path / "cases.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yaml")], "tests": [case]}))
    done = subprocess.run([promtool(), "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
