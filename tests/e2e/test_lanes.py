"""Several Redis servers: requests live on one of them each, and every process uses all (docs/lanes.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.readers import PACED, check, start
from tests.support.server import RedisServer


@dataclass
class Lanes:
    """Two servers, two workers, a frontend."""

    servers: list[RedisServer]
    workers: list[Worker]
    http: Frontend

    @property
    def url(self) -> str:
        return ", ".join(server.url for server in self.servers)

    def requests(self) -> list[set[str]]:
        """Ids of the requests on each server."""
        return [_ids(server) for server in self.servers]


def _ids(server: RedisServer) -> set[str]:
    with redis.Redis(port=server.port, decode_responses=True) as asked:
        return {key.rpartition(":")[2] for key in asked.scan_iter("dt:dynamo:req:*", count=1000)}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    with RedisServer(tmp_path_factory.mktemp("a")) as a, RedisServer(tmp_path_factory.mktemp("b")) as b:
        url = f"{a.url}, {b.url}"
        workers = [Worker(url, settings=PACED, name=name) for name in "ab"]
        http = Frontend(url, settings=("Worker.ServiceArgs.workers=2",))
        with together(*workers, http):
            yield Lanes([a, b], workers, http)


def _registered(server: RedisServer) -> int:
    with redis.Redis(port=server.port) as asked:
        return sum(1 for _ in asked.scan_iter("dt:dynamo:lease:*"))


def test_requests_are_on_all_lanes_and_their_texts_are_whole(lanes: Lanes) -> None:
    until(
        lambda: all(_registered(server) == 2 for server in lanes.servers), what="both workers on both lanes"
    )
    readers = start(lanes.http, n=24, tokens=20)
    check(readers)
    first, second = lanes.requests()
    mine = {reader.request_id for reader in readers}
    assert mine <= first | second
    assert not first & second
    assert mine & first
    assert mine & second
    for request_id in mine:
        status, _, body = lanes.http.request("GET", f"/v1/requests/{request_id}")
        assert (status, body["status"]) == (200, "succeeded")


@pytest.mark.parametrize(("mark", "state"), [("", "up"), ("#drain", "drained")])
def test_status_shows_lanes(lanes: Lanes, mark: str, state: str) -> None:
    command = [sys.executable, "-m", "dynamo_tasks", "status", "--json"]
    ran = subprocess.run(
        command, env=environment(lanes.url + mark), cwd=ROOT, capture_output=True, text=True, check=True
    )
    shown = json.loads(ran.stdout)
    assert [row["state"] for row in shown["lanes"]] == ["up", state]
    assert len(shown["instances"]) == 2, "each is shown once"


def test_a_lane_is_drained(lanes: Lanes) -> None:
    """It gets no new requests; those that are there go on, and are found by who drains it."""
    readers = start(lanes.http, n=16, tokens=60)
    there = {one.request_id for one in readers} & _ids(lanes.servers[1])
    assert there
    with Frontend(f"{lanes.url}#drain", settings=("Worker.ServiceArgs.workers=2",)) as drains:
        before = _ids(lanes.servers[1])
        check(start(drains, n=8, tokens=20))
        assert _ids(lanes.servers[1]) == before
        for request_id in there:
            read = [data for _, data in drains.events("GET", f"/v1/requests/{request_id}/stream")]
            assert read[-1] == "[DONE]"
    check(readers)
