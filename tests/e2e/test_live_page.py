"""The live page over HTTP: its files, its stream, and who sees what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer
from tests.support.web import ask, events

ONE, OTHER, ADMIN = ({"Authorization": f"Bearer {name}"} for name in ("one-key", "other-key", "admin-key"))


@pytest.fixture(scope="module")
def port(redis_server: RedisServer) -> Iterator[int]:
    env = {"DYNAMO_NAMESPACE": "paged"}
    keys = "Frontend.api_keys=[one-key, other-key, {key: admin-key, admin: true}]"
    with together(
        Worker(redis_server.url, env=env),
        Frontend(redis_server.url, settings=(keys,), env=env),
    ) as (_, frontend):
        yield frontend.port


def snapshot(port: int, headers: dict[str, str]) -> dict[str, Any]:
    """The first snapshot that a page gets."""
    stream = events(port, "GET", "/page/live", headers=headers)
    try:
        return dict(json.loads(next(stream)[1]))
    finally:
        stream.close()


def chat(port: int, headers: dict[str, str]) -> str:
    body = {"model": "echo", "messages": [{"role": "user", "content": "a secret of mine"}]}
    status, found, _ = ask(port, "POST", "/v1/chat/completions", body, headers)
    assert status == 200
    return found["x-request-id"]


def test_the_page_is_open_and_its_policy_is_strict(port: int) -> None:
    status, headers, body = ask(port, "GET", "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    names = set(re.findall(r'(?:src|href)="(/page/[^"]+)"', body.decode()))
    assert len(names) >= 3
    for name in names:
        status, headers, _ = ask(port, "GET", name)
        assert status == 200, name
        assert ask(port, "GET", name, headers={"If-None-Match": headers["etag"]})[0] == 304
    assert ask(port, "GET", "/page/../page.css")[0] in (401, 404)


def test_its_modules_import_only_each_other(port: int) -> None:
    todo, seen = ["/page/main.js"], set()
    while todo:
        path = todo.pop()
        status, _, body = ask(port, "GET", path)
        assert status == 200, path
        seen.add(path)
        found = {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', body.decode())}
        todo += found - seen
    assert len(seen) == 7


def test_the_stream_wants_a_key(port: int) -> None:
    assert ask(port, "GET", "/page/live")[0] == 401


def test_a_snapshot_has_what_is_served(port: int) -> None:
    found = snapshot(port, ONE)
    [component] = [one for one in found["components"] if one["namespace"] == "paged"]
    assert component["name"] == "Worker"
    assert component["instances"][0]["model"] == "echo"
    assert found["memory"]["used"] > 0
    assert found["error"] is None
    assert "owner_key" not in json.dumps(found)
    assert found["redis_url"] is None
    assert snapshot(port, ADMIN)["redis_url"].startswith("redis://")


def test_a_key_sees_its_own_requests_and_an_admin_all(port: int) -> None:
    mine, others = chat(port, ONE), chat(port, OTHER)
    ids = {row["id"] for row in snapshot(port, ONE)["recent"]}
    assert mine in ids
    assert others not in ids
    seen = snapshot(port, ADMIN)
    assert seen["admin"] is True
    assert {mine, others} <= {row["id"] for row in seen["recent"]}
    assert "a secret" not in json.dumps(seen)
    assert any(seen["latency"]["time_to_first_token_seconds"].values()) or seen["recent"]


def test_an_admin_may_read_and_cancel_what_others_may_not_see(port: int) -> None:
    body = {"model": "echo", "prompt": "long", "background": True}
    request_id = ask(port, "POST", "/v1/completions", body, ONE)[2]["id"]
    path = f"/v1/requests/{request_id}"
    for method, where in (("GET", path), ("GET", f"{path}/stream"), ("DELETE", path)):
        assert ask(port, method, where, headers=OTHER)[0] == 404
    assert ask(port, "GET", path, headers=ADMIN)[0] == 200
    assert list(events(port, "GET", f"{path}/stream", headers=ADMIN))
    assert ask(port, "DELETE", path, headers=ADMIN)[0] == 200
