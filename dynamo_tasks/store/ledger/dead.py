"""The dead list: requests that lost their worker too often. Looked at, and tried again, by people."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.ledger import Ledger
from dynamo_tasks.store.ledger.record import Record, read_record
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["DeadList", "DeadRequest", "not_dead"]

_SHOWN = (
    Field.STATE,
    Field.ENDPOINT,
    Field.CREATED,
    Field.FINISHED,
    Field.ATTEMPTS,
    Field.OWNER_KEY,
    Field.ERROR,
)


@dataclass(frozen=True)
class DeadRequest:
    """One of them.

    Attributes:
        died: When its attempts were used up, Unix seconds.
        record: What the ledger knows of it.
        message: Its Celery message; empty where it was not read.
    """

    died: float
    record: Record
    message: bytes


class DeadList:
    """The dead lists of a server's namespaces; a request stays in one for 24 h."""

    def __init__(self, store: Store):
        self._store = store
        self._ledger = Ledger(store)

    async def all(self, namespace: str | None = None) -> list[DeadRequest]:
        """Dead requests of one namespace, or of all; the oldest first."""
        names = [namespace] if namespace is not None else await self._store.namespaces()
        found = [one for name in names for one in await self._of(name)]
        return sorted(found, key=lambda one: one.died)

    async def _of(self, namespace: str) -> list[DeadRequest]:
        key = self._store.keys(namespace).dead
        rows = await self._store.commands.execute("ZRANGE", key, 0, -1, "WITHSCORES")
        found = []
        for raw, died in zip(rows[::2], rows[1::2], strict=True):
            with contained("ledger", raw.decode(errors="replace")):
                try:
                    found.append(await self._load(namespace, raw.decode(), int(died) / 1000))
                except RequestNotFoundError:
                    await self._store.commands.execute("ZREM", key, raw)
        return found

    async def _load(self, namespace: str, request_id: str, died: float) -> DeadRequest:
        record = await self._ledger.get(request_id, namespace)
        key = self._store.keys(namespace).record(request_id)
        message = await self._store.commands.execute("HGET", key, Field.DEAD_MESSAGE)
        return DeadRequest(died, record, message or b"")

    async def newest(self, namespace: str, most: int) -> list[DeadRequest]:
        """The last ones of a namespace, the newest first, without their messages, which may be large."""
        key = self._store.keys(namespace).dead
        rows = await self._store.commands.execute("ZRANGE", key, 0, most - 1, "REV", "WITHSCORES")
        if not rows:
            return []
        ids = [raw.decode(errors="replace") for raw in rows[::2]]
        keys, wire = self._store.keys(namespace), await self._store.commands.wire()
        read = await wire.ask([["HMGET", keys.record(one), *_SHOWN] for one in ids])
        found = []
        for request_id, died, values in zip(ids, rows[1::2], read, strict=True):
            if values[0] is None:  # past its retention
                continue
            fields = {
                name.encode(): value for name, value in zip(_SHOWN, values, strict=True) if value is not None
            }
            with contained("ledger", request_id):
                found.append(DeadRequest(int(died) / 1000, read_record(request_id, namespace, fields), b""))
        return found

    async def get(self, request_id: str) -> DeadRequest:
        """One of them.

        Raises:
            RequestNotFoundError: it is not in a dead list.
        """
        namespace = await self._store.find(request_id)
        died = await self._store.commands.execute("ZSCORE", self._store.keys(namespace).dead, request_id)
        if died is None:
            raise not_dead(request_id)
        return await self._load(namespace, request_id, float(died) / 1000)

    async def retry(self, request_id: str) -> None:
        """Queue it again under its id, from its beginning, with all attempts.

        Raises:
            RequestNotFoundError: it is not in a dead list, or past its retention.
        """
        namespace = await self._store.find(request_id)
        keys = self._store.keys(namespace)
        reply = await script("revive").run(
            self._store.commands,
            [keys.record(request_id), keys.stream(request_id)],
            base=keys.base,
            id=request_id,
        )
        if reply != b"OK":
            raise not_dead(request_id)


def not_dead(request_id: str) -> RequestNotFoundError:
    """The error over a request that is in no dead list."""
    return RequestNotFoundError(
        f"request {request_id!r} is in no dead list (see `dynamo-tasks dead list`); other requests end as they do"
    )
