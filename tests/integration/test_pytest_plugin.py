"""The plugin for users' tests, in a session of its own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytest_plugins = ["pytester"]
# The session of a user without these; hypothesis would be loaded at its end, see tests/conftest.py.
PLAIN = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
PLUGIN = "dynamo_tasks.serve.pytest_plugin"

SERVICE = """
import os
from dynamo_tasks import dynamo_endpoint, service

@service(dynamo={"namespace": "plugin"})
class Speller:
    extra: str = ""

    @dynamo_endpoint
    async def spell(self, word: str):
        for letter in word + self.extra:
            yield letter

    @dynamo_endpoint
    async def fail(self, word: str):
        raise ValueError(word)
"""
TESTS = """
import os
import pytest
from dynamo_tasks.errors import EndpointError
from speller import Speller

@pytest.fixture
def worker(dynamo_worker):
    return dynamo_worker("speller:Speller", settings=["Speller.extra=!"])

def test_a_stream(worker, stream_result):
    result = Speller.spell.delay("abc")
    assert stream_result(result) == ["a", "b", "c", "!"]
    assert stream_result(result.id, timeout=5) == ["a", "b", "c", "!"]

def test_a_failure(worker, stream_result):
    with pytest.raises(EndpointError, match="oh"):
        stream_result(Speller.fail.delay("oh"))

def test_the_same_worker(worker, dynamo_worker, dynamo_server):
    assert worker.alive and os.environ["DYNAMO_REDIS_URL"] == dynamo_server.url
    assert dynamo_worker("speller:Speller", settings=["Speller.extra=!"]) is worker
    print("pid", worker.pid, "end")

def test_nobody_answers(dynamo_server, stream_result):
    with pytest.raises(TimeoutError):
        stream_result(Speller.spell.apply_async(("x",), queue="nobody"), timeout=0.2)

def test_a_worker_that_cannot_start(dynamo_worker):
    with pytest.raises(RuntimeError, match="no service 'Nobody'"):
        dynamo_worker("speller:Nobody")
"""


def test_the_fixtures_serve_a_users_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYNAMO_STRICT_TELEMETRY")
    pytester.makepyfile(speller=SERVICE, test_user=TESTS)
    done = pytester.runpytest_subprocess("-p", PLUGIN, *PLAIN, "-s", timeout=60)
    done.assert_outcomes(passed=5)
    pid = re.search(r"pid (\d+) end", done.stdout.str())
    assert pid is not None
    assert not Path("/proc", pid[1]).exists()


def test_the_plugin_costs_nothing_until_it_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            assert "dynamo_tasks.serve.pytest_plugin" in sys.modules
            assert not {"celery", "redis", "dynamo_tasks.serve.server.embedded"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", PLUGIN, *PLAIN, timeout=30).assert_outcomes(passed=1)


def test_it_is_an_entry_point_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}
