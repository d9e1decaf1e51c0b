"""The result of a call of a generator: its values, as they are made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from dynamo_tasks.errors import DynamoError, ServiceCallError
from dynamo_tasks.pipelines.calls.messages import describe_error
from dynamo_tasks.pipelines.calls.queues import ChannelClosed, RecordChannel

__all__ = ["ValueStream"]

_MOST_WAITING = 256
_LOOK = 0.01


class _Failure:
    def __init__(self, exc: Exception):
        self.exc = exc


class ValueStream:
    """Iterates over the values of a generator that runs in its service; at most 256 wait for the reader.

    A stream that is closed, or that nobody holds any more, ends its generator.
    """

    def __init__(self) -> None:
        self._channel: RecordChannel[Any] = RecordChannel(_MOST_WAITING)
        self._values = self._read(self._channel)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._values)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Read no more."""
        self._channel.close()

    @property
    def pump(self) -> Callable[[Iterator[Any]], None]:
        """The function that moves a generator's values into the stream; holds no reference to the stream."""
        return _Pump(self._channel)

    @property
    def feed(self) -> Callable[[list[Any], AsyncIterator[Any]], Coroutine[Any, Any, None]]:
        """The same for an asynchronous iterator, and values that were taken from it before."""
        return _Pump(self._channel).feed

    @staticmethod
    def _read(channel: RecordChannel[Any]) -> Iterator[Any]:
        try:
            for item in channel:
                if isinstance(item, _Failure):
                    raise ServiceCallError(f"Service call failed: {describe_error(item.exc)}") from item.exc
                yield item
        except ChannelClosed:
            return


class _Pump:
    def __init__(self, channel: RecordChannel[Any]):
        self._channel = channel

    def __call__(self, values: Iterator[Any]) -> None:
        try:
            for value in values:
                self._channel.put(value)
        except ChannelClosed:
            pass
        except Exception as exc:  # noqa: BLE001 - the user's: its reader gets it
            self._fail(exc)
        finally:
            values.close()  # type: ignore[attr-defined]
            self._channel.done()

    async def feed(self, first: list[Any], rest: AsyncIterator[Any]) -> None:
        try:
            for value in first:
                await self._offer(value)
            async for value in rest:
                await self._offer(value)
        except ChannelClosed:
            pass
        except DynamoError as exc:
            with contextlib.suppress(ChannelClosed):
                await self._offer(_Failure(exc))
        finally:
            self._channel.done()

    async def _offer(self, value: Any) -> None:
        """A thread reads, so there is no signal for this loop: a slow reader is looked at now and then."""
        while True:
            if self._channel.offer(value):
                return
            await asyncio.sleep(_LOOK)

    def _fail(self, exc: Exception) -> None:
        try:
            self._channel.put(_Failure(exc))
        except ChannelClosed:
            return

    def close(self) -> None:
        self._channel.close()
