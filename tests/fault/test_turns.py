"""Models that take turns on one device, with kills of workers (awake, asleep, in between) and of ``serve``.

Some hang instead of dying: they are stopped by SIGSTOP, and have to be found out. One of them is awake at a time,
whatever is killed; nothing is lost, and each answer is exact.
``DYNAMO_TEST_TURNS=100`` makes a long run of it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.support.processes import until
from tests.support.readers import Reader, check
from tests.support.server import RedisServer
from tests.support.turns import Turns

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("DYNAMO_TEST_TURNS", "10"))
TOKENS = 60
SETTINGS = (
    "--Worker.engine=mocker", "--Worker.engine_args.token_delay_ms=10", "--Worker.engine_args.startup_s=0.2",
    "--Worker.engine_args.sleep_s=0.2", "--Worker.scale.turn=0.5",
)  # fmt: skip
MODELS = {"small": (), "large": (), "ends": ("--Worker.scale.sleep=0",)}


def disturb(turns: Turns, dice: Random, readers: list[Reader]) -> str:
    """Kill something in the middle of it; returns what."""
    name, kind = dice.choice([*MODELS]), dice.randrange(6)
    if kind < 2:  # while the first one answers; else while one starts, wakes, or falls asleep
        until(lambda: any(reader.times or reader.error for reader in readers), 60, "a first token")
    if kind == 5:
        turns.restart(name)
        return f"serve of {name}"
    return f"worker of {name}" if turns.kill_worker(name) else "nothing"


HANGS = (*SETTINGS, "--Worker.engine_args.startup_s=3", "--Worker.scale.start=20")
"""A start has seconds in which it can be stopped, and may take no longer than it takes on a busy machine."""


def stop(turns: Turns, name: str) -> int:
    """Stop the worker of a model; it hangs from now on."""
    until(lambda: turns.workers(name), 60, f"a worker of {name}")
    (pid,) = turns.workers(name)
    os.kill(pid, signal.SIGSTOP)
    return pid


def until_listed(turns: Turns, *models: str) -> None:
    """Wait until requests for some models are taken."""

    def listed() -> set[str]:
        return {one["id"] for one in httpx.get(f"{turns.http.base_url}/v1/models").json()["data"]}

    until(lambda: listed() >= {*models}, 60, lambda: f"they are listed: {listed()}")


def ask(turns: Turns, text: str, model: str, tokens: int = TOKENS) -> Reader:
    reader = Reader(lambda: [turns.http], text, tokens, model=model, abandon_after=300)
    reader.start()
    return reader


def test_a_start_that_hangs_holds_up_nobody(own_server: RedisServer, tmp_path: Path) -> None:
    with Turns(own_server, tmp_path, {"small": (), "large": ()}, *HANGS) as turns:
        until_listed(turns, "small", "large")
        first = ask(turns, "hangs", "small")
        pid = stop(turns, "small")
        second = ask(turns, "waits", "large")
        until(lambda: "did not serve within 20 s" in turns.fleet("small").get("note", ""), 90, "it is told")
        until(lambda: not Path(f"/proc/{pid}").exists(), 30, "it is killed")
        check([second, first], 180)
        assert second.times[-1] < first.times[0], "the turn went on"
        assert turns.wrong == []
        assert "did not serve within 20 s of its start; killed" in turns.serves["small"].output


@pytest.mark.parametrize("others", [False, True])
def test_a_worker_that_freezes_in_its_turn(own_server: RedisServer, tmp_path: Path, others: bool) -> None:
    """It is killed: at the end of its turn where others wait, else once it was not heard of for long."""
    with Turns(own_server, tmp_path, {"small": (), "large": ()}, *HANGS) as turns:
        until_listed(turns, "small", "large")
        readers = [ask(turns, "freezes", "small", 200)]
        until(lambda: readers[0].times, 60, "it has begun")
        stop(turns, "small")
        if others:
            readers.append(ask(turns, "waits", "large", 200))
        check(readers, 240)
        assert turns.wrong == []


def test_one_that_freezes_as_it_falls_asleep_or_wakes(own_server: RedisServer, tmp_path: Path) -> None:
    models = {"small": ("--Worker.engine_args.sleep_s=2",), "large": ()}
    with Turns(own_server, tmp_path, models, *HANGS) as turns:
        until_listed(turns, "small", "large")
        check([ask(turns, "first", "small")], 120)
        reader = ask(turns, "waits", "large")
        until(lambda: turns.fleet("small")["draining"] == 1, 60, "small falls asleep")
        stop(turns, "small")
        check([reader], 240)
        check([ask(turns, "again", "small")], 240)
        check([ask(turns, "sleeps", "large")], 240)
        turns.until_asleep("small")
        reader = ask(turns, "wakes", "small")
        until(lambda: turns.fleet("small")["starting"] == 1, 60, "small wakes")
        stop(turns, "small")
        check([reader], 240)
        assert turns.wrong == []


def test_one_is_awake_and_nothing_is_lost(own_server: RedisServer, tmp_path: Path) -> None:
    dice, killed = Random(11), []
    with Turns(own_server, tmp_path, MODELS, *SETTINGS) as turns:
        until(lambda: all(f"{name}:bounds" in turns.scale() for name in MODELS), 60, "all are deployed")
        for number in range(ROUNDS):
            readers = [
                Reader(lambda: [turns.http], f"round {number}, {n}", TOKENS, model=name, abandon_after=120)
                for n, name in enumerate(dice.choices([*MODELS], k=4))
            ]
            for reader in readers:
                reader.start()
            killed.append(disturb(turns, dice, readers))
            check(readers, 120)
            assert turns.wrong == [], killed
    if ROUNDS >= 100:
        assert len([one for one in killed if one.startswith("worker")]) >= 20, killed
        assert len([one for one in killed if one.startswith("serve")]) >= 5, killed
