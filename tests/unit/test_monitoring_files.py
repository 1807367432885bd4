"""The Grafana dashboard and the Prometheus alerts ask for metrics, labels and values that exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.job import Status
from speakeasyd.domain.pausing import PauseKind
from speakeasyd.ledger.job_lists import Totals
from speakeasyd.server.health import _Scrape
from tests.conftest import REPOSITORY

CONTRIB = REPOSITORY / "contrib"
SELECTOR = re.compile(r"(speakeasyd_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
OF_PROMETHEUS = {"instance", "job"}  # labels that it adds to each sample

SEEN: dict[str, Any] = {
    "counts": {"completed": 1},
    "speed": 2.0,
    "left_s": 3.0,
    "pauses": {"outbox inbox": "the disk is full"},
    "failures": {"janitor": "OSError"},
    "workers": [{"name": "cpu", "device": "cpu", "state": "ready", "rss": 1}],
}


def list_expressions() -> Iterator[str]:
    dashboard = json.loads((CONTRIB / "grafana" / "speakeasyd.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    alerts = yaml.safe_load((CONTRIB / "prometheus" / "speakeasyd-alerts.yaml").read_text("utf-8"))
    for group in alerts["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def list_asked_metrics() -> set[str]:
    """Return the names of the metrics that the files of `contrib` ask for."""
    return {name for expression in list_expressions() for name, _ in SELECTOR.findall(expression)}


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of each sample that a scrape can have."""
    registry = CollectorRegistry()
    registry.register(_Scrape(SEEN, Totals(audio_seconds=4.0, incidents={"hang": 1}), clients=5))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {one.name: set(one.labels) for family in families for one in family.samples}


VALUES = {
    "status": {str(status) for status in Status},
    "state": {str(state) for state in DeviceState},
    "cause": {*PauseKind, "inbox talks", "outbox talks"},
    "instance": {"127.0.0.1:8642"},
}


@pytest.mark.parametrize("expression", [*list_expressions()])
def test_an_expression_asks_for_what_there_is(expression: str, labels: dict[str, set[str]]) -> None:
    asked = SELECTOR.findall(expression)
    present = set(OF_PROMETHEUS)
    for metric, matchers in asked:
        assert metric in labels
        present |= labels[metric]
        for label, operator, value in MATCHER.findall(matchers):
            assert label in labels[metric] | OF_PROMETHEUS
            alternatives = value.split("|") if operator == "=~" else [value]
            for pattern in [value] if "(" in value else alternatives:
                found = [one for one in VALUES[label] if re.fullmatch(pattern, one)]
                assert found or pattern == "$instance", f"no {label} is {pattern}"
    for grouped in GROUPING.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= present


def test_every_metric_is_on_the_dashboard(labels: dict[str, set[str]]) -> None:
    assert labels.keys() <= list_asked_metrics()
