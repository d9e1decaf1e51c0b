"""The client's end of one HTTP/1.1 answer, as cheap as Python allows.

A load generator shares the machine with what it measures, so nothing here parses JSON or builds an
object per event: an answer is a list of byte strings and of arrival times, looked at once it is over.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Answer", "BrokenAnswerError", "Summary"]

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)

# The first event of a chat stream may hold only the role, with an empty content.
_TEXT = re.compile(rb'"(?:content|text|reasoning_content)"\s*:\s*"(?!")')
_USAGE = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
# Quotes inside of a JSON string are escaped, so neither pattern is ever found in generated text.
_ERROR = re.compile(rb'^(?:event:\s*error|data:\s*\{\s*"error"\s*:\s*\{)', re.MULTILINE)
_EVENT = re.compile(rb"^data:", re.MULTILINE)
_DONE = re.compile(rb"^data:\s*\[DONE\]", re.MULTILINE)
_LAST_BYTES = 4096


class BrokenAnswerError(Exception):
    """The bytes are no HTTP answer."""


class Summary(NamedTuple):
    """What an answer held.

    Attributes:
        status: HTTP status.
        tokens: ``completion_tokens`` of the last usage; without one, events that hold text.
        counted: ``tokens`` comes from a usage.
        events: SSE events with data, ``[DONE]`` included.
        error: The server said that something went wrong, or the stream ended without ``[DONE]``.
    """

    status: int
    tokens: int
    counted: bool
    events: int
    error: str | None


class Answer:
    """Takes the bytes of one answer; ``done`` once it is complete.

    Attributes:
        first_text: Time of the first bytes that held generated text; 0 before.
        last_text: Time of the last bytes with an event.
        gaps: Seconds between deliveries (reads that brought at least one event) after the first text.
        close: The server will close the connection.
    """

    __slots__ = (
        "_body", "_buffer", "_chunked", "_left", "_status",
        "close", "done", "first_text", "gaps", "last_text",
    )  # fmt: skip

    def __init__(self) -> None:
        self._buffer = b""
        self._body: list[bytes] = []
        self._status = 0
        self._chunked = False
        self._left = 0
        self.close = False
        self.done = False
        self.first_text = 0.0
        self.last_text = 0.0
        self.gaps: list[float] = []

    @property
    def started(self) -> bool:
        """At least one byte has come."""
        return bool(self._status or self._buffer)

    def feed(self, data: bytes, now: float) -> None:
        """Take what a read returned at the time ``now`` (seconds, any clock).

        Raises:
            BrokenAnswerError: The bytes are no HTTP answer.
        """
        data = self._buffer + data if self._buffer else data
        if not self._status:
            data = self._head(data)
            if not self._status:
                self._buffer = data
                return
        before = len(self._body)
        if self._chunked:
            self._chunks(data)
        else:
            self._plain(data)
        if len(self._body) > before:
            self._arrived(b"".join(self._body[before:]), now)

    def _head(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return data
        head = data[: end + 2]
        status = _STATUS.match(head)
        length = _LENGTH.search(head)
        self._chunked = _CHUNKED.search(head) is not None
        if status is None or not (length or self._chunked):
            raise BrokenAnswerError(f"neither length nor chunks: {head[:200]!r}")
        self._status = int(status.group(1))
        self._left = int(length.group(1)) if length else 0
        self.close = _CLOSE.search(head) is not None
        return data[end + 4 :]

    def _plain(self, data: bytes) -> None:
        self._buffer = b""
        if data:
            self._body.append(data)
            self._left -= len(data)
        self.done = self._left <= 0

    def _chunks(self, data: bytes) -> None:
        at = 0
        while True:
            eol = data.find(b"\r\n", at)
            if eol < 0:
                break
            size = _chunk_size(data[at:eol])
            end = eol + 2 + size
            if len(data) < end + 2:
                break
            if size == 0:
                self.done = True
                break
            self._body.append(data[eol + 2 : end])
            at = end + 2
        self._buffer = b"" if self.done else data[at:]

    def _arrived(self, body: bytes, now: float) -> None:
        if self.first_text:
            if b"data:" in body:
                self.gaps.append(now - self.last_text)
                self.last_text = now
        elif _TEXT.search(body):
            self.first_text = self.last_text = now

    def summary(self, *, stream: bool) -> Summary:
        """Look at the whole answer, once it is done."""
        body = b"".join(self._body)
        usage = _USAGE.findall(body[-_LAST_BYTES:])
        tokens = int(usage[-1]) if usage else len(_TEXT.findall(body))
        events = len(_EVENT.findall(body)) if stream else 0
        return Summary(self._status, tokens, bool(usage), events, self._error(body, stream))

    def _error(self, body: bytes, stream: bool) -> str | None:
        if self._status != 200:
            return f"HTTP {self._status}: {body[:200].decode(errors='replace')}"
        if not stream:
            return None
        if found := _ERROR.search(body):
            return f"error event: {body[found.start() : found.start() + 200].decode(errors='replace')}"
        return None if _DONE.search(body[-_LAST_BYTES:]) else "stream without [DONE]"


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise BrokenAnswerError(f"chunk size {line[:40]!r}") from None
