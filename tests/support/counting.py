"""Counts what requests cost: commands, scripts and bytes of Redis, Python calls of processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from tests.support.processes import Process, until
from tests.support.server import RedisServer

__all__ = ["Costs", "Meter", "RedisCounts"]

Costs = dict[str, float]
"""What one request costs, by the name of what was counted."""
_CALLS = re.compile(r"^cmdstat_([^:]+):calls=(\d+)", re.MULTILINE)
_BYTES = re.compile(r"^total_net_(input|output)_bytes:(\d+)", re.MULTILINE)
_SCRIPTS = ("evalsha", "eval", "fcall")
_OWN = "info"
COMMANDS = "redis commands"


class RedisCounts:
    """Counters of a server, read over a connection whose own traffic is left out.

    Args:
        server: It is up.
    """

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=30)
        self._file = self._socket.makefile("rb")
        self._sent = self._got = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._socket.close()

    def read(self) -> Costs:
        """What it has done since its start: commands (those of scripts, too), scripts, bytes."""
        # bytes are counted as a command is read and as its reply is written, so they are those before the reply
        got, text = self._got, self._ask("everything")
        calls = {name: int(count) for name, count in _CALLS.findall(text) if name != _OWN}
        found = {name: int(count) for name, count in _BYTES.findall(text)}
        return {
            COMMANDS: sum(calls.values()),
            "redis scripts": sum(calls.get(name, 0) for name in _SCRIPTS),
            "redis bytes in": found["input"] - self._sent,
            "redis bytes out": found["output"] - got,
        }

    def _ask(self, section: str) -> str:
        line = f"INFO {section}\r\n".encode()
        self._sent += len(line)
        self._socket.sendall(line)
        head = self._file.readline()
        body = self._file.read(int(head[1:]) + 2)
        self._got += len(head) + len(body)
        return body.decode()


class Meter:
    """Costs of requests, one at a time.

    Args:
        redis: Counters of the server.
        folder: Where the processes write theirs (``COUNTED_CALLS``).
        processes: By the name that their calls get.
    """

    def __init__(self, redis: RedisCounts, folder: Path, processes: dict[str, Process]) -> None:
        self._redis = redis
        self._folder = folder
        self._processes = processes

    def idle(self, commands: int = 40) -> Costs:
        """What all do by themselves in a second, measured for as long as they need for so many commands of Redis."""
        before, began = self.read(), time.monotonic()
        until(lambda: self._redis.read()[COMMANDS] >= before[COMMANDS] + commands, 30, "actors do their work")
        after, took = self.read(), time.monotonic() - began
        return {name: (after[name] - before.get(name, 0)) / took for name in after}

    def measure(self, request: Callable[[], object], times: int, idle: Costs | None = None) -> Costs:
        """The cost of a request.

        Args:
            request: Makes one, and reads it to its end.
            times: How often it is made. The least counts: what actors do falls into some of them.
            idle: For requests of a tenth of a second or more, where actors are in each: what they do per second. The
                median counts then.
        """
        found = []
        before = self.read()
        for _ in range(times):
            began = time.monotonic()
            request()
            after, took = self.read(), time.monotonic() - began
            found.append({n: after[n] - before.get(n, 0) - took * (idle or {}).get(n, 0) for n in after})
            before = after
        at = times // 2 if idle else 0
        names = sorted({name for costs in found for name in costs})
        return {name: sorted(costs.get(name, 0) for costs in found)[at] for name in names}

    def read(self) -> Costs:
        """All counters, once Redis has rest: the end of a request is written behind its last byte."""
        last: list[Costs] = [{}]

        def rests() -> bool:
            last.append(self._redis.read())
            return last[-1] == last[-2]

        until(rests, 30, "Redis has rest")
        costs = last[-1]
        for name, process in self._processes.items():
            layers = self._calls(process)
            costs[f"{name} calls"] = sum(layers.values())
            costs |= {f"{name} {layer}": calls for layer, calls in layers.items()}
        return costs

    def _calls(self, process: Process) -> Counter[str]:
        target = self._folder / str(process.pid)
        target.unlink(missing_ok=True)
        os.kill(process.pid, signal.SIGRTMIN)
        until(target.exists, 30, "it writes its counts")
        return Counter(msgspec.json.decode(target.read_bytes(), type=dict[str, int]))
