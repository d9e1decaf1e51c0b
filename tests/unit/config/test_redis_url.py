"""What is no Redis URL is said at once, and without its password."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.server.resp import PingAddress
from dynamo_tasks.store.redis.address import Address

WRONG = {
    "redis://:hunter2@host:99999/0": "port must be 1..65535",
    "redis://:hunter2@host:0/0": "port must be 1..65535",
    "redis://:hunter2@host:six/0": "port must be 1..65535",
    "redis://:hunter2@host:6379/x": "database 'x', which must be a number",
    "redis://:hunter2@host:6379/-1": "database '-1'",
    "redis://:hunter2@host:6379/1/2": "database '1/2'",
    "redis://:hunter2@host/\u0663": "must be a number",
    "redis://:hunter2@host/99999999999": "must be a number",
    "rediss://:hunter2@[::1/0": "IPv6",
    "unix://": "no socket path",
}


@pytest.mark.parametrize("url", WRONG)
@pytest.mark.parametrize("parse", [Address.parse, PingAddress.parse])
def test_each_part_that_is_wrong_is_named(parse: type, url: str) -> None:
    with pytest.raises(ConfigError, match="Redis URL") as caught:
        parse(url)
    assert WRONG[url] in caught.value.message
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host/",
        "redis://host:1/15",
        "unix:///run/redis.sock",
        "rediss://u:p@[::1]:6380/2",
    ],
)
def test_what_is_one(url: str) -> None:
    Address.parse(url)
    PingAddress.parse(url)
