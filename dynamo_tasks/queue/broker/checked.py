"""kombu's Redis channel; what it takes for granted of what others write and publish is checked.

Any client that may publish on the channel of remote control, or write a table of bindings, could end every
worker at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str

from dynamo_tasks.errors import InvalidRequestError, ProtocolError
from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.queue.broker.message import decode
from dynamo_tasks.store.redis.containment import MALFORMED, pass_over

__all__ = ["CheckedChannel"]

_PARTS = 3
"""Of a row of a table of bindings: routing key, pattern, queue."""


def _is_wrong_type(exc: Exception) -> bool:
    return "WRONGTYPE" in str(exc)


class CheckedChannel(kombu_redis.Channel):  # type: ignore[misc]
    """A channel that passes over what it cannot read."""

    def _receive_one(self, client: Any) -> bool:
        """kombu callback: something was published for this connection; whether it was a message that was taken."""
        try:
            response = client.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return False
        pushed = self._handle_message(client, response)
        if not bytes_to_str(pushed["type"]).endswith("message") or not pushed["data"]:
            return False
        channel = bytes_to_str(pushed["channel"])
        try:
            return self._take_fanout(channel, pushed["data"])
        except MALFORMED as exc:
            pass_over("fanout", channel, exc)
            return False

    def _take_fanout(self, channel: str, data: bytes) -> bool:
        # "/<database>.<exchange>/<routing key>"
        name = channel.partition(".")[2] if channel.startswith("/") else channel
        return bool(self._deliver_fanout_message(decode(data), name.partition("/")[0]))

    def _size(self, queue: str) -> int:
        """kombu callback: messages of a queue, as it is declared; none where no queue can be."""
        return self._counted(queue, super()._size)

    def length(self, key: str) -> int:
        """Entries of a list; none where the key is of another type."""
        with self.conn_or_acquire() as client:
            return self._counted(key, client.llen)

    def _counted(self, key: str, count: Callable[[str], int]) -> int:
        try:
            return int(count(key))
        except self.ResponseError as exc:
            if not _is_wrong_type(exc):
                raise
            pass_over("queue", key, exc)
            return 0

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """kombu callback; a call of an endpoint that no queue would get is refused, where kombu drops a message.

        Raises:
            InvalidRequestError: its exchange has no queue for its routing key.
        """
        if exchange and HEADER in (message.get("headers") or ()) and not self._lookup(exchange, routing_key):
            raise InvalidRequestError(
                f"exchange {exchange!r} has no queue for the routing key {routing_key!r}: nobody would get the call"
            )
        return super().basic_publish(message, exchange, routing_key, **kwargs)

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """kombu callback: the bindings of an exchange."""
        key = self.keyprefix_queue % exchange
        try:
            with self.conn_or_acquire() as client:
                rows = client.smembers(key)
        except self.ResponseError as exc:
            pass_over("binding", key, exc)
            return []
        return [row for row in (self._binding(key, value) for value in rows) if row is not None]

    def _binding(self, key: str, value: bytes) -> tuple[str, str, str] | None:
        parts = bytes_to_str(value).split(self.sep)
        if len(parts) == _PARTS:
            return parts[0], parts[1], parts[2]
        pass_over("binding", key, ProtocolError("a row is no routing key, pattern and queue"))
        return None

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except self.ResponseError as exc:
            if not _is_wrong_type(exc):
                raise
            # Our own queues need no bindings: a message goes to the queue that its routing key names.
            pass_over("binding", self.keyprefix_queue % (exchange,), exc)
