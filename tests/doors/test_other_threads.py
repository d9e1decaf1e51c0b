"""Results of groups and chords are the same in each thread, whoever made the calls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import ROOT, Worker, environment
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SERVICE = "tests.support.door_calls:Caller"
ONE, TWO, THREE = {"n": 1}, {"n": 2}, {"n": 3}
EXPECTED: dict[str, Any] = {
    "group": [ONE, TWO], "ended": [2, 4], "join": [ONE, TWO], "join_native": [ONE, TWO], "iterate": [1, 2],
    "to_thread": [ONE, TWO], "chord": [0, 1, 2], "header": [ONE, TWO], "set": [ONE, TWO],
    "made in threads": [ONE, TWO, THREE], "made in threads, waited for in another": [ONE, TWO, THREE],
    "nested": [ONE, TWO, THREE], "two wait": [[ONE, TWO]] * 2, "here and there": [[ONE, TWO]] * 2,
    "plain and not": [ONE, TWO], "not and plain": [ONE, TWO, THREE], "chord of both": [0, 1, 2], "chain of both": [0],
    "set of both": [ONE, TWO], "failed": "why", "many": [2 * n for n in range(60)],
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with (
        RedisServer(tmp_path_factory.mktemp("threads")) as server,
        Worker(server.url, service=SERVICE, name="threads"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.door_threads"], env=environment(server.url), cwd=ROOT,
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", EXPECTED)
def test_another_thread_gets_all_of_it(found: dict[str, Any], way: str) -> None:
    assert found[way] == EXPECTED[way]
