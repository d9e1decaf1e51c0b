"""Answers on the wire, where they differ from uvicorn's."""

from __future__ import annotations

from typing import Any

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["PROBE", "Answer", "OpenEndedAnswer"]

PROBE = "dynamo_tasks.probe"
"""Key of a scope: what sends a byte that means nothing, where an answer can hold one. Somebody who has closed the
connection answers that with a reset; somebody who has closed only its own side reads on."""

Answer: Any = RequestResponseCycle
"""One request and its answer."""


class OpenEndedAnswer(RequestResponseCycle):
    """An answer to a client without chunks (HTTP/1.0): without a length, it ends with the connection."""

    open_ended = False

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """The ASGI channel."""
        if message["type"] == "http.response.start":
            self.open_ended = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if self.open_ended:
                self.chunked_encoding = False
        elif self.open_ended:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)  # type: ignore[arg-type]
