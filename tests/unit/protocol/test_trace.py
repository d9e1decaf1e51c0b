"""W3C trace context."""

from __future__ import annotations

import pytest

from dynamo_tasks.protocol.trace import TraceParent
from dynamo_tasks.sdk.context import Context

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_child_stays_in_the_trace() -> None:
    parent = TraceParent.parse(HEADER)
    assert parent is not None
    assert str(parent) == HEADER
    child = parent.child()
    assert (child.trace_id, child.flags) == (parent.trace_id, "01")
    assert child.span_id != parent.span_id


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "x",
        HEADER[:-1],
        HEADER.upper(),
        "ff" + HEADER[2:],
        HEADER.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
    ],
)
def test_what_is_no_header_is_ignored(text: object) -> None:
    assert TraceParent.parse(text) is None
    context = Context(headers={"traceparent": text})
    assert TraceParent.parse(context.traceparent) is not None
    assert context.child_headers() == {"traceparent": context.traceparent}
