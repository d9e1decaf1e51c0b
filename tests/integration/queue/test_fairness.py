"""A flood of one tenant, and what it does to others: real workers, calls with ``.delay()``."""

from __future__ import annotations

import pytest

from dynamo_tasks.queue.client.result import StreamResult
from tests.support.queue import Lab

FLOOD = 200
PACE = {"n": 1, "delay": 0.03}


def _wait(lab: Lab, result: StreamResult) -> float:
    """Seconds from its submit to its claim."""
    record = lab.record(result.id)
    return (int(record["started"]) - int(record["created"])) / 1000


def _waits(lab: Lab, tenant: str, count: int) -> list[float]:
    """Of single calls of a tenant, one after the other, behind more calls of tenant ``flood`` than two slots can do."""
    flood = [lab.call("pace", PACE, tenant="flood", ignore_result=True) for _ in range(FLOOD)]
    waits = []
    for _ in range(count):
        single = lab.call("pace", PACE, tenant=tenant, ignore_result=True)
        lab.reaches(single.id, "SUCCEEDED", 60)
        waits.append(_wait(lab, single))
    if tenant != "flood":
        assert lab.state(flood[-1].id) == "QUEUED", "the flood was over too soon to tell"
    for result in flood:
        result.cancel()
    return waits


def test_the_length_of_a_queue_counts_the_line(lab: Lab) -> None:
    """As kombu (``queue_declare``), Flower's API and ``status`` see it."""
    results = [lab.call("echo", n) for n in range(50)]
    with lab.app.connection_for_read() as connection:
        assert connection.default_channel.queue_declare(lab.queue).message_count == 50
    steps = lab.app.conf.broker_transport_options["priority_steps"]
    assert sum(lab.redis.llen(f"{lab.queue}\x06\x16{step}" if step else lab.queue) for step in steps) == 50
    with lab.worker(name="counted"):
        assert [result.get(timeout=20) for result in results] == list(range(50))
    assert connection.default_channel.queue_declare(lab.queue).message_count == 0


@pytest.mark.slow
def test_a_flood_of_one_tenant_does_not_starve_another(lab: Lab) -> None:
    with lab.worker("--concurrency=2", name="fair"):
        (alike,) = _waits(lab, "flood", 1)
        fair = _waits(lab, "other", 3)
    assert max(fair) < alike / 3, (fair, alike)
