"""Batches under kills: each custom_id once, right counts, and the text of a run without faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.batches import BatchPlace, background_of, batch_place, chat_line
from tests.support.processes import Frontend, Worker, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
LINES = [chat_line(f"q{i}", f"question number {i}", tokens=10 + i % 40) for i in range(700)]
SLOW = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20", "Worker.engine_args.max_num_seqs=64")


@pytest.fixture
def place(own_server: RedisServer, tmp_path: Path) -> Iterator[BatchPlace]:
    folder = tmp_path / "files"
    folder.mkdir()
    with batch_place(own_server, folder, "batch-faults", worker=SLOW) as made:
        yield made


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The answers of a run without faults."""
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as server,
        batch_place(server, tmp_path_factory.mktemp("files"), "batch-calm") as calm,
    ):
        batch = calm.ended(calm.submit(LINES).id)
        return texts_of(calm.rows(batch.output_file_id))


def texts_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    names = [row["custom_id"] for row in rows]
    assert len(names) == len(set(names))
    return {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}


def check(place: BatchPlace, batch_id: str, texts: dict[str, str]) -> None:
    """All of it is there, once, and nothing is left of it in Redis."""
    batch = place.ended(batch_id, 240)
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(LINES), len(LINES), 0)
    assert texts_of(place.rows(batch.output_file_id)) == texts
    assert batch.error_file_id is None

    def erased() -> bool:
        reply = place.server.command("EVAL", "return #redis.call('KEYS', 'dt:batch-faults:log:*')", "0")
        return int(reply.strip(b":\r\n")) <= 1  # the stream of the run itself

    until(erased, 60)


def done(place: BatchPlace, batch_id: str, at_least: int) -> None:
    """Wait until so many lines have ended."""
    until(lambda: place.client.batches.retrieve(batch_id).request_counts.completed >= at_least, 120)


def again(place: BatchPlace, *names: str) -> None:
    """Start what was killed, as `serve` does."""
    for name in names:
        if name == "worker":
            place.worker = Worker(place.server.url, settings=SLOW, env=place.env)
        else:
            place.background = background_of(place.server.url, place.env)


def check_and_end(place: BatchPlace, batch_id: str, texts: dict[str, str], *names: str) -> None:
    """As :func:`check`; then what was started again is ended."""
    try:
        check(place, batch_id, texts)
    finally:
        for name in names:
            getattr(place, name).kill()


def test_its_worker_is_killed(place: BatchPlace, texts: dict[str, str]) -> None:
    batch = place.submit(LINES)
    for part in (100, 350):
        done(place, batch.id, part)
        place.worker.kill()
        again(place, "worker")
    check_and_end(place, batch.id, texts, "worker")


def test_background_is_killed_again_and_again(place: BatchPlace, texts: dict[str, str]) -> None:
    batch = place.submit(LINES)
    for part in (10, 130, 300, 500):
        done(place, batch.id, part)
        place.background.kill()
        again(place, "background")
    check_and_end(place, batch.id, texts, "background")


@pytest.mark.parametrize("step", ["parts", "record", "finalizing"])
def test_background_is_killed_at_the_end(place: BatchPlace, texts: dict[str, str], step: str) -> None:
    """Once its last part is written; once its record says so; once it says `finalizing`."""
    batch = place.submit(LINES)
    done(place, batch.id, 400)
    outputs = place.folder / "batch-faults"
    reached: dict[str, Callable[[], Any]] = {
        "parts": lambda: any(path.name.startswith("00005") for path in outputs.glob("*/*")),
        "record": lambda: place.client.batches.retrieve(batch.id).request_counts.completed == len(LINES),
        "finalizing": lambda: place.client.batches.retrieve(batch.id).status in ("finalizing", "completed"),
    }
    until(reached[step], 120)
    place.background.kill()
    again(place, "background")
    check_and_end(place, batch.id, texts, "background")


def test_two_believe_that_they_run_it(place: BatchPlace, texts: dict[str, str]) -> None:
    """One is frozen for longer than its lease, another one takes over, the first one thaws and goes on."""
    import signal

    batch = place.submit(LINES)
    done(place, batch.id, 100)
    with background_of(place.server.url, place.env) as other:
        place.background.signal(signal.SIGSTOP)
        before = place.client.batches.retrieve(batch.id).request_counts.completed
        done(place, batch.id, before + 130)
        place.background.signal(signal.SIGCONT)
        check(place, batch.id, texts)
        assert other.alive
        assert place.background.alive


def test_its_frontend_is_killed(place: BatchPlace, texts: dict[str, str]) -> None:
    batch = place.submit(LINES)
    done(place, batch.id, 50)
    place.frontend.kill()
    with Frontend(place.server.url, env=place.env) as other:
        place.frontend = other
        check(place, batch.id, texts)


def test_redis_is_killed_and_restarted(place: BatchPlace, texts: dict[str, str]) -> None:
    batch = place.submit(LINES)
    for part in (60, 400):
        done(place, batch.id, part)
        place.server.kill()
        time.sleep(1)  # it is away
        place.server.start()
        until(lambda: place.frontend.get("/ready")[0] == 200, 60)
    check(place, batch.id, texts)


def test_all_are_killed_at_once(place: BatchPlace, texts: dict[str, str]) -> None:
    batch = place.submit(LINES)
    done(place, batch.id, 200)
    for process in (place.background, place.worker, place.frontend):
        process.kill()
    place.server.kill()
    place.server.start()
    again(place, "worker", "background")
    with Frontend(place.server.url, env=place.env) as other:
        place.frontend = other
        check_and_end(place, batch.id, texts, "worker", "background")
