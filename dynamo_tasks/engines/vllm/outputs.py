"""The way of tokens out of vLLM: a reader of its engine core, and buffers for streams that rest.

The reader takes all that wait, and not more often than is of use. vLLM reads them through ``zmq.asyncio``, which takes
this process longer than all that is done with them. Here they are read from the same socket without it. And where many
streams rest anyway, a step that comes soon after the last one waits for a moment, so that several are read at once: see
:func:`dynamo_tasks.engines.coalescing.gap`.

What is used of vLLM: its client reads with ``await resources.output_socket.recv_multipart(copy=False)``, and closes
the socket in the end.

In the buffers the tokens of a stream gather while it rests: here, and not in vLLM's objects. vLLM looks at each token
of each stream after each step: statistics, detokenizer, log probabilities, an object for the stream's reader. For a
stream that nobody reads at the moment, and whose text is made here, there is nothing to do but to keep the id. So
outputs of such streams are taken out before vLLM's ``OutputProcessor`` sees them; that is most of what it would do in a
busy worker.

Tokens with log probabilities, and an end, go vLLM's own way, after what has gathered; an end also ends the rest at
once. What is used of vLLM: ``OutputProcessor.process_outputs(outputs, …)`` is called for each step with objects that
have ``request_id``, ``new_token_ids``, ``new_logprobs`` and ``finish_reason``; ``external_req_ids`` and
``request_states`` find a request's state, whose ``queue.output`` is what waits for its reader, merged into one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["OutputBuffer", "OutputBuffers", "Outputs"]


class Outputs:
    """Takes the place of two methods of a socket; belongs to the event loop that reads first.

    Args:
        socket: A ``zmq.asyncio.Socket`` that nobody has read from.
        gap: Seconds that lie between two looks at it, at the least.
    """

    def __init__(self, socket: Any, gap: Callable[[], float]):
        import zmq  # comes with vLLM

        self._zmq: Any = zmq
        self._socket: Any = zmq.Socket.shadow(socket.underlying)
        self._fd: int = socket.getsockopt(zmq.FD)
        self._gap = gap
        self._due = 0.0
        self._read: deque[list[Any]] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._close = socket.close
        socket.recv_multipart, socket.close = self.recv_multipart, self.close

    async def recv_multipart(self, copy: bool = False) -> list[Any]:
        """The frames of the next message."""
        loop = asyncio.get_running_loop()
        while not self._read:
            rest = self._due - loop.time()
            if rest > 0:
                await asyncio.sleep(rest)
            if self._take(copy):
                self._due = loop.time() + self._gap()
            else:
                await self._arrival(loop)
        return self._read.popleft()

    def _take(self, copy: bool) -> bool:
        # Up to Again: ZMQ's descriptor is edge-triggered, and does not signal what was left unread.
        with suppress(self._zmq.Again):
            while True:
                self._read.append(self._socket.recv_multipart(self._zmq.NOBLOCK, copy=copy))
        return bool(self._read)

    async def _arrival(self, loop: asyncio.AbstractEventLoop) -> None:
        arrived: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _done, arrived)
        self._arrived = arrived
        try:
            await arrived
        finally:
            self._unwatch()

    def _unwatch(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.get_loop().is_closed():
            arrived.get_loop().remove_reader(self._fd)
            arrived.cancel()

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the socket. Its descriptor may be another one's at once, so it is watched no more."""
        self._unwatch()
        self._close(*args, **kwargs)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class OutputBuffers:
    """The buffers of one engine.

    None is ever shut where vLLM counts tokens for statistics, or sends them at intervals.

    Args:
        llm: vLLM's ``AsyncLLM``.
    """

    def __init__(self, llm: Any):
        self._processor = processor = llm.output_processor
        self._process = processor.process_outputs
        self._counts = bool(llm.log_stats)
        self._shut: dict[str, OutputBuffer] = {}
        processor.process_outputs = self._outputs

    def tap(self, request_id: str) -> OutputBuffer | None:
        """The buffer of a stream, by the id for ``generate()``; ``None`` if it must stay open, or is over."""
        known = self._processor.external_req_ids.get(request_id)
        state = self._processor.request_states.get(known[0]) if known else None
        if self._counts or state is None or state.stream_interval != 1:
            return None
        return OutputBuffer(self._shut, known[0], state.queue)

    def _outputs(self, outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        shut = self._shut
        if not shut:
            return self._process(outputs, *args, **kwargs)
        rest, woken = [], []
        for output in outputs:
            tap = shut.get(output.request_id)
            if tap is None:
                rest.append(output)
            elif output.finish_reason is not None:
                rest.append(output)
                woken.append(tap)
            elif output.new_logprobs is not None:
                rest.append(output)
            else:
                tap.ids += output.new_token_ids
        done = self._process(rest, *args, **kwargs)
        for tap in woken:
            tap.wake()
        return done


class OutputBuffer:
    """The buffer of one stream; open at first.

    Attributes:
        ids: What has gathered.
    """

    __slots__ = ("_key", "_queue", "_resting", "_shut", "ids")

    def __init__(self, shut: dict[str, OutputBuffer], key: str, queue: Any):
        self.ids: list[int] = []
        self._shut = shut
        self._key = key
        self._queue = queue
        self._resting: asyncio.Future[None] | None = None

    async def gather(self, rest: asyncio.Future[None]) -> list[int]:
        """Gather ids until a rest is over, or the stream; in order, without what goes vLLM's own way.

        Args:
            rest: Done when it is over.
        """
        self._shut[self._key] = self
        self._resting = rest
        try:
            await rest
        finally:
            del self._shut[self._key]
            self._resting = None
        ids, self.ids = self.ids, []
        return ids

    def wake(self) -> None:
        """End the rest."""
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    @property
    def passed(self) -> bool:
        """``True`` if something went vLLM's own way: it comes after what has gathered."""
        return self._queue.output is not None
