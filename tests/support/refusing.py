"""A real server that refuses for a while, in each way in which a server does that by itself."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.processes import until
from tests.support.server import RedisServer

__all__ = ["READS", "REFUSALS", "RefusingServer", "no_room"]


class RefusingServer(RedisServer):
    """A server whose folder for snapshots can be taken away, and whose replication can be changed."""

    def __init__(self, folder: Path):
        self.snapshots = folder / "snapshots"
        self.snapshots.mkdir()
        super().__init__(
            folder, "--enable-protected-configs", "yes", "--enable-debug-command", "yes",
            "--replica-serve-stale-data", "no", "--repl-timeout", "3600",
        )  # fmt: skip

    def answers(self, start: bytes) -> bool:
        """Whether a write is answered like this."""
        return self.command("SET", "dt:probe", "1").startswith(start)


def _set(server: RefusingServer, name: str, value: str) -> None:
    assert server.command("CONFIG", "SET", name, value) == b"+OK\r\n"


@contextlib.contextmanager
def _setting(server: RefusingServer, name: str, value: str, usual: str, word: bytes) -> Iterator[None]:
    _set(server, name, value)
    try:
        assert server.answers(b"-" + word)
        yield
    finally:
        _set(server, name, usual)


def out_of_memory(server: RefusingServer) -> AbstractContextManager[None]:
    """OOM."""
    return _setting(server, "maxmemory", "1mb", "0", b"OOM")


def too_few_replicas(server: RefusingServer) -> AbstractContextManager[None]:
    """NOREPLICAS."""
    return _setting(server, "min-replicas-to-write", "1", "0", b"NOREPLICAS")


@contextlib.contextmanager
def no_disk(server: RefusingServer) -> Iterator[None]:
    """MISCONF: a snapshot could not be written."""
    _set(server, "dir", str(server.snapshots))
    _set(server, "save", "3600 1")
    shutil.rmtree(server.snapshots)
    server.command("BGSAVE")
    until(lambda: server.answers(b"-MISCONF"), 20, "the snapshot to fail")
    try:
        yield
    finally:
        server.snapshots.mkdir()
        _set(server, "dir", str(server.snapshots))  # it stood in the folder that is gone
        _set(server, "save", "")


@contextlib.contextmanager
def busy(server: RefusingServer) -> Iterator[None]:
    """BUSY: a script of somebody else's does not end."""
    _set(server, "busy-reply-threshold", "50")
    with socket.create_connection((server.host, server.port)) as endless:
        endless.sendall(b"EVAL 'while true do end' 0\r\n")
        until(lambda: server.answers(b"-BUSY"), 20, "the script to run")
        try:
            yield
        finally:
            server.command("SCRIPT", "KILL")


@contextlib.contextmanager
def loading(server: RefusingServer) -> Iterator[None]:
    """LOADING: it reads its data again, slowly."""
    server.command("DEBUG", "POPULATE", "3000", "filler")
    _set(server, "key-load-delay", "1000")
    _set(server, "loading-process-events-interval-bytes", "1024")
    reading = threading.Thread(target=_reload, args=(server,), daemon=True)
    reading.start()
    until(lambda: server.answers(b"-LOADING"), 20, "it to read its data")
    try:
        yield
    finally:
        reading.join(60)
        _set(server, "key-load-delay", "0")


def _reload(server: RefusingServer) -> None:
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(b"DEBUG RELOAD\r\n")
        connection.recv(100)


@contextlib.contextmanager
def no_master(server: RefusingServer) -> Iterator[None]:
    """MASTERDOWN for reads, READONLY for writes: it was made the replica of a server that is not there."""
    server.command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert server.command("GET", "dt:probe").startswith(b"-MASTERDOWN")
        yield
    finally:
        server.command("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def read_only(server: RefusingServer) -> Iterator[None]:
    """READONLY: the same, and it answers what it knows."""
    _set(server, "replica-serve-stale-data", "yes")
    server.command("REPLICAOF", "127.0.0.1", "1")
    try:
        assert server.answers(b"-READONLY")
        yield
    finally:
        server.command("REPLICAOF", "NO", "ONE")
        _set(server, "replica-serve-stale-data", "no")


@contextlib.contextmanager
def no_room(server: RedisServer) -> Iterator[Callable[[], None]]:
    """ERR max number of clients reached: those that are connected stay, until the function that it yields is called."""
    with socket.create_connection((server.host, server.port), timeout=10) as inside:

        def do(command: bytes) -> None:
            inside.sendall(command + b"\r\n")
            assert inside.recv(100)[:1] in (b"+", b":")

        def cut() -> None:
            for kind in (b"normal", b"pubsub"):
                do(b"CLIENT KILL TYPE " + kind)

        do(b"CONFIG SET maxclients 1")
        try:
            yield cut
        finally:
            do(b"CONFIG SET maxclients 10000")


REFUSALS: dict[str, Callable[[RefusingServer], AbstractContextManager[None]]] = {
    "OOM": out_of_memory, "NOREPLICAS": too_few_replicas, "MISCONF": no_disk, "BUSY": busy, "LOADING": loading,
    "MASTERDOWN": no_master, "READONLY": read_only,
}  # fmt: skip
READS = frozenset({"OOM", "NOREPLICAS", "MISCONF", "READONLY"})
"""Those under which a server still answers reads."""
