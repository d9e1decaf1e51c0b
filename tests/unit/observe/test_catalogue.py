"""The catalogue is sound, documented, and the only source of names."""

import ast
import logging
import re
from pathlib import Path

import pytest

from dynamo_tasks.observe import LOG_EVENTS, METRICS, SPANS
from dynamo_tasks.observe.markdown import telemetry_markdown
from tests.support.source import parsed

ROOT = Path(__file__).parents[3]
LABELS_OF_FEW_VALUES = {"endpoint", "state", "code", "reason", "kind", "outcome", "source", "connection"} | {
    "where",
    "api",
    "status",
    "model",
    "service",
    "pipeline",
    "operator",
    "component",
    "tenant",
}


RECORDED_ELSEWHERE: set[str] = set()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_is_well_formed(metric):
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert set(metric.labels) <= LABELS_OF_FEW_VALUES
    assert metric.meaning.endswith(".")
    assert metric.unit
    if metric.unit == "seconds":
        assert metric.name.endswith("_seconds")


@pytest.mark.parametrize("entry", LOG_EVENTS.values(), ids=LOG_EVENTS)
def test_log_event_is_well_formed(entry):
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", entry.name)
    assert entry.level in {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}
    assert entry.meaning
    assert len(set(entry.fields)) == len(entry.fields)


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_span_is_well_formed(span):
    assert span.name.startswith("dynamo.")
    assert span.process in {"client", "frontend", "worker"}
    assert span.attributes


def test_names_are_unique_and_keyed_by_name():
    for catalogue in (METRICS, LOG_EVENTS, SPANS):
        assert [entry.name for entry in catalogue.values()] == list(catalogue)


def test_committed_documentation_is_current():
    committed = (ROOT / "docs" / "telemetry.md").read_text()
    assert committed == telemetry_markdown(), "run: python -m dynamo_tasks.observe > docs/telemetry.md"


def _literal_calls(function_names):
    """(file:line, function, first argument, keyword names) of all calls with a literal first argument."""
    for path in sorted((ROOT / "dynamo_tasks").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if name in function_names and (owner is None or getattr(owner, "id", "") in {"log", "metrics"}):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def _texts():
    """All string constants of the package, but for those of the catalogue itself."""
    for path in (ROOT / "dynamo_tasks").rglob("*.py"):
        if path.parent.name == "observe" and path.name in ("catalogue.py", "metrics.py"):
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_catalogue_promises_nothing_that_no_code_records():
    promised = {*METRICS, *LOG_EVENTS, *SPANS} - RECORDED_ELSEWHERE
    assert promised - set(_texts()) == set()


def test_code_logs_only_events_of_the_catalogue():
    wrong = []
    for place, call in _literal_calls({"event"}):
        entry = LOG_EVENTS.get(call.args[0].value)
        fields = {keyword.arg for keyword in call.keywords if keyword.arg} - {"exc"}
        if entry is None or fields - set(entry.fields):
            wrong.append(f"{place} {call.args[0].value} {sorted(fields)}")
    assert not wrong


def test_code_uses_only_metrics_of_the_catalogue():
    wrong = []
    for place, call in _literal_calls({"counter", "gauge", "histogram"}):
        metric = METRICS.get(call.args[0].value)
        labels = {keyword.arg for keyword in call.keywords}
        if metric is None or (None not in labels and labels != set(metric.labels)):
            wrong.append(f"{place} {call.args[0].value} {sorted(map(str, labels))}")
    assert not wrong
