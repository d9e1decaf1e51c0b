"""Lines of a batch that are under way, in parts: each is written once all of its lines have ended."""

from __future__ import annotations

from msgspec import Struct, field

from dynamo_tasks.services.batches.line_queue import LineAnswer

__all__ = ["PART_LINES", "Line", "Part"]

PART_LINES = 128
"""Lines of one part."""


class Line(Struct):
    """A line that is under way.

    Attributes:
        number: From 1.
        custom_id: Its name.
        body: Of its request.
        request_id: Of the request that it is now.
        again: How often it was put into the queue because its answer was lost.
        answer: Where it was refused at once.
        unmade: Why it was not run: an error's code; empty where it was.
        ended: Whether nothing happens to it any more.
    """

    number: int
    custom_id: str
    body: bytes
    request_id: str
    again: int = 0
    answer: LineAnswer | None = None
    unmade: str = ""
    ended: bool = False


class Part(Struct):
    """Consecutive lines.

    Attributes:
        number: From 0.
        lines: Those that were read.
        end: Where in the input the next part begins.
        whole: Whether all of its lines were read.
        left: How many of them have not ended.
    """

    number: int
    lines: list[Line] = field(default_factory=list)
    end: int = 0
    whole: bool = False
    left: int = 0

    @property
    def ended(self) -> bool:
        """``True`` if it can be written."""
        return self.whole and not self.left
