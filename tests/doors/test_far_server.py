"""A server that is far away: a worker registers once it takes messages, and keeps its lease while it starts."""

from __future__ import annotations

import re
import time

import pytest

from tests.support.network import Distance
from tests.support.processes import START, Frontend, Worker, together, until
from tests.support.queue import SERVICE, Lab
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LIMIT = 20.0
"""Seconds from a process that has loaded to one that serves, at 0.3 s a round trip."""


def moment(output: str, event: str) -> float:
    """When a line of the log was written, seconds of its day."""
    found = re.search(rf"\[\S+ (\d+):(\d+):(\d+),(\d+): \w+/MainProcess\] .*{event}", output)
    assert found is not None, output
    hours, minutes, seconds, milli = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + milli / 1000


@pytest.mark.parametrize("round_trip", [0.3, 0.6, 1.0])
def test_a_worker_is_ready_and_keeps_its_lease(own_server: RedisServer, round_trip: float) -> None:
    with Distance(own_server.port, round_trip=round_trip) as far:
        url = f"redis://127.0.0.1:{far.port}/0"
        worker = Worker(url, "-E", settings=("Worker.engine=mocker",), name="far", wait=False)
        frontend = Frontend(url, ready="")
        with together(worker, frontend):
            worker.wait_ready(START + 60)
            until(lambda: frontend.get("/ready")[0] == 200, START, lambda: frontend.output)
            took = moment(worker.output, r"ready\.") - moment(worker.output, "config.loaded")
            assert took < LIMIT * round_trip / 0.3
            # Messages were taken before anybody could send one.
            assert worker.output.index("Connected to") < worker.output.index("instance.registered")
            status, _, body = frontend.request(
                "POST", "/v1/completions", {"model": "mocker", "prompt": "hi", "max_tokens": 3}
            )
            assert status == 200, body
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 10, 15, "ten seconds of a lease")
            assert "lease.lost" not in worker.output, worker.output
            assert "deregistered" not in worker.output, worker.output
            assert "loop was blocked" not in worker.output, worker.output


def test_plain_tasks_failures_and_commands_hold_up_no_stream(own_server: RedisServer) -> None:
    """Notes, acknowledgements, results of failures, replies and revocations: nobody's round trip is the loop's."""
    lab = Lab(own_server, "afar")
    with Distance(own_server.port, round_trip=0.3) as far:
        url = f"redis://127.0.0.1:{far.port}/0"
        worker = Worker(
            url, "-c", "40", service=SERVICE, name="afar", env={"LAB_NAMESPACE": "afar"}, wait=False
        )
        with together(worker):
            worker.wait_ready(START + 60)
            stream = lab.call("pace", {"n": 400, "delay": 0.05})
            lab.reaches(stream.id, "RUNNING")
            plain = [lab.plain("plus").delay(number) for number in range(20)]
            plain += [lab.plain("plus").apply_async((number,), countdown=1) for number in range(20, 30)]
            failed = [lab.call("fail", {}) for _ in range(10)]
            linked = [lab.call("add", {"x": 1}, link=lab.plain("note")) for _ in range(5)]
            control = lab.app.control
            assert control.inspect(timeout=10, limit=1).active()
            for command, arguments in (
                ("add_consumer", {"queue": "aside"}),
                ("revoke", {"task_id": [f"unknown-{number}" for number in range(10)]}),
                ("cancel_consumer", {"queue": "aside"}),
            ):
                assert control.broadcast(command, arguments=arguments, reply=True, timeout=30, limit=1)
            assert [call.get(timeout=30) for call in plain] == [number + 1 for number in range(30)]
            assert all(isinstance(call.get(timeout=30, propagate=False), Exception) for call in failed)
            assert [call.get(timeout=30) for call in linked] == [{"x": 2}] * 5
            assert max(stream.get(timeout=60)) < 1
            until(lambda: lab.unacked() == 0, 20, "no note left")
            for told in ("lease.lost", "deregistered", "loop was blocked"):
                assert told not in worker.output, worker.output
    lab.close()
