"""The embedded server: a Redis or Valkey process that the ``serve`` commands of one ``DYNAMO_HOME`` share.

Files under ``DYNAMO_HOME/server``::

    lock           flock: one process at a time starts, stops or counts users
    users.json     [[pid, start time], …] of every `serve`; those that died are dropped at each look
    server.json    {"pid", "started", "port", "url"} of the server that runs; only "port" after a stop
    password       made once, 0600; it reaches the server through server.conf, never a command line
    server.conf    what the server was started with
    data/          its append-only files
    data.lock      flock that the server process itself inherits and so holds until it has really ended
    server.log     its output; server.log.1 is the previous one

``serve`` alone joins, and the last one that leaves stops the server. One that is killed cannot leave: its
guard does that for it (``python -m dynamo_tasks.serve.server.embedded HOME PID``). If that is killed too, the server
outlives both; the next ``serve`` drops the dead user and goes on with the same server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dynamo_tasks.config.host.home import Home, file_lock, private_dir, read_json, write_json, write_private
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.config.host.redis_server import server_id, server_state
from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.serve.planning.ports import free_port
from dynamo_tasks.serve.server.binary import find_binary
from dynamo_tasks.serve.server.resp import ping

__all__ = ["EmbeddedServer", "main"]

_POLL_S = 0.01
_LOCK_S = 60.0
"""Longest wait for another `serve` that starts or stops the server at this moment."""
_READY_S = 15.0
"""Longest silence of a starting server; one that reports that it loads its data may take longer."""
_TERM_S = 2.0
"""After a SIGTERM: what the server acknowledged is with the kernel already, so SIGKILL loses nothing."""

_CONF = """\
# Written at every start of the embedded server.
bind 127.0.0.1
port {port}
requirepass {password}
dir ./
appendonly yes
appendfsync everysec
# Plain commands: a later start with another server version can still read them.
aof-use-rdb-preamble no
save ""
maxmemory-policy noeviction
shutdown-timeout 1
logfile ""
"""


class EmbeddedServer:
    """One user's hold on the shared server of a home. All methods block; they may run in any one thread."""

    def __init__(self, home: Home, *, binary: Path | None = None) -> None:
        """Prepare; nothing is started.

        Args:
            home: Where the server keeps its files.
            binary: The server program; :func:`find_binary` by default.
        """
        self.home = home
        self._dir = home.server
        self._binary = binary
        self._me = ProcessId.current()
        self._aborted = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self._dir / "server.log"

    @property
    def shared(self) -> bool:
        """``True`` while somebody else uses the server."""
        return bool(self._users())

    def join(self) -> str:
        """Become a user of the server; start it if it does not run.

        Returns:
            Its URL, with the password.

        Raises:
            ConfigError: the home cannot be used.
            ServerUnavailableError: no server program, or it does not start.
        """
        self.home.ensure()
        with self._locked():
            others = self._users()
            # Noted first: if this process is killed half-way, the next one finds out by the registry.
            self._write_users([*others, self._me])
            try:
                return self._ensure(others)
            except BaseException:
                self._write_users(others)
                raise

    def revive(self) -> bool:
        """Start the server again if it died, on its old port, so that its clients find it again.

        Returns:
            True if it had died and runs again.

        Raises:
            ServerUnavailableError: it does not start.
        """
        if server_id(server_state(self.home)):
            return False
        with self._locked():
            # Again, under the lock: another `serve` may have started it meanwhile.
            if server_id(server_state(self.home)):
                return False
            self._ensure([self._me])
            return True

    def leave(self) -> bool:
        """Give the server up; harmless when repeated.

        Returns:
            True if this was the last user: the server has been stopped, its data is on disk.
        """
        if not self._dir.is_dir():
            return False
        with self._locked():
            others = self._users()
            self._write_users(others)
            if others:
                return False
            self._stop()
            return True

    def abort(self) -> None:
        """Make a :meth:`join` that still waits in another thread give up."""
        self._aborted.set()

    def _users(self) -> list[ProcessId]:
        """The other users that live."""
        listed = read_json(self._dir / "users.json")
        found = [ProcessId.from_json(item) for item in (listed if isinstance(listed, list) else [])]
        return [user for user in found if user and user != self._me and user.alive()]

    def _write_users(self, users: list[ProcessId]) -> None:
        write_json(self._dir / "users.json", [list(user) for user in users])

    def _ensure(self, others: list[ProcessId]) -> str:
        state = server_state(self.home)
        if server := server_id(state):
            self._wait_ready(state["url"], server)
            return str(state["url"])
        self._reap()
        with self._data_lock() as held:
            for port in self._ports(state.get("port"), fixed=bool(others)):
                if url := self._start(port, held):
                    return url
        raise ServerUnavailableError(f"the embedded server finds no free port; see {self.log}")

    def _ports(self, last: object, *, fixed: bool) -> Iterator[int]:
        # The port of the last time is kept, since clients may wait for the server to come back there.
        if isinstance(last, int) and 0 < last < 65536:
            # Tried first: a ping would show the password to a stranger who listens there.
            if free_port("127.0.0.1", last):
                yield last
            if fixed:
                return
        for _ in range(5):
            if port := free_port("127.0.0.1", 0):
                yield port

    def _start(self, port: int, held: int) -> str | None:
        """Start on ``port`` and wait until it answers; ``None`` when the port is taken."""
        url = self._configure(port)
        with self._fresh_log() as log:
            self._process = subprocess.Popen(
                [str(self._binary or find_binary()), str(self._dir / "server.conf")],
                cwd=private_dir(self._dir / "data"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(held,),
                # A group of its own: a Ctrl-C in the terminal of one user must not reach it. Not a session, see
                # ``ManagedProcess``.
                process_group=0,
            )
        # It may have ended already: then this is an identity that no process has.
        server = ProcessId.of(self._process.pid) or ProcessId(self._process.pid, -1)
        if not self._came_up(url, server):
            return None
        write_json(
            self._dir / "server.json",
            {"pid": server.pid, "started": server.started, "port": port, "url": url},
        )
        return url

    def _came_up(self, url: str, server: ProcessId) -> bool:
        try:
            self._wait_ready(url, server)
        except BaseException:
            taken = not server.alive() and "listening on port" in self._log_tail()
            self._kill(server)
            if taken:
                return False
            raise
        return True

    def _configure(self, port: int) -> str:
        secret = self._dir / "password"
        if not secret.is_file():
            write_private(secret, secrets.token_hex(24))
        password = secret.read_text(encoding="utf-8").strip()
        write_private(self._dir / "server.conf", _CONF.format(port=port, password=password))
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def _fresh_log(self) -> IO[bytes]:
        if self.log.exists():
            self.log.replace(self.log.with_name("server.log.1"))
        return open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")

    def _wait_ready(self, url: str, server: ProcessId) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                if ping(url, timeout=1.0) == "PONG":
                    return
                deadline = time.monotonic() + _READY_S
            except ServerUnavailableError as error:
                if not server.alive():
                    raise ServerUnavailableError(
                        f"the embedded server ended: {self._log_tail()}; see {self.log}"
                    ) from error
                if time.monotonic() > deadline:
                    raise ServerUnavailableError(
                        f"the embedded server (pid {server.pid}) is silent: {error.message}; see {self.log}"
                    ) from error
            if self._aborted.wait(_POLL_S):
                raise ServerUnavailableError("stopped while the embedded server was starting")

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return lines[-1].strip() if lines else "it said nothing"

    def _stop(self) -> None:
        state = server_state(self.home)
        server = server_id(state)
        if server is not None:
            server.signal(signal.SIGTERM)
            if not server.wait_gone(_TERM_S):
                self._kill(server)
        self._reap()
        write_json(self._dir / "server.json", {"port": state["port"]} if "port" in state else {})

    def _kill(self, server: ProcessId) -> None:
        server.signal(signal.SIGKILL)
        server.wait_gone(_TERM_S)
        self._reap()

    def _reap(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._process = None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with file_lock(self._dir / "lock", _LOCK_S, f"another process holds {self._dir / 'lock'}"):
            yield

    def _data_lock(self) -> contextlib.AbstractContextManager[int]:
        problem = (
            f"{self._dir / 'data'} is in use by a server that this process cannot see (another container?)"
        )
        return file_lock(self._dir / "data.lock", 5.0, problem)


def main(path: str, pid: str) -> None:
    """Leave a server for a ``serve`` that was killed.

    Args:
        path: Its home.
        pid: Its process, which may not be quite gone yet.
    """
    dead = ProcessId.of(int(pid))
    if dead is None or dead.wait_gone(_TERM_S):
        EmbeddedServer(Home(Path(path))).leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
