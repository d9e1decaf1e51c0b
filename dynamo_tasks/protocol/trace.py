"""W3C trace context: the ``traceparent`` header that ties the requests of one call chain together.

Format: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple, Self

__all__ = ["TRACE_HEADERS", "TraceParent"]

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
"""Headers that are passed on with a request."""

_FORMAT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceParent(NamedTuple):
    """A position in a trace; ``str()`` gives the header."""

    trace_id: str
    span_id: str
    flags: str = "01"

    @classmethod
    def new(cls) -> Self:
        """The beginning of a trace."""
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    @classmethod
    def parse(cls, text: object) -> Self | None:
        """Read a header; ``None`` where it is none, as the standard wants it."""
        found = _FORMAT.fullmatch(text) if isinstance(text, str) else None
        if found is None or not int(found[1], 16) or not int(found[2], 16):
            return None
        return cls(found[1], found[2], found[3])

    def child(self) -> Self:
        """The next span of the same trace."""
        return self._replace(span_id=secrets.token_hex(8))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
