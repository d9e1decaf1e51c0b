"""Settings of all tests."""

from __future__ import annotations

import os

# Names outside the telemetry catalogue are errors, in child processes too.
os.environ["DYNAMO_STRICT_TELEMETRY"] = "1"

import contextlib
import importlib
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dynamo_tasks.sdk.services.known import declared_services
from tests.support.server import RedisServer
from workers import agg as ready_made

# Processes start by the hundred: without kept bytecode each compiles the whole project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Loaded here and not at the end of the session, where Python 3.11.7 may fail to rewrite their modules.
for late in ("schemathesis.reporting.allure", "schemathesis.reporting.html.writer"):
    with contextlib.suppress(ImportError):
        importlib.import_module(late)
# A run under nohup ignores hang-ups, and so would every process that it starts.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
settings.register_profile("project", deadline=None)
settings.load_profile("project")


_OF_ALL = re.compile(r"^pytestmark = (?:\[.*?^\]|.*?$)", re.MULTILINE | re.DOTALL)
"""The marks of all tests of a file."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file of slow tests is not even imported for the quick ones: some import whole frameworks."""
    if config.option.markexpr != "not slow" or not collection_path.match("test_*.py"):
        return None
    return any("mark.slow" in marks for marks in _OF_ALL.findall(collection_path.read_text())) or None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Four processes for a plain ``pytest``, which mostly waits; none besides pytest's own for a part of the tests.

    The tests of a file stay together: they share servers and workers. Those of ``unit``, short ones, come last, so that
    no process is left alone with a long file.
    """
    whole = config.args_source is config.ArgsSource.TESTPATHS and config.option.markexpr == "not slow"
    if not whole or config.option.keyword:
        return 0
    config.option.dist = "loadfile"
    config.option.loadscopereorder = False
    return 4


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that don't harm it; each uses a namespace of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def settings_end_with_their_file() -> Iterator[None]:
    """What a file configures in this process is not found by the next one: ready-made services are of all of them."""
    assert ready_made
    before = {id(service): service.settings for service in declared_services()}
    yield
    for service in declared_services():
        if service.settings is not before.get(id(service), service.settings):
            service.configure(before[id(service)])


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Spans of this process, an ``InMemorySpanExporter``."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    made, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return made


@pytest.fixture(scope="module")
def spans_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where traced processes of a module (``tests/support/traced_service.py``) write their spans."""
    return tmp_path_factory.mktemp("traces") / "spans.jsonl"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test that kills, freezes or floods it."""
    with RedisServer(tmp_path) as server:
        yield server
