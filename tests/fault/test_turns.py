"""Models that take turns on one device, with kills of workers (awake, asleep, in between) and of ``serve``.

One of them is awake at a time, whatever is killed; nothing is lost, and each answer is exact.
``DYNAMO_TEST_TURNS=100`` makes a long run of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

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
