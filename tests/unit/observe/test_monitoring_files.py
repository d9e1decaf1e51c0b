"""What docker/monitoring asks Prometheus for, the catalogue has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dynamo_tasks.observe import METRICS
from dynamo_tasks.observe.schema import PREFIX

FOLDER = Path(__file__).parents[3] / "docker" / "monitoring"
FILES = ("alerts.yml", "dashboard.json")
_NAME = re.compile(rf"\b{PREFIX}([a-z0-9_]+)\s*(?:{{([^}}]*)}})?")
_PART = re.compile(r"_(bucket|sum|count)$")


def expressions(name: str) -> list[str]:
    text = (FOLDER / name).read_text()
    if name.endswith(".json"):
        return [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    return [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("file", FILES)
def test_only_metrics_of_the_catalogue_are_asked_for(file: str) -> None:
    asked = [found for text in expressions(file) for found in _NAME.findall(text)]
    assert asked
    for name, matchers in asked:
        metric = METRICS.get(name) or METRICS[_PART.sub("", name)]
        assert (metric.kind == "histogram") == (metric.name != name), name
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= set(metric.labels)


@pytest.mark.parametrize("file", FILES)
def test_only_labels_of_the_catalogue_are_grouped_by(file: str) -> None:
    for text in expressions(file):
        known = {"le"} | {
            label
            for name, _ in _NAME.findall(text)
            for label in (METRICS.get(name) or METRICS[_PART.sub("", name)]).labels
        }
        for labels in re.findall(r"by \(([^)]*)\)", text):
            assert {label.strip() for label in labels.split(",")} <= known, text


def test_the_dashboard_shows_what_waits_and_how_routing_goes() -> None:
    shown = {_PART.sub("", name) for text in expressions("dashboard.json") for name, _ in _NAME.findall(text)}
    wanted = {"requests_waiting", "requests_running", "instances_wanted"}
    assert wanted | {name for name in METRICS if name.startswith("router_")} <= shown
