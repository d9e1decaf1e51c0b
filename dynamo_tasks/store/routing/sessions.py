"""Sessions: which instance served the last request of each, kept in Redis for as long as they go on."""

from __future__ import annotations

from dynamo_tasks.store.redis.server import Store

__all__ = ["Sessions"]


class Sessions:
    """The sessions of a namespace; they outlive routers and frontends.

    Args:
        store: Redis.
        namespace: Theirs.
    """

    def __init__(self, store: Store, namespace: str):
        self._commands = store.commands
        self._keys = store.keys(namespace)

    async def last(self, session: str) -> int | None:
        """The lease id of the instance that served it last; ``None`` = it is new, or over."""
        found = await self._commands.execute("GET", self._keys.session(session))
        try:
            return None if found is None else int(found, 16)
        except ValueError:  # not ours
            return None

    def note(self, session: str, instance_id: int, seconds: float) -> None:
        """It goes on at an instance, and is over after so many seconds without a request."""
        key = self._keys.session(session)
        self._commands.post("SET", key, f"{instance_id:x}", "PX", max(1, round(seconds * 1000)))
