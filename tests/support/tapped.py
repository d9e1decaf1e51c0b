"""What one request costs Redis, told from all else that goes on: a line between processes and server that reads along.

A command belongs to a request if it, or its reply, names the request's id; a transaction if one of its commands does.
What actors ask by themselves names none, so it counts for nobody, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Self

from dynamo_tasks.store.ledger.scripts import SOURCES, script
from tests.support.server import RedisServer

__all__ = ["Tap", "Traffic"]

_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_RECORD = re.compile(rb"\$\d+\r\ndt:[^:\r]+:req:([0-9a-f-]{36})\r\n")
_SHA = re.compile(rb"\r\nEVALSHA\r\n\$40\r\n([0-9a-f]{40})")
_CAUGHT_UP = "all before this is counted"
_PUSH = b"*3\r\n$7\r\nmessage\r\n"
_NAMES = {script(name).sha.encode(): name for name in SOURCES if not name.startswith("lib/")}


@dataclass
class Traffic:
    """What Redis did for one request."""

    scripts: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    """Those inside of scripts, too."""
    transactions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class _Unit:
    """A command, or a transaction, that waits for its replies."""

    sent: bytes
    replies: int = 1
    got: bytes = b""


class _Connection:
    """Reads along both ways."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._up = self._down = b""
        self._waiting: deque[_Unit] = deque()
        self._in_transaction = False

    def asked(self, data: bytes) -> None:
        frames, self._up = _split(self._up + data)
        for frame in frames:
            if self._in_transaction:
                self._waiting[-1].sent += frame
                self._waiting[-1].replies += 1
            else:
                self._waiting.append(_Unit(frame))
            if frame.endswith((b"\r\nMULTI\r\n", b"\r\nEXEC\r\n")):
                self._in_transaction = frame.endswith(b"\r\nMULTI\r\n")

    def answered(self, data: bytes) -> None:
        frames, self._down = _split(self._down + data)
        for frame in frames:
            if frame.startswith(_PUSH):
                self._tap.pushed(frame)
                continue
            unit = self._waiting[0]
            unit.got += frame
            unit.replies -= 1
            if unit.replies == 0 and not (self._in_transaction and len(self._waiting) == 1):
                self._tap.done(self._waiting.popleft())


class Tap:
    """Use as ``with Tap(server) as tap: Worker(tap.url)``.

    Args:
        server: It is up.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._monitor = socket.create_connection((server.host, server.port))
        self._inside = threading.Thread(target=self._count_inside, daemon=True)
        self._traffic: defaultdict[str, Traffic] = defaultdict(Traffic)
        self._requests: list[str] = []
        self._in_scripts: Counter[str] = Counter()
        self._caught_up = threading.Event()
        self.url = ""

    def __enter__(self) -> Self:
        self._monitor.sendall(b"MONITOR\r\n")
        self._inside.start()
        self._thread.start()
        listening = asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._listener = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/0"
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._monitor.shutdown(socket.SHUT_RDWR)
        self._inside.join()
        self._monitor.close()

    @property
    def requests(self) -> list[str]:
        """Ids of all requests so far, in their order."""
        return self._requests

    def catch_up(self) -> None:
        """Wait until all that was asked before is counted, what scripts do included."""
        self._caught_up.clear()
        self._server.command("ECHO", _CAUGHT_UP)
        assert self._caught_up.wait(60), "MONITOR stands still"

    def traffic(self, request_id: str) -> Traffic:
        """What a request has cost so far."""
        known = self._traffic[request_id]
        commands = known.commands + self._in_scripts[request_id]
        return Traffic(Counter(known.scripts), commands, known.transactions, known.bytes_in, known.bytes_out)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._server.host, self._server.port)
        seen = _Connection(self)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, up: bool) -> None:
            while data := await source.read(1 << 16):
                # before it goes on: who has got a reply finds it counted
                seen.asked(data) if up else seen.answered(data)
                target.write(data)
            target.close()

        # Who is killed, or goes, leaves the other end: that is no fault.
        with contextlib.suppress(OSError):
            await asyncio.gather(carry(reader, up_writer, True), carry(up_reader, writer, False))

    async def _close(self) -> None:
        self._listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def pushed(self, frame: bytes) -> None:
        """Take a message of pub/sub."""
        for one in _ids(frame):
            self._traffic[one].bytes_out += len(frame)

    def done(self, unit: _Unit) -> None:
        """Take a command, or a transaction, that was answered."""
        for one in _RECORD.findall(unit.sent):
            if one.decode() not in self._requests:
                self._requests.append(one.decode())
        for one in _ids(unit.sent + unit.got):
            known = self._traffic[one]
            known.scripts.update(_NAMES.get(sha, "?") for sha in _SHA.findall(unit.sent))
            known.commands += len(_split(unit.sent)[0])
            known.transactions += unit.sent.endswith(b"\r\nEXEC\r\n")
            known.bytes_in += len(unit.sent)
            known.bytes_out += len(unit.got)

    def _count_inside(self) -> None:
        """Count what scripts call: only Redis itself knows that."""
        of: set[str] = set()
        for line in self._monitor.makefile("rb"):
            if b" lua] " in line[:40]:
                self._in_scripts.update(of)
            elif _CAUGHT_UP.encode() in line:
                self._caught_up.set()
            else:
                of = _ids(line) if b'"EVALSHA"' in line[:80] else set()


def _ids(text: bytes) -> set[str]:
    return {found.decode() for found in _ID.findall(text)}


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole frames of RESP2, and what is left."""
    frames, at = [], 0
    while (end := _end(data, at)) >= 0:
        frames.append(data[at:end])
        at = end
    return frames, data[at:]


def _end(data: bytes, at: int) -> int:
    """Where the frame that begins at ``at`` ends; -1 where that has not come yet."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return -1
    end = line + 2
    if data[at : at + 1] not in (b"$", b"*"):
        return end
    n = int(data[at + 1 : line])
    if data[at : at + 1] == b"$":
        end += n + 2 if n >= 0 else 0
        return end if end <= len(data) else -1
    for _ in range(n):
        end = _end(data, end)
        if end < 0:
            return -1
    return end
