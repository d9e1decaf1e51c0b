"""Two releases share one server: each process is restarted in turn as the other release, back and forth, under load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.store.ledger.fields import Field
from tests.support.processes import ROOT, Frontend, Worker, until
from tests.support.readers import PACED, Reader, check
from tests.support.releases import NEWER_PRIORITY, make_newer
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOKENS, STREAMS = 100, 6


class Fleet:
    """Two workers, two frontends, and a load that never ends."""

    def __init__(self, server: RedisServer, entered: ExitStack, newer: Path):
        self.server, self.newer = server, newer
        self._entered = entered
        self.workers = [self.worker(ROOT), self.worker(ROOT)]
        self.frontends = [self.frontend(ROOT), self.frontend(ROOT)]
        self.readers: list[Reader] = []
        self._enough = threading.Event()
        self._load = [threading.Thread(target=self._read, args=(n,), daemon=True) for n in range(STREAMS)]

    def worker(self, root: Path) -> Worker:
        return self._entered.enter_context(Worker(self.server.url, settings=PACED, root=root))

    def frontend(self, root: Path) -> Frontend:
        return self._entered.enter_context(Frontend(self.server.url, root=root))

    def _read(self, n: int) -> None:
        while not self._enough.is_set():
            reader = Reader(lambda: list(self.frontends), f"prompt {n}", TOKENS)
            self.readers.append(reader)
            reader.start()
            reader.join()

    def start(self) -> None:
        for thread in self._load:
            thread.start()
        self.progress()

    def stop(self) -> list[Reader]:
        self._enough.set()
        for thread in self._load:
            thread.join(60)
        return self.readers

    def progress(self) -> None:
        """Every stream goes on: some more have begun and got text since."""
        before = len(self.readers)
        until(
            lambda: sum(len(one.ids) > 3 for one in self.readers[before:]) >= STREAMS // 2, 60, "new streams"
        )

    def replace_worker(self, n: int, root: Path) -> None:
        """The next one comes up, then the old one goes down in good order."""
        old, self.workers[n] = self.workers[n], self.worker(root)
        assert old.terminate(60) == 0, old.output
        self.progress()

    def replace_frontend(self, n: int, root: Path) -> None:
        """New clients go elsewhere; those that it serves go on at another one."""
        old = self.frontends[n]
        rest = [one for one in self.frontends if one is not old]
        self.frontends = rest
        new = self.frontend(root)
        old.terminate(60)
        self.frontends = [*rest, new] if n else [new, *rest]
        self.progress()

    def protocols(self) -> list[int]:
        return sorted(row["protocol"] for row in snapshot(self.server.url)["instances"])


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "server").mkdir()
    with RedisServer(tmp_path / "server") as server, ExitStack() as entered:
        yield Fleet(server, entered, make_newer(tmp_path / "newer"))


def _check_newer_requests(fleet: Fleet) -> None:
    """What needs a newer worker is served by one, whoever takes its message first."""
    body = {"model": "mocker", "prompt": "new", "max_tokens": 3, "priority": NEWER_PRIORITY}
    instances = {row["instance_id"]: row["protocol"] for row in snapshot(fleet.server.url)["instances"]}
    store = redis.Redis(port=fleet.server.port, decode_responses=True)
    for _ in range(6):
        status, headers, _ = fleet.frontends[0].request("POST", "/v1/completions", body)
        assert status == 200
        needs, owner, by = store.hmget(
            f"dt:dynamo:req:{headers['x-request-id']}", Field.NEEDS, Field.OWNER, "by"
        )
        assert (needs, instances[owner], by) == ("2", 2, "2")
    store.close()


def test_each_process_in_turn_back_and_forth_under_load(fleet: Fleet) -> None:
    fleet.start()
    fleet.replace_frontend(0, fleet.newer)
    fleet.replace_worker(0, fleet.newer)
    assert fleet.protocols() == [1, 2]
    _check_newer_requests(fleet)
    fleet.replace_worker(1, fleet.newer)
    fleet.replace_frontend(1, fleet.newer)
    assert fleet.protocols() == [2, 2]
    # And back: the older release meets what the newer one has left.
    fleet.replace_frontend(0, ROOT)
    fleet.replace_worker(0, ROOT)
    assert fleet.protocols() == [1, 2]
    fleet.replace_worker(1, ROOT)
    fleet.replace_frontend(1, ROOT)
    assert fleet.protocols() == [1, 1]
    readers = fleet.stop()
    assert len(readers) > 4 * STREAMS
    check(readers)
    store = redis.Redis(port=fleet.server.port)
    logs = [store.xrange(key) for key in store.scan_iter("dt:dynamo:log:*")]
    kinds = {kind for log in logs for _, fields in log for kind in fields}
    assert {b"x", b"t", b"e"} <= kinds, "the newer release wrote no events of its own"
    store.close()
