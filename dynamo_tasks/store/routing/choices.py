"""Choices of a component's routers, in one order: none is made without knowing those before it."""

from __future__ import annotations

import msgspec

from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store

__all__ = ["Choices", "SharedChoice"]

_KEPT = 1000
_TTL_MS = 30_000


class SharedChoice(msgspec.Struct, frozen=True):
    """A choice, as others need it: which worker gets which request, and what that asks of it.

    Attributes:
        router: Who made it.
        worker: The lease of the instance.
        request_id: The request.
        uncached: Tokens to compute.
        blocks: KV blocks that it adds.
    """

    router: str
    worker: int
    request_id: str
    uncached: int
    blocks: int


class Choices:
    """The choices for one component.

    Args:
        store: Redis.
        namespace: Of the component.
        component: Its name.
        router: Name of this router, which no other has.
    """

    def __init__(self, store: Store, namespace: str, component: str, router: str):
        self._commands = store.commands
        self._key = store.keys(namespace).events(str(Subject.of(namespace, component, "kv_choices")))
        self._router = router
        self._seen = "-"

    async def begin(self) -> None:
        """Take all choices so far for done: the workers' loads say what is left of them.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        last = await self._commands.execute("XREVRANGE", self._key, "+", "-", "COUNT", "1")
        self._seen = last[0][0].decode() if last else "-"

    async def note(self, choice: SharedChoice, *, force: bool = False) -> list[SharedChoice] | None:
        """Note a choice, or get those of others that must be known first.

        Args:
            choice: Ours.
            force: Note it whatever the others did.

        Returns:
            ``None``: it is noted. Else what others have chosen since.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        seen = "*" if force else self._seen
        noted, reply = await script("route").run(
            self._commands,
            [self._key],
            seen=seen,
            choice=msgspec.json.encode(choice),
            kept=_KEPT,
            ttl=_TTL_MS,
        )
        if noted:
            if not force:  # else there may be some of others before it
                self._seen = reply.decode()
            return None
        self._seen = reply[-1][0].decode() if reply else "-"
        return [one for row in reply if (one := self._read(row[1])) is not None]

    def _read(self, fields: list[bytes]) -> SharedChoice | None:
        try:
            found = msgspec.json.decode(fields[1], type=SharedChoice)
        except UNREADABLE:  # of a newer peer
            return None
        return None if found.router == self._router else found
