"""The live page over HTTP: its files, its stream, and who sees what."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.batches import background_of, chat_line
from tests.support.dead import make_dead
from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer
from tests.support.web import ask, events

ONE, OTHER, ADMIN = ({"Authorization": f"Bearer {name}"} for name in ("one-key", "other-key", "admin-key"))


@pytest.fixture(scope="module")
def port(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("files")
    env = {"DYNAMO_NAMESPACE": "paged", "DYNAMO_FILES_URL": folder.as_uri()}
    keys = "Frontend.api_keys=[one-key, other-key, {key: admin-key, admin: true}]"
    with together(
        Worker(redis_server.url, env=env),
        background_of(redis_server.url, env),
        Frontend(redis_server.url, settings=(keys,), env=env),
    ) as (_, _, frontend):
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
    assert len(seen) == 8


def test_the_stream_wants_a_key(port: int) -> None:
    assert ask(port, "GET", "/page/live")[0] == 401


def test_a_snapshot_has_what_is_served(port: int) -> None:
    found = snapshot(port, ONE)
    found_at = {(one["namespace"], one["name"]): one for one in found["components"]}
    component = found_at["paged", "Worker"]
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


def batch(port: int, headers: dict[str, str], *lines: dict[str, Any]) -> str:
    raw = "\n".join(map(json.dumps, lines))
    form = (
        '--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--x\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        f"{raw}\r\n--x--\r\n"
    )
    sent = {**headers, "content-type": "multipart/form-data; boundary=x"}
    status, _, file = ask(port, "POST", "/v1/files", form.encode(), sent)
    assert status == 200, file
    body = {
        "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"note": "a secret of mine"},
    }  # fmt: skip
    status, _, made = ask(port, "POST", "/v1/batches", body, headers)
    assert status == 200, made
    return str(made["id"])


def rows_until(port: int, headers: dict[str, str], batch_id: str, *states: str) -> dict[str, Any]:
    """The row of a batch on the page, once it is in one of some states."""
    for _, data in events(port, "GET", "/page/live", headers=headers):
        for row in json.loads(data)["batches"]:
            if row["id"] == batch_id and row["status"] in states:
                assert "a secret" not in data
                assert "owner_key" not in data
                return dict(row)
    raise AssertionError("the stream has ended")


def test_a_key_sees_its_own_batches_and_an_admin_all(port: int) -> None:
    lines = [chat_line(f"q{i}", "a secret of mine", model="echo") for i in range(5)]
    mine = batch(port, ONE, *lines)
    broken = batch(port, OTHER, {"custom_id": "a secret of mine"})
    row = rows_until(port, ADMIN, mine, "completed")
    wrong = rows_until(port, ADMIN, broken, "failed")
    assert wrong["mistakes"][0]["line"] == 1
    assert rows_until(port, ONE, mine, "completed") == row
    assert (row["total"], row["completed"], row["failed"], row["mistakes"]) == (5, 5, 0, [])
    assert row["ended"] >= int(row["created"])
    assert broken not in {one["id"] for one in snapshot(port, ONE)["batches"]}


def test_an_admin_may_cancel_the_batch_of_another_key(port: int) -> None:
    path = (
        f"/v1/batches/{batch(port, ONE, *[chat_line(f'q{i}', 'hello', model='echo') for i in range(2000)])}"
    )
    assert ask(port, "POST", f"{path}/cancel", headers=OTHER)[0] == 404
    assert ask(port, "POST", f"{path}/cancel", headers=ADMIN)[2]["status"] in ("cancelling", "cancelled")
    rows_until(port, ADMIN, path.rpartition("/")[2], "cancelled")


def listed(port: int, headers: dict[str, str], rows: str, request_id: str) -> dict[str, Any]:
    """The first snapshot of one page that lists a request among these rows."""
    for _, data in events(port, "GET", "/page/live", headers=headers):
        seen: dict[str, Any] = json.loads(data)
        if any(row["id"] == request_id for row in seen[rows]):
            return seen
    raise AssertionError("the stream has ended")


def test_dead_letters_are_shown_to_their_key_and_tried_again_by_an_admin(
    port: int, redis_server: RedisServer
) -> None:
    request_id = make_dead(redis_server.url, owner_key=hashlib.sha256(b"one-key").hexdigest())
    rows = listed(port, ONE, "dead_requests", request_id)["dead_requests"]
    [row] = [one for one in rows if one["id"] == request_id]
    assert row["attempts"] == 3
    assert "lost its worker" in row["error"]
    assert "owner_key" not in row
    assert request_id not in {one["id"] for one in snapshot(port, OTHER)["dead_requests"]}
    path = f"/page/dead/{request_id}/retry"
    assert ask(port, "POST", path)[0] == 401
    assert ask(port, "POST", path, headers=ONE)[0] == 403
    assert ask(port, "POST", path, headers=ADMIN)[0] == 204
    seen = listed(port, ADMIN, "requests", request_id)
    assert request_id not in {one["id"] for one in seen["dead_requests"]}
    assert ask(port, "POST", path, headers=ADMIN)[0] == 404
