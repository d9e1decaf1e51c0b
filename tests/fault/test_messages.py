"""Messages through faults: the same blocks as without one, each event once, one end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import by_load, kill_worker, restart_redis
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

PACED = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=7")
"""The longest takes some seconds."""

_TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("weather", "time")]
_CALLS = 'weather({"city": "%s"}) and time({"zone": "UTC"})'
_EFFORT = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}


def _text(number: int) -> dict[str, Any]:
    return {"max_tokens": 500, "messages": [{"role": "user", "content": f"text {number}"}]}


def _thoughts(number: int) -> dict[str, Any]:
    return {"max_tokens": 600, "messages": [{"role": "user", "content": f"think {number}"}], **_EFFORT}


def _calls(number: int) -> dict[str, Any]:
    asked = _CALLS % f"Oslo {number} {'of long names ' * 6}"
    return {"max_tokens": 900, "messages": [{"role": "user", "content": asked}], "tools": _TOOLS, **_EFFORT}


ASKED = [make(number) for number in range(2) for make in (_text, _thoughts, _calls)]


@dataclass
class Reader:
    """Reads one message in a thread."""

    body: dict[str, Any]
    ids: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    broken: BaseException | None = None

    def start(self, http: Frontend, path: str = "") -> Reader:
        self.broken = None
        self.ended.clear()
        threading.Thread(target=self._read, args=(http, path), daemon=True).start()
        return self

    def _read(self, http: Frontend, path: str) -> None:
        method, body, headers = "POST", {**self.body, "model": "mocker", "stream": True}, {}
        if path:
            method, body, headers = "GET", None, {"Last-Event-ID": self.ids[-1]}
        try:
            for event_id, data in http.events(method, path or "/v1/messages", body, headers):
                event = json.loads(data)
                if event["type"] != "ping":
                    self.events.append(event)
                    self.ids.append(event_id)
        except (OSError, ValueError) as error:  # the frontend was killed
            self.broken = error
        self.ended.set()

    @property
    def request_id(self) -> str:
        return str(self.events[0]["message"]["id"])

    def check(self, expected: dict[str, Any]) -> None:
        """All is there, in order, and nothing twice."""
        assert self.ended.wait(120)
        kinds = [event["type"] for event in self.events]
        assert [kinds.count(kind) for kind in ("message_start", "message_delta", "message_stop")] == [1, 1, 1], (
            kinds, self.broken
        )  # fmt: skip
        assert kinds[-1] == "message_stop"
        assert len(set(self.ids)) == len(self.ids)
        assert _blocks(self.events) == expected["content"]
        assert self.events[-2]["delta"]["stop_reason"] == expected["stop_reason"]
        assert self.events[-2]["usage"]["output_tokens"] == expected["usage"]["output_tokens"]


def _blocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that the events make, without signatures."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]) | {"json": ""})
        elif event["type"] == "content_block_delta":
            delta = dict(event["delta"])
            kind = delta.pop("type").removesuffix("_delta")
            ((_, piece),) = delta.items()
            blocks[event["index"]]["json" if kind == "input_json" else kind] += piece
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
        block.pop("signature", None)
    return blocks


def _expected(http: Frontend) -> list[dict[str, Any]]:
    """The same messages without a fault; the mocker's answers are functions of the requests."""

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        status, _, message = http.request("POST", "/v1/messages", {**body, "model": "mocker"})
        assert status == 200, message
        for block in message["content"]:
            block.pop("signature", None)
        return dict(message)

    with ThreadPoolExecutor(len(ASKED)) as pool:
        return list(pool.map(ask, ASKED))


@dataclass
class Stack:
    """Two workers and two frontends."""

    server: RedisServer
    workers: list[Worker]
    first: Frontend
    second: Frontend


@pytest.fixture
def stack(own_server: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    url = own_server.url
    with ExitStack() as entered:
        workers = [Worker(url, settings=PACED, name=name) for name in "ab"]
        fronts = [Frontend(url, settings=("Worker.ServiceArgs.workers=2",)) for _ in range(2)]
        first, second, *_ = entered.enter_context(together(*fronts, *workers))
        yield Stack(own_server, workers, first, second)


def _begun(stack: Stack) -> tuple[list[Reader], list[dict[str, Any]]]:
    """Streams that have come some way, and what they have to say."""
    expected = _expected(stack.second)
    readers = [Reader(body).start(stack.first) for body in ASKED]
    until(lambda: all(len(reader.events) > 12 for reader in readers), 60.0, "events of all")
    return readers, expected


def _check(readers: list[Reader], expected: list[dict[str, Any]]) -> None:
    for reader, message in zip(readers, expected, strict=True):
        reader.check(message)


def test_kill_worker(stack: Stack) -> None:
    readers, expected = _begun(stack)
    assert [block["type"] for block in expected[2]["content"]] == ["thinking", "tool_use", "tool_use"]
    kill_worker(by_load(stack.server.url, stack.workers, len(readers))[0])
    _check(readers, expected)


def test_kill_frontend_and_go_on_at_another(stack: Stack) -> None:
    readers, expected = _begun(stack)
    stack.first.kill()
    for reader in readers:
        assert reader.ended.wait(30)
        request_id = reader.request_id.removeprefix("msg_")
        dashed = "-".join(request_id[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
        reader.start(stack.second, f"/v1/requests/{dashed}/stream")
    _check(readers, expected)


def test_restart_redis(stack: Stack) -> None:
    readers, expected = _begun(stack)
    restart_redis(stack.server)
    _check(readers, expected)
