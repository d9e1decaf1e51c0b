"""The causes of docs/reliability.md: what ends a request, how fast its engine stops, what everybody is told."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from dynamo_tasks.errors import DeadlineExceededError, EndpointError, RequestCancelledError
from dynamo_tasks.protocol.events import End
from dynamo_tasks.queue.client.result import StreamResult
from tests.support.processes import Worker, until
from tests.support.promises import in_time
from tests.support.queue import Lab, not_consuming

PROMISE = 0.1
"""Seconds from the cause until the engine has stopped."""
LONG = {"n": 10_000, "delay": 0.02, "wall": True}


class Cause(NamedTuple):
    """One row."""

    options: dict[str, Any]
    act: Callable[[Lab, StreamResult], Any] | None
    """What somebody does; else it happens by itself."""
    state: str
    reason: str
    reader: type[Exception]
    """What a reader of the stream gets."""
    celery: type[Exception]
    """What ``get()`` raises."""
    after: str = ""
    """Field of the record from which the cause counts where it happens by itself."""
    wait: float = 0.0
    """Seconds behind that."""


CAUSES = {
    "cancel": Cause(
        {}, lambda lab, one: one.cancel(), "CANCELLED", "cancelled", RequestCancelledError, TaskRevokedError
    ),
    "revoke_terminate": Cause(
        {}, lambda lab, one: one.revoke(terminate=True), "CANCELLED", "cancelled", RequestCancelledError,
        TaskRevokedError,
    ),
    "control_revoke_terminate": Cause(
        {}, lambda lab, one: lab.app.control.revoke(one.id, terminate=True), "CANCELLED", "cancelled",
        RequestCancelledError, TaskRevokedError,
    ),
    "deadline": Cause(
        {"deadline": 0.5}, None, "FAILED", "deadline", DeadlineExceededError, DeadlineExceededError, "deadline"
    ),
    "time_limit": Cause(
        {"time_limit": 0.3}, None, "FAILED", "time_limit", DeadlineExceededError, TimeLimitExceeded, "started", 0.3
    ),
    "soft_time_limit": Cause(
        {"soft_time_limit": 0.3}, None, "FAILED", "error", EndpointError, SoftTimeLimitExceeded, "started", 0.3
    ),
}  # fmt: skip


def _stopped(worker: Worker, request_id: str) -> float:
    """When the body of a request ended, as the worker itself saw it; Unix seconds."""
    start = f"LAB stopped {request_id}"
    found = until(lambda: [line for line in worker.output.splitlines() if line.startswith(start)], 30, start)
    assert len(found) == 1
    return float(found[0].split()[-1])


def _end(lab: Lab, request_id: str) -> End:
    last = lab.events(request_id)[-1][1]
    assert list(last) == [b"e"]
    return End.decode(last[b"e"])


def _measure(lab: Lab, worker: Worker, cause: Cause) -> float:
    result = lab.call("count", LONG, **cause.options)
    values = iter(result)
    assert next(values) == 0
    began = time.time()
    if cause.act is not None:
        cause.act(lab, result)
    else:
        began = float(lab.record(result.id)[cause.after]) / 1000 + cause.wait
    with pytest.raises(cause.reader):
        list(values)
    with pytest.raises(cause.celery):
        result.get(timeout=30)
    assert lab.state(result.id) == cause.state
    assert _end(lab, result.id).finish_reason == cause.reason
    until(lambda: lab.record(result.id)["settled"] == "1", 30, "Celery's completion is done")
    return _stopped(worker, result.id) - began


@pytest.mark.parametrize("cause", CAUSES)
def test_a_running_request(lab: Lab, worker: Worker, cause: str) -> None:
    in_time(lambda: _measure(lab, worker, CAUSES[cause]), PROMISE)


def _child(parent: str) -> str:
    return str(uuid.uuid5(uuid.UUID(parent), "1"))


CHAIN = {
    "cancel": ({}, lambda result: result.cancel(), ("CANCELLED",)),
    # Children have their parent's deadline: whichever of them comes first ends the child.
    "deadline": ({"deadline": 0.7}, None, ("FAILED", "CANCELLED")),
    "time_limit": ({"time_limit": 0.5}, None, ("CANCELLED",)),
    "soft_time_limit": ({"soft_time_limit": 0.5}, None, ("CANCELLED",)),
}


@pytest.mark.parametrize("cause", CHAIN)
def test_what_a_parent_has_called_ends_with_it(lab: Lab, worker: Worker, cause: str) -> None:
    options, act, children = CHAIN[cause]

    def measure() -> float:
        result = lab.call("nest", {"levels": 3}, **options)
        assert next(iter(result)) == 0
        ids = [result.id, _child(result.id), _child(_child(result.id))]
        began = time.time()
        if act is not None:
            act(result)
        times = [_stopped(worker, request_id) for request_id in ids]
        for request_id in ids[1:]:
            until(lambda one=request_id: lab.state(one) in children, 30, f"{request_id} is {children}")
        return max(times) - (began if act is not None else times[0])

    in_time(measure, PROMISE)


@pytest.mark.parametrize("terminate", [False, True])
def test_a_queued_request_is_dropped_at_claim(lab: Lab, worker: Worker, terminate: bool) -> None:
    with not_consuming(lab):
        result = lab.call("count", LONG)
        result.revoke(terminate=terminate)
        assert lab.state(result.id) == "CANCELLED"
        with pytest.raises(RequestCancelledError):
            list(result)
        assert lab.length() == 1
    until(lambda: lab.length() == 0, 30, "its message was taken")
    assert lab.call("echo", 1).get(timeout=30) == 1
    until(lambda: lab.record(result.id)["settled"] == "1", 30, "Celery was told")
    assert (result.state, _end(lab, result.id).finish_reason) == ("REVOKED", "cancelled")
    assert f"LAB stopped {result.id}" not in worker.output
    assert [list(fields) for _, fields in lab.events(result.id)] == [[b"e"]]


def test_a_plain_function_runs_on_and_keeps_its_slot(lab: Lab) -> None:
    """A thread cannot be stopped: its request ends at once, and nothing else is started in its place."""
    alone = Lab(lab.server, f"{lab.namespace}-alone")
    with alone.worker("-c", "1"):
        for endpoint, payload in (("plain", {"sleep": 1.0}), ("steps", {"n": 3, "sleep": 1.0})):
            in_time(lambda one=(endpoint, payload): _ended_alone(alone, *one), 0.9)  # and not with its thread
    alone.close()


def _ended_alone(lab: Lab, endpoint: str, payload: dict[str, Any]) -> float:
    """Seconds from the start of a call to its end by its limit; its thread runs for a second."""
    result = lab.call(endpoint, payload, time_limit=0.1)
    began = float(until(lambda: lab.record(result.id).get("started"), 30, "it runs")) / 1000
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=30)
    ended = float(lab.record(result.id)["finished"]) / 1000
    assert _end(lab, result.id).finish_reason == "time_limit"
    after = lab.call("echo", 1)
    assert after.get(timeout=30) == 1
    assert float(lab.record(after.id)["started"]) / 1000 - began > 0.9, "its slot was given away"
    return ended - began
