"""Plain HTTP to a process on this machine."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

__all__ = ["ask", "events", "look"]


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """One request; status, headers (names in lower case), body (parsed if it is JSON)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        raw = answer.read()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, found, json.loads(raw) if "json" in found.get("content-type", "") else raw
    finally:
        connection.close()


def look(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """GET: status and body; status 0 while nobody listens."""
    try:
        status, _, body = ask(port, "GET", path, headers=headers)
    except OSError:
        return 0, None
    return status, body


def events(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Server-sent events as ``(id, data)``; close the iterator to drop the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"{answer.status}: {answer.read()!r}")
        yield from _parsed(answer)
    finally:
        connection.close()


def _parsed(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    event_id, data = "", []
    while line := answer.readline():
        text = line.decode().rstrip("\n")
        if text.startswith("id: "):
            event_id = text[4:]
        elif text.startswith("data: "):
            data.append(text[6:])
        elif not text and data:
            yield event_id, "\n".join(data)
            event_id, data = "", []
