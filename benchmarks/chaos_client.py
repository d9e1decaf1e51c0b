"""A client that never gives up: it asks with an idempotency key, and resumes behind its last event."""

from __future__ import annotations

import difflib
import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Outcome", "Stream"]

_PAUSE = 0.1
_TIMEOUT = 15.0
"""Seconds of silence, keep-alives included, after which a connection is given up."""


@dataclass
class Outcome:
    """What became of one stream.

    Attributes:
        tokens: That came.
        lost: Tokens of the uninterrupted text that did not come.
        repeated: Tokens that came and are not in it, or came again.
        gap: Longest silence between two events, seconds.
        gap_at: When it began, monotonic seconds.
        resumed: How often it went on over another connection.
        error: Why it ended without its text; empty if it did not.
        hung: Whether it had no end when its time was over.
    """

    tokens: int = 0
    lost: int = 0
    repeated: int = 0
    gap: float = 0.0
    gap_at: float = 0.0
    resumed: int = 0
    error: str = ""
    hung: bool = False


class _Again(Exception):  # noqa: N818 - no error: the next connection goes on
    """This connection is over, the stream is not."""


@dataclass
class Stream:
    """One streaming completion.

    Args:
        ports: The frontends.
        prompt: What is asked.
        tokens: How many.
        patience: Seconds after which it counts as hung.
    """

    ports: Callable[[], Sequence[int]]
    prompt: str
    tokens: int
    patience: float
    text: str = ""
    last_id: str = ""
    request_id: str = ""
    done: bool = False
    finished: bool = False
    outcome: Outcome = field(default_factory=Outcome)
    _last_at: float = 0.0

    def run(self, expected: str) -> Outcome:
        """Read it to its end, wherever that takes; compare it with the uninterrupted text."""
        key = uuid.uuid4().hex
        deadline = time.monotonic() + self.patience
        turn = 0
        while not self.done and not self.outcome.error and time.monotonic() < deadline:
            ports = self.ports()
            try:
                self._connect(ports[turn % len(ports)], key)
            except (_Again, OSError, http.client.HTTPException):
                turn += 1
                self.outcome.resumed += bool(self.request_id)
                time.sleep(_PAUSE)
        self.outcome.hung = not self.done and not self.outcome.error
        self._compare(expected)
        return self.outcome

    def _connect(self, port: int, key: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        try:
            if self.request_id:
                headers = {"last-event-id": self.last_id} if self.last_id else {}
                connection.request("GET", f"/v1/requests/{self.request_id}/stream", headers=headers)
            else:
                body = {
                    "model": "mocker", "prompt": self.prompt, "max_tokens": self.tokens, "stream": True,
                    "stream_options": {"include_usage": True},
                }  # fmt: skip
                headers = {"content-type": "application/json", "idempotency-key": key}
                connection.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            self._answered(answer)
            for event_id, data in _events(answer):
                self._take(event_id, data)
            if not self.done:
                raise _Again
        finally:
            connection.close()

    def _answered(self, answer: http.client.HTTPResponse) -> None:
        if answer.status in (429, 503):
            raise _Again
        if answer.status != 200:
            self.outcome.error = f"HTTP {answer.status}: {answer.read()[:200]!r}"
            raise _Again

    def _take(self, event_id: str, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            if chunk["error"].get("code") in ("server_unavailable", "unavailable"):
                raise _Again
            self.outcome.error = str(chunk["error"])
            raise _Again
        self.request_id = chunk["id"].removeprefix("cmpl-")
        now = time.monotonic()
        if self._last_at and now - self._last_at > self.outcome.gap:
            self.outcome.gap, self.outcome.gap_at = now - self._last_at, self._last_at
        self._last_at = now
        self.last_id = event_id or self.last_id
        for choice in chunk.get("choices", ()):
            self.text += choice["text"]
            self.finished = self.finished or choice["finish_reason"] == "length"

    def _compare(self, expected: str) -> None:
        # The mocker's tokens are characters.
        wanted, got = expected, self.text
        self.outcome.tokens = len(got)
        if self.text == expected:
            return
        matcher = difflib.SequenceMatcher(None, wanted, got, autojunk=False)
        same = sum(block.size for block in matcher.get_matching_blocks())
        self.outcome.lost = len(wanted) - same
        self.outcome.repeated = len(got) - same


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, str]]:
    event_id, data = "", ""
    while line := answer.readline():
        text = line.decode().rstrip("\n")
        if text.startswith("id: "):
            event_id = text[4:]
        elif text.startswith("data: "):
            data = text[6:]
        elif not text and data:
            yield event_id, data
            event_id, data = "", ""
