"""A worker process that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes import Worker
from tests.support.queue import Lab
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def lab(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A namespace of the module's own."""
    made = Lab(redis_server, request.module.__name__.rpartition(".")[2].removeprefix("test_"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(lab: Lab) -> Iterator[Worker]:
    """A worker of that namespace."""
    with lab.worker("-E") as process:
        yield process
        for bad in ("Unrecoverable", "never retrieved", "was never awaited", "Connection to broker lost"):
            assert bad not in process.output, process.output
