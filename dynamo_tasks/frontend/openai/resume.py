"""Readers that go on: their position is one of the stream's, or they are told so."""

from __future__ import annotations

from dynamo_tasks.frontend.gateway import EventStream, Gateway
from dynamo_tasks.frontend.openai.values import Position
from dynamo_tasks.protocol.events import EventId

__all__ = ["attach_at"]


async def attach_at(
    gateway: Gateway, request_id: str, position: Position, viewer: str | None, *, whole: bool
) -> EventStream:
    """Read a stream where a reader goes on.

    Args:
        gateway: The way to Redis.
        request_id: Whose.
        position: What the reader has.
        viewer: Whose requests may be seen; ``None`` = everybody's.
        whole: Whether what renders it needs it from its start.

    Returns:
        The stream; of one that has ended and whose end the reader has, :attr:`EventStream.saw_end` is true.

    Raises:
        InvalidEventIdError: The reader's event is beyond the top.
        StreamDivergedError: It is not in the stream, which has gone on without it.
        StreamExpiredError: The stream is past its retention.
    """
    known = position.after
    if position.skip and known is not None:  # it has a part of the event that follows
        (await gateway.attach(request_id, EventId(known.epoch, known.seq + 1), viewer)).close()
    stream = await gateway.attach(request_id, known, viewer)
    if not whole or known is None or stream.saw_end:
        return stream
    stream.close()  # it has told that the event is one of the stream's
    return await gateway.attach(stream.request_id, None, viewer)
