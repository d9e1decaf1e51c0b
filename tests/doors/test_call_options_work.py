"""Options of a call that docs/celery.md says work, in a worker that tells its events: each does what it is for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import TimeLimitExceeded

from tests.support.processes import Worker, until
from tests.support.queue import Lab
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def lab(redis_server: RedisServer) -> Iterator[Lab]:
    made = Lab(redis_server, "calloptions")
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(lab: Lab) -> Iterator[Worker]:
    with lab.worker("-E", "-n", "named@somewhere") as process:
        yield process


@pytest.fixture(scope="module")
def heard(lab: Lab, worker: Worker) -> Iterator[list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    with lab.app.connection_for_read() as connection:
        receiver = lab.app.events.Receiver(connection, handlers={"*": events.append})

        def listen() -> None:
            for _ in receiver.consume(limit=None, timeout=None, wakeup=True):
                pass

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        until(lambda: any(event["type"] == "worker-heartbeat" for event in events), what="a heartbeat")
        yield events
        receiver.should_stop = True
        thread.join(5)


def received(heard: list[dict[str, Any]], request_id: str) -> dict[str, Any]:
    """The event that tells how a worker sees the call."""
    return until(  # type: ignore[no-any-return]
        lambda: next(
            (one for one in heard if one["type"] == "task-received" and one["uuid"] == request_id), None
        )
    )


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma"])
def test_compression(lab: Lab, worker: Worker, name: str) -> None:
    text = "x" * 100_000
    assert lab.call("echo", text, compression=name).get(timeout=20) == text


def test_links_are_called_with_the_result(lab: Lab, worker: Worker) -> None:
    add = lab.task("add")
    call = lab.call("add", {"x": 1}, link=[add.s(), lab.plain("note")])
    assert call.get(timeout=20) == {"x": 2}
    until(lambda: call.children, what="links that were called")
    assert call.children[0].get(timeout=20)[0] == {"x": 3}  # several links are a group
    until(lambda: "LAB note {'x': 2}" in worker.output, what=lambda: worker.output)


def test_error_links_are_called_with_the_request(lab: Lab, worker: Worker) -> None:
    call = lab.call("fail", {}, link_error=[lab.plain("errback")], link=lab.plain("note").clone(("never",)))
    assert isinstance(call.get(timeout=20, propagate=False), ValueError)
    until(lambda: f"LAB errback {call.id} ValueError" in worker.output, what=lambda: worker.output)
    assert "LAB note never" not in worker.output


def test_names_and_texts_of_the_callers_choice(lab: Lab, worker: Worker, heard: list[dict[str, Any]]) -> None:
    call = lab.call("echo", 1, shadow="other", argsrepr="<hidden>", kwargsrepr="<none>")
    told = received(heard, call.id)
    assert (told["name"], told["args"], told["kwargs"]) == ("other", "<hidden>", "<none>")
    assert told["hostname"] == "named@somewhere"
    assert call.get(timeout=20) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retries": 2}, 2), ({"headers": {"mine": "1"}}, 0), ({"retry": False}, 0),
        ({"retry": True, "retry_policy": {"max_retries": 1}}, 0), ({"countdown": 0.1, "priority": 9}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_a_call_with_it_runs(lab: Lab, worker: Worker, options: dict[str, Any], expected: int) -> None:
    assert lab.call("who", {"delay": 0}, **options).get(timeout=20)["retries"] == expected


def test_time_limit_of_one_call(lab: Lab, worker: Worker) -> None:
    with pytest.raises(TimeLimitExceeded):
        lab.call("count", {"n": 200, "delay": 0.1}, time_limit=0.5).get(timeout=20)
