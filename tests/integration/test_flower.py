"""Flower with our application: never open by default."""

from __future__ import annotations

import pytest

from tests.support.processes import Flower, until
from tests.support.server import RedisServer


def test_without_a_login_it_does_not_start(redis_server: RedisServer) -> None:
    with Flower(redis_server.url) as flower:
        assert flower.popen.wait(30) == 2
        assert "--basic-auth=USER:PASSWORD" in flower.output
        assert "Traceback" not in flower.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "expected"), [({"FLOWER_BASIC_AUTH": "me:x"}, 401), ({"FLOWER_UNAUTHENTICATED_API": "true"}, 200)]
)
def test_with_a_login_it_asks_for_it(redis_server: RedisServer, env: dict[str, str], expected: int) -> None:
    with Flower(redis_server.url, **env) as flower:
        until(lambda: flower.get("/")[0] or not flower.alive, 30, "Flower listens")
        assert flower.get("/workers")[0] == expected, flower.output
