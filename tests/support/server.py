"""A real Redis-compatible server of a test's own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from dynamo_tasks.serve.server.binary import find_binary
from dynamo_tasks.store.client import close_shared

__all__ = ["RedisServer", "free_port"]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RedisServer:
    """A server process with an AOF; can be killed, frozen and restarted on its data.

    Use as ``with RedisServer(folder) as server:``, which starts it; at the end it is stopped, and the connections to it
    that this process shares are closed.

    Args:
        folder: Of its data.
        *options: Of its command line.
        host: Where it listens.
        prefix: What it is started with, e.g. to run on another machine.
        binary: The program; that of the embedded server by default.
    """

    def __init__(
        self, folder: Path, *options: str, host: str = "127.0.0.1", prefix: tuple[str, ...] = (),
        binary: Path | None = None,
    ):  # fmt: skip
        self.host = host
        self.port = free_port()
        self._prefix = prefix
        self._binary = binary
        self.folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        """When it last began to answer, monotonic seconds."""

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> Self:
        argv = [
            *self._prefix, str(self._binary or find_binary()), "--port", str(self.port), "--bind", self.host,
            "--dir", str(self.folder),
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--loglevel", "warning", *self._options,
        ]  # fmt: skip
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.ping():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError("the Redis server did not come up")
            time.sleep(0.01)
        self.started_at = time.monotonic()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        close_shared(self.url)
        self.stop()

    def ping(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(7).startswith(b"+PONG")
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """One command on a connection of its own; the raw reply (small ones only)."""
        with socket.create_connection((self.host, self.port), timeout=5) as sock:
            packed = b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
            sock.sendall(b"*%d\r\n%s" % (len(words), packed))
            return sock.recv(1 << 20)

    def kill(self) -> None:
        """``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """``SIGSTOP``."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """``SIGCONT``."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
