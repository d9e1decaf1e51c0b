"""One trace through a client, the queue and a worker process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.processes import Worker, until
from tests.support.queue import Lab
from tests.support.traced_service import read_spans

SERVICE = "tests.support.traced_service:Traced"


@pytest.fixture(scope="module")
def worker(lab: Lab, spans_file: Path) -> Iterator[Worker]:
    with lab.worker(service=SERVICE, env={"SPANS_FILE": str(spans_file)}) as process:
        yield process


def named(spans: list[dict[str, Any]], name: str, request_id: str) -> list[dict[str, Any]]:
    return [s for s in spans if s["name"] == name and s["attributes"].get("dynamo.request_id") == request_id]


def runs(path: Path, request_id: str, count: int = 1) -> list[dict[str, Any]]:
    """The recorded attempts of a request, once there are so many."""

    def found() -> list[dict[str, Any]] | None:
        them = named(read_spans(path), "dynamo.run", request_id)
        return them if len(them) == count else None

    return list(until(found, 15, f"{count} spans of {request_id}"))


def test_a_call_and_its_child_are_one_trace(
    lab: Lab, worker: Worker, spans_file: Path, exporter: InMemorySpanExporter
) -> None:
    with trace.get_tracer("test").start_as_current_span("script") as script:
        result = lab.call("outer", {"x": 1})
        assert result.get(timeout=30) == 2
    (submit,) = [span for span in exporter.get_finished_spans() if span.name == "dynamo.submit"]
    assert submit.parent.span_id == script.get_span_context().span_id
    assert dict(submit.attributes or {}) == {
        "dynamo.request_id": result.id, "dynamo.endpoint": f"{lab.namespace}.Lab.outer",
        "messaging.destination.name": lab.queue, "messaging.system": "celery", "messaging.message.id": result.id,
        "messaging.operation.name": "submit", "messaging.operation.type": "send",
    }  # fmt: skip
    (run,) = runs(spans_file, result.id)
    assert run["kind"] == "SpanKind.CONSUMER"
    assert run["parent_id"] == f"0x{submit.context.span_id:016x}"
    assert run["attributes"]["dynamo.state"] == "SUCCEEDED"
    assert (run["attributes"]["dynamo.attempt"], run["links"]) == (1, [])

    trace_id = f"0x{submit.context.trace_id:032x}"
    own = [span for span in read_spans(spans_file) if span["context"]["trace_id"] == trace_id]
    by_id = {span["context"]["span_id"]: span for span in own}
    child = next(s for s in own if s["attributes"].get("dynamo.endpoint") == f"{lab.namespace}.Lab.add"
                 and s["name"] == "dynamo.run")  # fmt: skip
    chain = []
    while child is not None:
        chain.append(child["name"])
        child = by_id.get(child["parent_id"])
    assert chain == ["dynamo.run", "dynamo.submit", "mine", "dynamo.run"]


def test_a_retry_is_linked_to_the_attempt_before(
    lab: Lab, worker: Worker, spans_file: Path, exporter: InMemorySpanExporter
) -> None:
    result = lab.call("flaky", {})
    assert result.get(timeout=30) == 1
    first, second = sorted(runs(spans_file, result.id, 2), key=lambda span: span["start_time"])
    assert "dynamo.state" not in first["attributes"]
    assert [link["context"]["span_id"] for link in second["links"]] == [first["context"]["span_id"]]
    assert second["context"]["trace_id"] == first["context"]["trace_id"]


def test_a_call_outside_of_any_trace_is_the_root_of_one(lab: Lab, worker: Worker, spans_file: Path) -> None:
    """The client records nothing; the worker does."""
    result = lab.call("add", {"x": 1})
    assert result.get(timeout=30) == 2
    (run,) = runs(spans_file, result.id)
    assert run["parent_id"] is None


@pytest.mark.slow
def test_an_attempt_that_takes_over_is_linked_to_the_dead_one(lab: Lab, tmp_path: Path) -> None:
    own, spans = Lab(lab.server, f"heirs_{time.time_ns()}"), tmp_path / "spans.jsonl"
    with own.worker(service=SERVICE, name="victim", env={"SPANS_FILE": str(spans)}) as victim:
        result = own.call("count", {"n": 10_000, "delay": 0.1}, ignore_result=True)
        own.reaches(result.id, "RUNNING")
        dead = until(lambda: own.record(result.id).get("traceparent"), what="the first attempt's span")
        with own.worker(service=SERVICE, name="heir", env={"SPANS_FILE": str(spans)}):
            victim.kill()
            until(lambda: own.record(result.id).get("traceparent") != dead, 30, "the second attempt's span")
            result.cancel()
            (run,) = runs(spans, result.id)
            # On a busy machine another one may be recovered first, which holds nothing.
            recovered = until(
                lambda: [s for s in read_spans(spans) if s["attributes"].get("dynamo.moved")],
                what="a recovery",
            )
    own.close()
    (link,) = run["links"]
    assert run["attributes"]["dynamo.attempt"] == 2
    assert dead.split("-")[1:3] == [link["context"]["trace_id"][2:], link["context"]["span_id"][2:]]
    assert recovered[0]["attributes"]["dynamo.moved"] == 1
