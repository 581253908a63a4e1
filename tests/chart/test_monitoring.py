"""Alerts and dashboard ask for metrics that the agent has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric

from agent.collector import StateCollector
from agent.metrics import REGISTRY
from inet.prefix import Family
from tests.agent.routing_world import World, running
from tests.agent.test_view import view_of
from tests.chart.rendering import CHART, VALUE_SETS, the

ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [ask["expr"] for panel in PANELS for ask in panel["targets"]]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",), "gauge": ("",)}
NAMES = re.compile(r"\btortie_\w+|\bup\b")
OF_PROMETHEUS = {"up": frozenset[str]()}
ADDED_BY_PROMETHEUS = {"node", "instance", "le"}
"""Labels of every series that are not the agent's: of the ServiceMonitor, of Prometheus, of histograms."""


@pytest.fixture
async def metrics() -> AsyncIterator[dict[str, frozenset[str]]]:
    """Every series there can be, with its labels."""
    async with running(World(Family.IPV4)) as world:
        await world.configure()
        await world.up(2)
        collected: Iterator[Metric] = (
            metric for source in (StateCollector(view_of(world)), REGISTRY) for metric in source.collect()
        )
        known: dict[str, frozenset[str]] = {}
        for metric in collected:
            labels = frozenset(label for sample in metric.samples for label in sample.labels)
            known |= {f"{metric.name}{suffix}": labels for suffix in SUFFIXES[metric.type]}
        yield known


async def test_every_expression_asks_for_metrics_there_are(metrics: dict[str, frozenset[str]]) -> None:
    for expression in EXPRESSIONS:
        asked = set(NAMES.findall(expression))
        assert asked, expression
        assert asked <= metrics.keys() | OF_PROMETHEUS, expression


async def test_alerts_speak_of_labels_there_are(metrics: dict[str, frozenset[str]]) -> None:
    for rule in RULES:
        text = json.dumps(rule["annotations"])
        asked = NAMES.findall(rule["expr"])
        spoken_of = set(re.findall(r"\$labels\.(\w+)", text))
        labels = frozenset().union(
            *((metrics | OF_PROMETHEUS)[name] or {"peer", "origin", "family"} for name in asked)
        )  # none heard here
        assert spoken_of <= labels | ADDED_BY_PROMETHEUS, rule["alert"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_look(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Tortie")
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")


def test_the_rules_of_the_chart_are_the_file_word_for_word() -> None:
    said = VALUE_SETS["everything"]

    assert the("PrometheusRule", said)["spec"] == ALERTS
    assert json.loads(the("ConfigMap", said)["data"]["tortie.json"]) == DASHBOARD


@pytest.fixture
def promtool() -> Callable[..., None]:
    """Run promtool, which must be content."""
    if not (program := shutil.which("promtool")):
        pytest.skip("no promtool: apt-get install prometheus")

    def run(*arguments: str | Path) -> None:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout

    return run


def test_prometheus_takes_the_alerts(promtool: Callable[..., None]) -> None:
    promtool("check", "rules", CHART / "files" / "alerts.yaml")


def test_alerts_go_off_when_they_should_and_not_before(promtool: Callable[..., None]) -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts_test.yaml"))


def test_prometheus_takes_what_the_panels_ask(promtool: Callable[..., None], tmp_path: Path) -> None:
    asked = [ask["expr"].replace("$node", ".*") for panel in PANELS for ask in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "panels.yaml")


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        area = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not area & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= area
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
