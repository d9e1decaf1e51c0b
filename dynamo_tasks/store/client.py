"""What a process that submits and reads needs of one server, put together."""

from __future__ import annotations

import os
import threading

from dynamo_tasks.store.base import Store
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.ledger import Ledger
from dynamo_tasks.store.reader import StreamReader
from dynamo_tasks.store.registry import Registry

__all__ = ["StoreClient", "close_shared", "shared_client"]


class StoreClient:
    """A store, its ledger, its registry and this process's reader; lives on one event loop."""

    def __init__(self, store: Store):
        self.store = store
        self.ledger = Ledger(store)
        self.registry = Registry(store)
        self.reader = StreamReader(store)

    @classmethod
    async def connect(cls, url: str, *, prefix: str = "") -> StoreClient:
        """Connect to a server; see :meth:`Store.connect`."""
        client = cls(await Store.connect(url, prefix=prefix))
        try:
            await client.reader.start()
        except BaseException:
            await client.store.close()
            raise
        return client

    async def close(self) -> None:
        """Every reader leaves, all connections are closed."""
        await self.reader.close()
        await self.store.close()


_lock = threading.Lock()
_clients: dict[tuple[str, str], StoreClient] = {}
_inherited: list[dict[tuple[str, str], StoreClient]] = []


def shared_client(url: str, prefix: str = "") -> StoreClient:
    """The client of synchronous code in this process; lives on the bridge's loop."""
    with _lock:
        client = _clients.get((url, prefix))
        if client is None:
            client = _clients[url, prefix] = bridge().call(StoreClient.connect(url, prefix=prefix))
        return client


def _forked() -> None:
    """A forked child makes clients of its own: the loop's thread is not in it, and the sockets are its parent's."""
    global _lock, _clients
    _lock = threading.Lock()
    # Kept, not closed: what they are connected to is still in use over there.
    _inherited.append(_clients)
    _clients = {}


os.register_at_fork(after_in_child=_forked)


def close_shared(url: str) -> None:
    """Close this process's clients of a server, e.g. before a program ends or a test's server goes."""
    with _lock:
        gone = [_clients.pop(key) for key in list(_clients) if key[0] == url]
    for client in gone:
        bridge().call(client.close())
