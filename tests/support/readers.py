"""Clients of streaming completions that hold what they got against the undisturbed text."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence

from benchmarks.undisturbed import undisturbed
from tests.support.processes import Frontend, until

__all__ = ["MODEL", "PACED", "Reader", "check", "start"]

MODEL = "mocker"
PACED = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20")
"""Settings of the workers: 20 ms per token."""


class Reader(threading.Thread):
    """Reads one streaming completion and notes when what came; goes on at the next frontend if one dies."""

    def __init__(self, frontends: Callable[[], Sequence[Frontend]], prompt: str, tokens: int, **more: object):
        super().__init__(daemon=True)
        self._more = more
        self._frontends = frontends
        self.prompt = prompt
        self.tokens = tokens
        self.ids: list[str] = []
        self.times: list[float] = []
        self.text = ""
        self.finish: str | None = None
        self.usage: dict[str, int] | None = None
        self.request_id = ""
        self.resumed = 0
        self.done = False
        self.error = ""

    def run(self) -> None:
        try:
            self._read()
        except (AssertionError, OSError, http.client.HTTPException) as exc:
            self.error = repr(exc)

    def _read(self) -> None:
        body = {
            "model": MODEL, "prompt": self.prompt, "max_tokens": self.tokens, "stream": True,
            "stream_options": {"include_usage": True}, **self._more,
        }  # fmt: skip
        first = self._frontends()[0]
        try:
            self._take(first, "POST", "/v1/completions", body)
        except (OSError, http.client.HTTPException):
            if not self.request_id:
                raise
        while not self.done:
            self._resume()

    def _resume(self) -> None:
        headers = {"last-event-id": self.ids[-1]} if self.ids else {}
        for frontend in self._frontends():
            if not frontend.alive:
                continue
            try:
                self._take(frontend, "GET", f"/v1/requests/{self.request_id}/stream", None, headers)
                self.resumed += 1
                return
            except (OSError, http.client.HTTPException):
                continue
            except AssertionError as exc:
                if not str(exc).startswith("503"):
                    raise
        time.sleep(0.05)  # the pace of a client that tries again

    def _take(self, frontend: Frontend, *request: object) -> None:
        for event_id, data in frontend.events(*request):  # type: ignore[arg-type]
            if data == "[DONE]":
                self.done = True
                return
            chunk = json.loads(data)
            if "error" in chunk:
                raise AssertionError(data)
            self.request_id = chunk["id"].removeprefix("cmpl-")
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk.get("choices", ()):
                self.text += choice["text"]
                self.finish = choice["finish_reason"] or self.finish
            if event_id:
                self.ids.append(event_id)
                self.times.append(time.monotonic())

    def gap(self, after: float) -> float:
        """Longest silence that ended behind a moment."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return max((b - a for a, b in pairs if b > after), default=0.0)


def start(*frontends: Frontend, n: int, tokens: int = 100, at_least: int = 10) -> list[Reader]:
    """Start ``n`` streams at the first frontend, and wait until all of them run."""
    readers = [Reader(lambda: frontends, f"prompt {i}", tokens) for i in range(n)]
    for reader in readers:
        reader.start()
    until(
        lambda: all(len(reader.times) >= at_least or reader.error for reader in readers),
        what="all streams run",
    )
    return readers


def check(readers: Sequence[Reader], timeout: float = 30.0) -> None:
    """Nothing lost, repeated or reordered, and every stream has its end."""
    texts = undisturbed([reader.prompt for reader in readers], readers[0].tokens)
    for reader, text in zip(readers, texts, strict=True):
        reader.join(timeout)
        assert reader.done, (reader.prompt, "no end", reader.error, len(reader.ids))
        assert reader.finish == "length", (reader.prompt, reader.finish)
        assert reader.text == text, reader.prompt
        ids = [tuple(map(int, event_id.split("-"))) for event_id in reader.ids]
        assert ids == sorted(set(ids)), reader.ids
        assert reader.usage is not None
        assert reader.usage["completion_tokens"] == reader.tokens, reader.usage
