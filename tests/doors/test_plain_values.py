"""Whatever an endpoint gives is plain data to everybody: every edge, every make of value."""

from __future__ import annotations

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.pipelines.graph.operators import partition, plain_record
from dynamo_tasks.protocol.plain import to_plain
from tests.support.plain_values import BAD, EXPECTED, NAMES, VALUES, is_plain
from tests.support.processes import ROOT, Worker, environment
from tests.support.server import RedisServer, free_port

QUEUED = {
    "get": 1, "iterate": 1, "get, thread": 1, "get, stream": 2, "iterate, stream": 2, "iterate, stream, thread": 2,
    "chain": 1, "aggregate": 1, "request": 1, "signature": 1,
}  # fmt: skip
"""Edge → how many values it gives."""
REMOTE = QUEUED | {
    "dependency": 8, "pipeline": 1, "http": 1, "sse": 1, "client": 1, "client, stream": 2, "client, request": 1,
    "event": 1,
}  # fmt: skip
OF_JSON = ("http", "sse", "event", "client, request")
"""Edges that have no bytes: they are base64."""
WAYS = [("eager", QUEUED), ("queue", REMOTE)]


def _run(*arguments: str, env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.values_client", *arguments],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = msgspec.msgpack.decode(bytes.fromhex(done.stdout.splitlines()[-1]))
    return found


def _joined(values: list[dict[str, Any]]) -> dict[str, Any]:
    ids = [token for value in values for token in value["token_ids"]]
    return values[-1] | {"text": "".join(value["text"] for value in values), "token_ids": ids}


@pytest.fixture(scope="module")
def answers(redis_server: RedisServer) -> dict[str, dict[str, Any]]:
    port = free_port()
    service = "tests.support.values_service:Edges"
    with Worker(redis_server.url, service=service, env={"DYNAMO_HTTP": f"127.0.0.1:{port}"}) as worker:
        with ThreadPoolExecutor(1) as beside:
            eager = beside.submit(_run, "eager", env=environment("redis://127.0.0.1:1"))
            queued = _run(f"http://127.0.0.1:{port}", env=environment(redis_server.url))
        assert worker.alive
    return {"queue": queued, "eager": eager.result()}


@pytest.mark.parametrize(("way", "edges"), WAYS, ids=["eager", "queue"])
@pytest.mark.parametrize("name", EXPECTED)
def test_every_edge_gives_plain_data(
    answers: dict[str, dict[str, Any]], name: str, way: str, edges: dict[str, int]
) -> None:
    for edge, n in edges.items():
        got = answers[way][f"{edge} | {name}"]
        expected = [EXPECTED[name]] * n
        if edge in OF_JSON:
            expected = msgspec.to_builtins(expected)
        if name in ("token", "last"):  # tokens that gather together become one
            got["values"], expected = _joined(got["values"]), _joined(expected)
        assert got == {"values": expected, "plain": True}, edge


@pytest.mark.parametrize(("way", "edges"), WAYS, ids=["eager", "queue"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in EXPECTED])
def test_what_has_no_plain_form_is_an_error_that_names_the_endpoint_and_the_type(
    answers: dict[str, dict[str, Any]], name: str, way: str, edges: dict[str, int]
) -> None:
    where = {"http": "@api json", "sse": "@api sse", "event": "the payload of an event must be JSON"}
    for edge in edges:
        error = answers[way][f"{edge} | {name}"].get("error", "")
        assert "JSON" in error, edge
        assert BAD[name][1] in error or "recursion" in error, edge
        assert where.get(edge, "plain-values.Edges.") in error or "default.Gives." in error, edge
        if edge in ("request", "signature", "client, request"):
            assert error.startswith("InvalidRequestError"), edge


@pytest.mark.parametrize("name", VALUES)
def test_plain_forms(name: str) -> None:
    make, plain = VALUES[name]
    found = to_plain(make())
    assert found == plain
    assert is_plain(found)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [(b"a", b"a"), ((1,), [1]), (True, True), (None, None), ({"a": {1: ()}}, {"a": {"1": []}})],
)
def test_long_lists(odd: Any, plain: Any) -> None:
    numbers: list[Any] = [*range(500), *(n / 7 for n in range(500))]
    assert to_plain(numbers) == numbers
    assert to_plain(numbers) is not numbers
    found = to_plain([odd, *numbers])
    assert found == [plain, *numbers]
    assert is_plain(found)


@pytest.mark.parametrize("name", BAD)
def test_no_plain_form(name: str) -> None:
    make, kind = BAD[name]
    with pytest.raises((TypeError, ValueError, RecursionError), match=f"{kind}|recursion"):
        to_plain(make())


def test_records_that_travel_between_operators() -> None:
    for name, (make, plain) in VALUES.items():
        assert plain_record(make(), msgspec.msgpack.encode) == plain, name
    for name, (make, _) in BAD.items():
        with pytest.raises(InvalidRequestError, match="records must be JSON to travel"):
            plain_record(make(), msgspec.msgpack.encode)
        assert name
    assert partition(uuid.UUID(int=1), 4) == partition(str(uuid.UUID(int=1)), 4)
    with pytest.raises(InvalidRequestError, match="a key must be JSON"):
        partition(object(), 4)


def test_what_a_caller_does_to_a_value_its_owner_does_not_see() -> None:
    own = {"a": [1, 2], "b": {"c": []}, "d": [[]]}
    given = to_plain(own)
    given["a"].append(3)
    given["b"]["c"].append(4)
    given["d"][0].append(5)
    assert own == {"a": [1, 2], "b": {"c": []}, "d": [[]]}
