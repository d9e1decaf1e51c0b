"""Clients of each API that go on after every fault, as a careful user's would: the text, the ends, the counts."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.processes import Frontend

__all__ = ["STREAMED", "Answer", "ApiClients"]

STREAMED = ("chat", "completions", "responses", "messages")
TOKENS = 80
_BUSY = (409, 429, 503)
_LOST = (httpx.HTTPError, OSError)
_PATIENCE = 120.0
_ENDS = {"response.completed", "response.incomplete", "message_stop"}
_FAILURES = {"response.failed", "response.cancelled", "error"}


@dataclass
class Answer:
    """What a client got.

    Attributes:
        text: All of it.
        ends: How often it was told the end.
        tokens: Of the answer, as the API says.
        ids: Of SSE events, as they came.
        numbers: ``sequence_number`` of events, where they have one.
    """

    text: str = ""
    ends: int = 0
    tokens: int = 0
    ids: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    @property
    def said(self) -> tuple[str, int, int]:
        """What must be the same, whatever has happened."""
        assert len(self.ids) == len(set(self.ids)), "an event came twice"
        assert self.numbers in ([], list(range(len(self.numbers)))), "numbers have a gap"
        return self.text, self.ends, self.tokens

    def take(self, event: dict[str, Any]) -> None:
        """Take the data of an event of any API."""
        kind = event.get("type", "")
        assert kind not in _FAILURES, event
        assert not event.get("error"), event
        if "sequence_number" in event:
            self.numbers.append(event["sequence_number"])
        for choice in event.get("choices", ()):
            self.text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        if kind in ("content_block_delta", "response.output_text.delta"):
            self.text += event["delta"] if isinstance(event["delta"], str) else event["delta"]["text"]
        self.ends += kind in _ENDS
        usage = event.get("usage") or (event.get("response") or {}).get("usage") or {}
        self.tokens = usage.get("completion_tokens") or usage.get("output_tokens") or self.tokens


class ApiClients:
    """Asks whichever frontend lives.

    Args:
        frontends: Those that should; some may be dead.
    """

    def __init__(self, frontends: Callable[[], Sequence[Frontend]]):
        self._frontends = frontends
        self.reading: list[Answer] = []
        """Answers of streams, from their start on."""

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask until somebody answers who is not busy."""
        async with asyncio.timeout(_PATIENCE), httpx.AsyncClient(timeout=30) as client:
            while True:
                try:
                    answer = await client.request(method, self._root() + path, **more)
                    if answer.status_code not in _BUSY:
                        return answer
                except _LOST:
                    pass
                await asyncio.sleep(0.1)

    async def stream(self, path: str, body: dict[str, Any], key: str) -> Answer:
        """Stream an answer; after a lost connection the rest of it, from another frontend."""
        answer, request_id = Answer(), ""
        self.reading.append(answer)
        async with asyncio.timeout(_PATIENCE), httpx.AsyncClient(timeout=30) as client:
            while not answer.ends:
                try:
                    if request_id:
                        head = {"last-event-id": answer.ids[-1]} if answer.ids else {}
                        url = f"{self._root()}/v1/requests/{request_id}/stream"
                        asked = client.stream("GET", url, headers=head)
                    else:
                        head = {"idempotency-key": key}
                        asked = client.stream("POST", self._root() + path, json=body, headers=head)
                    async with asked as response:
                        request_id = await self._read(response, answer) or request_id
                except _LOST:
                    pass
                await asyncio.sleep(0.1)
        return answer

    async def in_the_midst(self, streams: int) -> None:
        """Wait until so many streams have begun, and one of them is well under way."""
        async with asyncio.timeout(_PATIENCE):
            while len(self.reading) < streams or max(len(one.ids) for one in self.reading) < 10:
                await asyncio.sleep(0.01)

    async def _read(self, response: httpx.Response, answer: Answer) -> str:
        if response.status_code in _BUSY:
            return ""
        assert response.status_code == 200, (response.status_code, await response.aread())
        try:
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    answer.ids.append(value)
                elif name == "data" and value == "[DONE]":
                    answer.ends += 1
                elif name == "data":
                    answer.take(json.loads(value))
        except _LOST:
            pass
        return str(response.headers["x-request-id"])

    async def poll(self, body: dict[str, Any], key: str) -> Answer:
        """A response in the background, polled until it has ended."""
        head = {"idempotency-key": key}
        made = await self.call("POST", "/v1/responses", json=body | {"background": True}, headers=head)
        path = f"/v1/responses/{made.json()['id']}"
        async with asyncio.timeout(_PATIENCE):
            while True:
                found = (await self.call("GET", path)).json()
                if found["status"] not in ("queued", "in_progress"):
                    break
                await asyncio.sleep(0.1)
        assert found["status"] == "incomplete", found
        assert (await self.call("GET", path)).json() == found
        text = found["output"][0]["content"][0]["text"]
        return Answer(text, 1, found["usage"]["output_tokens"])

    async def batch(self, url: str, bodies: list[dict[str, Any]], key: str) -> list[str]:
        """The texts of a batch, in the order of its lines."""
        rows = [
            {"custom_id": str(n), "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)
        ]
        raw = "\n".join(map(json.dumps, rows)).encode()
        form: dict[str, Any] = {"files": {"file": ("in.jsonl", raw)}, "data": {"purpose": "batch"}}
        file = (await self.call("POST", "/v1/files", **form)).json()["id"]
        asked = {"input_file_id": file, "endpoint": url, "completion_window": "24h"}
        head = {"idempotency-key": key}
        name = (await self.call("POST", "/v1/batches", json=asked, headers=head)).json()["id"]
        async with asyncio.timeout(_PATIENCE):
            while True:
                found = (await self.call("GET", f"/v1/batches/{name}")).json()
                if found["status"] in ("completed", "failed", "expired", "cancelled"):
                    break
                await asyncio.sleep(0.2)
        total = len(bodies)
        assert found["request_counts"] == {"total": total, "completed": total, "failed": 0}, found
        content = await self.call("GET", f"/v1/files/{found['output_file_id']}/content")
        made = [json.loads(row) for row in content.text.splitlines()]
        texts = {row["custom_id"]: _text_of(row["response"]["body"]) for row in made}
        assert len(made) == len(texts) == total
        return [texts[str(n)] for n in range(total)]

    def _root(self) -> str:
        alive = [one.base_url for one in self._frontends() if one.alive]
        return random.choice(alive) if alive else "http://127.0.0.1:9"


def _text_of(body: dict[str, Any]) -> str:
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    return str(body["output"][0]["content"][0]["text"])
