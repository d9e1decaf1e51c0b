"""Spans where OpenTelemetry is used, and nothing where it is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dynamo_tasks.observe.tracing import OFF, span

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


def test_where_it_is_not_installed_nothing_is_missed() -> None:
    code = (
        "import sys\n"
        "asked = []\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'opentelemetry':\n"
        "            asked.append(name)\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "import dynamo_tasks.runtime.hosting.service_host, dynamo_tasks.frontend.app, dynamo_tasks.services.worker\n"
        "asked.clear()\n"  # redis-py looks for it
        "from dynamo_tasks.observe.tracing import OFF, configure, span, tracing\n"
        "configure('x')\n"
        "assert span('dynamo.http') is OFF and not tracing()\n"
        "assert OFF.carry({'traceparent': 'x'}) == {'traceparent': 'x'}\n"
        "assert asked == []\n"
        "configure('x', {'OTEL_TRACES_EXPORTER': 'otlp'})\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "pip install 'dynamo-tasks[otel]'" in done.stderr


def test_an_api_without_a_provider_makes_no_spans() -> None:
    assert span("dynamo.http") is OFF


def test_the_exporter_variable_makes_a_provider() -> None:
    code = (
        "from dynamo_tasks.observe.tracing import configure, span\n"
        "configure('Worker')\n"
        "with span('dynamo.recover', attributes={'dynamo.moved': 3}): pass\n"
    )
    done = run(code, OTEL_TRACES_EXPORTER="console")
    assert done.returncode == 0, done.stderr
    assert '"name": "dynamo.recover"' in done.stdout
    assert '"service.name": "Worker"' in done.stdout


def test_an_unknown_exporter_is_a_warning() -> None:
    code = "from dynamo_tasks.observe.tracing import configure; configure('Worker')"
    done = run(code, OTEL_TRACES_EXPORTER="nonsense")
    assert done.returncode == 0, done.stderr
    assert "no installed package has a span exporter named 'nonsense'" in done.stderr


def test_the_parent_is_what_came_with_the_request(exporter: InMemorySpanExporter) -> None:
    with span("dynamo.submit", {"traceparent": PARENT}) as made:
        carried = made.carry({"traceparent": PARENT, "tracestate": "a=b", "baggage": "c=d"})
    (done,) = exporter.get_finished_spans()
    assert done.parent is not None
    assert f"{done.parent.span_id:x}" == "b7ad6b7169203331"
    assert (
        carried["traceparent"]
        == made.traceparent
        == PARENT.replace("b7ad6b7169203331", f"{done.context.span_id:016x}")
    )
    assert carried["baggage"] == "c=d"


def test_the_users_current_span_comes_first(exporter: InMemorySpanExporter) -> None:
    with (
        trace.get_tracer("mine").start_as_current_span("mine") as mine,
        span("dynamo.submit", {"traceparent": PARENT}),
    ):
        pass
    done = exporter.get_finished_spans()[0]
    assert done.parent is not None
    assert done.parent.span_id == mine.get_span_context().span_id


def test_an_entered_span_is_current_up_to_its_end(exporter: InMemorySpanExporter) -> None:
    made = span("dynamo.http", {"traceparent": PARENT})
    made.enter()
    assert trace.get_current_span().get_span_context().trace_id == int(PARENT.split("-")[1], 16)
    made.end()
    made.end()
    assert not trace.get_current_span().get_span_context().is_valid
    assert len(exporter.get_finished_spans()) == 1


def test_an_error_is_recorded_and_a_link_kept(exporter: InMemorySpanExporter) -> None:
    made = span("dynamo.run")
    made.link(PARENT)
    with pytest.raises(ValueError, match="boom"), made:
        raise ValueError("boom")
    (done,) = exporter.get_finished_spans()
    assert done.status.description == "ValueError: boom"
    assert [f"{link.context.span_id:x}" for link in done.links] == ["b7ad6b7169203331"]


def test_what_was_not_sampled_stays_so(exporter: InMemorySpanExporter) -> None:
    unsampled = PARENT[:-2] + "00"
    with span("dynamo.submit", {"traceparent": unsampled}) as made:
        assert made.traceparent.endswith("-00")
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize("wrong", [("dynamo.nonsense", {}), ("dynamo.run", {"nonsense": 1})])
def test_names_outside_of_the_catalogue_are_errors(
    exporter: InMemorySpanExporter, wrong: tuple[str, dict]
) -> None:
    with pytest.raises(LookupError, match="nonsense"):
        span(wrong[0], attributes=wrong[1])
