"""The few verbs that synchronous publishers need, on a connection pool of theirs.

Celery publishes synchronously, from any thread or process, so this is the only place where the store
speaks to Redis outside the event loop.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import msgspec
import redis

from dynamo_tasks.errors import FencedError
from dynamo_tasks.store.keys import Keys, namespaces_key
from dynamo_tasks.store.ledger.ledger import cancelled, release_call
from dynamo_tasks.store.ledger.scripts import Argument, Script, script
from dynamo_tasks.store.ledger.submission import NewRequest, submit_call, submitted
from dynamo_tasks.store.redis.parsing import refusal_of
from dynamo_tasks.store.redis.wire import pack

__all__ = ["NoAnswer", "NotSentError", "SyncLedger", "once_more"]

NoAnswer = redis.exceptions.TimeoutError
"""Redis took too long: it may do yet what it was asked for."""


class NotSentError(redis.exceptions.ConnectionError):
    """There is no connection: Redis was not asked."""


_LOOK = 200
"""Requests that one script looks at."""
_ENOUGH = 4
"""Connections that a pool may have, of which one may be kept."""


def once_more() -> Any:
    """redis-py's way to try again: a lost connection once, at once; a server that does not answer not at all."""
    return redis.retry.Retry(
        redis.backoff.NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)
    )


class SyncLedger:
    """``submit``, ``release`` and ``discard`` for synchronous code.

    Args:
        pool: A redis-py connection pool.
        db: Its database.
        prefix: The application's ``global_keyprefix``.
    """

    def __init__(self, pool: Any, *, db: int, prefix: str = ""):
        self._client: Any = redis.Redis(connection_pool=pool)
        self._db = db
        self._prefix = prefix
        self._kept: deque[Any] = deque()
        self._pid = os.getpid()

    def _run(self, which: Script, keys: list[str], *more: Argument, **named: Argument) -> Any:
        try:
            try:
                return self._ask(which.command(keys, *more, **named))
            except redis.exceptions.NoScriptError:
                return self._client.eval(which.source, len(keys), *keys, *which.arguments(*more, **named))
        except redis.exceptions.ResponseError as exc:
            raise refusal_of(exc) from exc

    def _ask(self, command: list[str | bytes | int | float]) -> Any:
        """The answer to a command that is safe to repeat.

        redis-py spends more time around a command than on it. So the first try goes straight to one of its
        connections, of which one is kept; where that is lost, its client tries again, as the pool's settings say.

        Raises:
            NoAnswer: there was none in time.
        """
        connection = self._taken()
        try:
            connection.send_packed_command([pack(tuple(command))], check_health=False)
            return connection.read_response()
        except redis.exceptions.ResponseError:
            raise
        except BaseException as exc:
            # Whatever came between: the answer must not be taken for that of the next command.
            connection.disconnect()
            if not isinstance(exc, redis.exceptions.ConnectionError):
                raise
        finally:
            self._return_connection(connection)
        return self._client.execute_command(*command)

    def _taken(self) -> Any:
        try:
            return self._connection()
        except redis.exceptions.ConnectionError as exc:
            raise NotSentError(str(exc)) from exc

    def _connection(self) -> Any:
        if self._pid != os.getpid():  # what a parent process kept is the parent's
            self._kept, self._pid = deque(), os.getpid()
        try:
            return self._kept.pop()
        except IndexError:
            return self._client.connection_pool.get_connection()

    def _return_connection(self, connection: Any) -> None:
        pool = self._client.connection_pool
        if self._kept or pool.max_connections < _ENOUGH:
            pool.release(connection)
        else:
            self._kept.append(connection)

    def submit(self, new: NewRequest) -> str:
        """See :meth:`dynamo_tasks.store.ledger.ledger.Ledger.submit`."""
        keys = Keys(new.endpoint.namespace, self._db, self._prefix)
        names, more, named = submit_call(keys, new)
        return submitted(new, self._run(script("submit"), names, *more, **named))

    def has(self, key: str) -> bool:
        """Return whether a key is there."""
        return bool(self._client.exists(key))

    def release(
        self,
        namespace: str,
        request_id: str,
        lease: int,
        epoch: int,
        *,
        retries: int,
        not_before: float,
        message: bytes,
    ) -> None:
        """Put a running request back into its queue for a retry.

        Raises:
            FencedError: it is not owned by that attempt any more.
        """
        keys, named = release_call(
            Keys(namespace, self._db, self._prefix), request_id, lease, epoch, retries=retries,
            not_before=not_before, message=message, front=False, counts=False,
        )  # fmt: skip
        if self._run(script("release"), keys, **named) != b"OK":
            raise FencedError(f"request {request_id} is not owned by this attempt any more")

    def served(self, namespace: str) -> set[tuple[str, str]] | None:
        """Component and endpoint of all that is registered in a namespace; ``None``: there is no such namespace."""
        if not self._client.sismember(namespaces_key(self._prefix), namespace):
            return None
        rows = self._client.smembers(Keys(namespace, self._db, self._prefix).instances)
        return {(component, name) for component, name, _ in (row.decode().split(":", 2) for row in rows)}

    def discard(self, queue: str) -> int:
        """End what waits in a queue, for its turn or for its time, in whichever namespace; returns how many requests.

        Args:
            queue: Its key, without a priority.
        """
        found = self._client.smembers(namespaces_key(self._prefix))
        return sum(self._discard(Keys(one.decode(), self._db, self._prefix), queue) for one in found)

    def _discard(self, keys: Keys, queue: str) -> int:
        end = cancelled(message="the request was purged from its queue")
        removed, offset, looked = 0, 0, _LOOK
        while looked == _LOOK:
            looked, gone, dropped = self._run(
                script("discard"), [keys.queued], base=keys.base, queue=queue, db=self._db, data=end.encode(),
                error=msgspec.json.encode(end.error), offset=offset, count=_LOOK,
            )  # fmt: skip
            # What was dropped is out of the index, and all behind it has moved up.
            removed, offset = removed + gone, offset + looked - dropped
        return removed
