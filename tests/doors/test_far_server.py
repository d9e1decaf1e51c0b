"""A server that is far away: a worker registers once it takes messages, and keeps its lease while it starts."""

from __future__ import annotations

import re
import time

import pytest

from tests.support.network import Distance
from tests.support.processes import START, Frontend, Worker, together, until
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
