"""What a server has room for is told, and what one stream may take is bounded. (A full one: test_server_faults.)"""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import StreamTooLargeError
from dynamo_tasks.store.streams.open_stream import ENTRY_BYTES
from tests.support.faults import kill_worker
from tests.support.processes import together, until
from tests.support.queue import Lab
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
CAP = 4000


def _size(lab: Lab, request_id: str) -> int:
    return sum(len(data) + ENTRY_BYTES for _, fields in lab.events(request_id) for data in fields.values())


def test_the_cap_of_a_stream_counts_what_earlier_attempts_wrote(own_server: RedisServer) -> None:
    own_server.command("CONFIG", "SET", "maxmemory", "16mb")
    lab = Lab(own_server, "cap")
    setting = ("--set", f"Lab.ServiceArgs.traffic.max_stream_bytes={CAP}")
    with together(
        lab.worker(*setting, name="one"),
        lab.worker(*setting, name="two"),
    ) as (one, two):
        result = lab.call("count", {"n": 1000, "delay": 0.01})
        stream = iter(result)
        got = [next(stream)]
        while _size(lab, result.id) < CAP // 2:
            got.append(next(stream))
        owner = one if lab.redis.sismember(lab.keys.owned(_lease(one.output)), result.id) else two
        kill_worker(owner)
        with pytest.raises(StreamTooLargeError, match=f"its cap is {CAP}"):
            got += stream
        until(lambda: lab.state(result.id) == "FAILED", what="its end")
        assert got == list(range(len(got)))
        assert _size(lab, result.id) < CAP + 20 * ENTRY_BYTES
        assert lab.record(result.id)["attempts"] == "2"
        assert "store.memory_low" in two.output
        assert lab.call("count", {"n": 3}).get(timeout=30) == [0, 1, 2]
    lab.close()


def _lease(output: str) -> int:
    return int(output.partition("instance_id=")[2].split()[0], 16)
