"""The message of a request that is forwarded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.queue.broker.envelope import build_envelope, persisted
from dynamo_tasks.queue.execution.forwarding import _readdressed
from dynamo_tasks.sdk.context import ForwardRequested

FROM, TO = EndpointId("ns", "Router", "generate"), EndpointId("ns", "Worker", "generate")


@pytest.mark.parametrize("inbox", ["", "client-1"])
def test_it_says_whom_it_calls_and_where_its_result_is_announced(inbox: str) -> None:
    more: dict[str, Any] = {"dynamo": persisted({"re": inbox}), "traceparent": "00-1-2-01"}
    raw = build_envelope(FROM, "id", b"[[1],{},{}]", RequestOptions(), queue=FROM.queue, more=more)
    message = json.loads(_readdressed(raw, ForwardRequested(TO, 7)))
    assert message["headers"]["task"] == str(TO)
    assert message["headers"]["traceparent"] == "00-1-2-01"
    assert message["headers"]["dynamo"].get("re", "") == inbox
    assert message["properties"]["delivery_info"]["routing_key"] == TO.queue
    assert message["body"] == "[[1],{},{}]"
