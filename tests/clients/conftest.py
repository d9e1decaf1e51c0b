"""One server for all clients: two workers with the mocker, a frontend with keys.

Whoever needs another engine or other settings starts processes of its own; these are shared by the whole session.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import KEY, RATED, Served, serving
from tests.support.server import RedisServer


@pytest.fixture(scope="session")
def served(redis_server: RedisServer) -> Iterator[Served]:
    """A server with the model ``mocker`` and the API keys ``KEY`` and, one request a minute, ``RATED``."""
    with serving(redis_server.url, "clients", keys=(KEY, {"key": RATED, "requests_per_minute": 1})) as served:
        yield served
