"""Endpoints and tasks that end as none should: they fail, and nothing beside them notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_tasks.errors import EndpointError, RequestCancelledError
from dynamo_tasks.queue.client.result import StreamResult
from tests.support.processes import Worker, until
from tests.support.queue import Lab


@pytest.fixture(scope="module")
def neighbour(lab: Lab, worker: Worker) -> Iterator[StreamResult]:
    """A stream of the same process."""
    stream = lab.call("count", {"n": 100_000, "delay": 0.01})
    yield stream
    stream.cancel()
    values = []
    with pytest.raises(RequestCancelledError):
        values.extend(stream)
    assert values == list(range(len(values)))


@pytest.fixture(autouse=True)
def untouched(lab: Lab, worker: Worker, neighbour: StreamResult) -> Iterator[None]:
    """It goes on, whatever ends beside it."""
    until(lambda: len(lab.events(neighbour.id)) > 1, what="the first value")
    yield
    assert worker.alive, worker.output
    so_far = len(lab.events(neighbour.id))
    until(lambda: len(lab.events(neighbour.id)) > so_far, what="the neighbour goes on")
    assert lab.record(neighbour.id)["attempts"] == "1"


def ended(lab: Lab, result: StreamResult) -> list[Any]:
    """The values; where the request does not end, this does."""
    lab.reaches(result.id, "FAILED")
    return list(result)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("object", "Lab.wrong returned object, which is no JSON value"),
        ("generator", "an endpoint that streams has `yield` itself"),
        ("surrogate", "returned str, which is no JSON value"),
        ("number", "returned int, which is no JSON value"),
        ("exit", "SystemExit: 3"),
        ("cancelled", "CancelledError"),
        ("surrogate in the error", "\ud800"),
    ],
)
def test_a_value_or_error_that_no_endpoint_may_end_with_fails_the_request(
    lab: Lab, how: str, says: str
) -> None:
    with pytest.raises(EndpointError, match=says):
        ended(lab, lab.call("wrong", how))


@pytest.mark.parametrize(
    "how", ["object", "surrogate", "number", "exit", "cancelled", "object in a token", "surrogate in a token"]
)
def test_while_it_streams(lab: Lab, how: str) -> None:
    with pytest.raises(EndpointError):
        ended(lab, lab.call("wrong_steps", how))


@pytest.mark.parametrize("endpoint", ["wrong_in_thread", "wrong_steps_in_thread"])
@pytest.mark.parametrize("how", ["object", "exit", "nothing more"])
def test_in_a_thread(lab: Lab, endpoint: str, how: str) -> None:
    with pytest.raises(EndpointError):
        ended(lab, lab.call(endpoint, how))


def test_a_plain_task_that_exits_fails_alone(lab: Lab) -> None:
    with pytest.raises(Exception, match="SystemExit: 3"):
        lab.plain("leave").delay().get(timeout=30)


def test_the_log_shows_the_line_that_failed(lab: Lab, worker: Worker) -> None:
    with pytest.raises(EndpointError):
        ended(lab, lab.call("wrong", "surrogate in the error"))
    until(lambda: "raise ValueError(" in worker.output, what="the line in the worker's log")
