"""A closed-loop load generator for OpenAI-compatible servers.

``concurrency`` connections each send the next request as soon as their last answer is complete, until
``requests`` are done. One thread, one epoll, blocking sockets that are read only when ready;
TCP_NODELAY, and TCP_QUICKACK armed again after each read (the kernel forgets it), since a server
that leaves Nagle on would otherwise stall 40 ms per event.

Times are those of the client: TTFT from sending the request to the first bytes with generated text;
ITL between deliveries (reads with at least one event) after it; a server that puts several tokens
into one event or one packet has fewer and longer gaps, so ``tpot`` (time per output token, from the
first text to the last, per request) stands beside it.

Run it in a process of its own::

    python -m benchmarks.loadgen --url http://127.0.0.1:8000 --model echo -c 64 -n 2000 --max-tokens 64
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from urllib.parse import urlsplit

from benchmarks.load import Load, Requests, Result
from benchmarks.wire import Answer, BrokenAnswerError, Summary

__all__ = ["main", "run_load"]

_READ = 1 << 16
_TICK = 0.5
_CONNECT_TIMEOUT = 5.0


class _Connection:
    """One of the concurrent clients: at most one request at a time."""

    __slots__ = ("address", "answer", "asked", "data", "fresh", "sent", "sock")

    def __init__(self, address: tuple[str, int]):
        self.address = address
        self.sock: socket.socket | None = None
        self.answer: Answer | None = None
        self.data = b""
        self.asked = 0
        self.sent = 0.0
        self.fresh = True

    def open(self) -> socket.socket:
        self.close()
        sock = socket.create_connection(self.address, timeout=_CONNECT_TIMEOUT)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.sock, self.fresh = sock, True
        return sock

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class _Generator:
    """The loop; all state of one run."""

    def __init__(self, load: Load):
        parts = urlsplit(load.url)
        self.load = load
        self.result = Result()
        self._requests = Requests(load)
        self._address = (parts.hostname or "", parts.port or 80)
        self._poll = select.epoll()
        self._active: dict[int, _Connection] = {}
        self._idle = deque(_Connection(self._address) for _ in range(load.concurrency))
        self._unsent = 0

    def run(self) -> Result:
        """Warm up, measure, close."""
        try:
            if self.load.warmup:
                self._rounds(self.load.warmup)
            self.result = Result()
            cpu = _own_cpu()
            start = time.perf_counter()
            self._rounds(self.load.requests)
            self.result.wall_s = time.perf_counter() - start
            self.result.cpu_s = _own_cpu() - cpu
            return self.result
        finally:
            self._poll.close()
            for connection in (*self._idle, *self._active.values()):
                connection.close()

    def _rounds(self, requests: int) -> None:
        self._unsent = requests
        self._fill()
        next_check = time.perf_counter() + _TICK
        while self._active:
            for fd, _ in self._poll.poll(_TICK):
                self._readable(fd)
            now = time.perf_counter()
            if now >= next_check:
                self._drop_overdue(now)
                next_check = now + _TICK
            self._fill()

    def _fill(self) -> None:
        while self._unsent and self._idle:
            connection = self._idle.popleft()
            self._unsent -= 1
            connection.data, connection.asked = self._requests.next()
            connection.sent = time.perf_counter()
            self._send(connection)

    def _send(self, connection: _Connection) -> None:
        connection.answer = Answer()
        try:
            sock = connection.sock
            if sock is None:
                sock = connection.open()
                self._poll.register(sock, select.EPOLLIN)
            self._active[sock.fileno()] = connection
            sock.sendall(connection.data)
        except OSError as exc:
            self._lost(connection, f"{type(exc).__name__}: {exc}")

    def _readable(self, fd: int) -> None:
        connection = self._active.get(fd)
        if connection is None or connection.sock is None or connection.answer is None:
            self._drop_idle(fd)
            return
        try:
            data = connection.sock.recv(_READ)
            if not data:
                raise ConnectionError("server closed the connection")
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            connection.answer.feed(data, time.perf_counter())
        except (OSError, BrokenAnswerError) as exc:
            self._lost(connection, f"{type(exc).__name__}: {exc}")
            return
        if connection.answer.done:
            self._finished(connection, connection.answer)

    def _drop_idle(self, fd: int) -> None:
        """The server closed a connection between two requests."""
        for connection in self._idle:
            if connection.sock is not None and connection.sock.fileno() == fd:
                connection.close()

    def _finished(self, connection: _Connection, answer: Answer) -> None:
        now = time.perf_counter()
        summary = answer.summary(stream=self.load.stream)
        if summary.error:
            self.result.errors[summary.error] += 1
        else:
            self._count(answer, summary, connection, now)
        self._release(connection, close=answer.close)

    def _count(self, answer: Answer, summary: Summary, connection: _Connection, now: float) -> None:
        result, sent = self.result, connection.sent
        result.requests += 1
        result.tokens += summary.tokens
        result.events += summary.events
        result.short += summary.tokens < connection.asked
        result.uncounted += not summary.counted
        result.latency.append(now - sent)
        result.ttft.append((answer.first_text or now) - sent)
        if self.load.stream:
            result.itl.extend(answer.gaps)
            if summary.tokens > 1 and answer.first_text:
                result.tpot.append((answer.last_text - answer.first_text) / (summary.tokens - 1))

    def _lost(self, connection: _Connection, error: str) -> None:
        unanswered = connection.answer is None or not connection.answer.started
        stale = unanswered and not connection.fresh and connection.sock is not None
        self._release(connection, close=True, reuse=not stale)
        if stale:
            # The server may close a kept-alive connection just as the next request goes out.
            self._send(connection)
        else:
            self.result.errors[error] += 1

    def _release(self, connection: _Connection, *, close: bool, reuse: bool = True) -> None:
        if connection.sock is not None:
            self._active.pop(connection.sock.fileno(), None)
        connection.answer = None
        connection.fresh = False
        if close:
            connection.close()
        if reuse:
            self._idle.append(connection)

    def _drop_overdue(self, now: float) -> None:
        for connection in list(self._active.values()):
            if now - connection.sent > self.load.timeout:
                self._release(connection, close=True)
                self.result.errors[f"no end within {self.load.timeout:g} s"] += 1


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_load(load: Load) -> Result:
    """Send the load from this process and wait for its end."""
    return _Generator(load).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadgen", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True, help="root of the server, e.g. http://127.0.0.1:8000")
    parser.add_argument("--model", required=True)
    parser.add_argument("-c", "--concurrency", type=int, default=1)
    parser.add_argument("-n", "--requests", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--spread", type=float, default=0.0, help="0.5: lengths of 0.5 to 1.5 times --max-tokens"
    )
    parser.add_argument("--warmup", type=int, default=0, help="requests before the measurement")
    parser.add_argument("--prompt-mode", choices=("unique", "shared"), default="unique")
    parser.add_argument("--prompt-chars", type=int, default=64)
    parser.add_argument("--no-stream", dest="stream", action="store_false")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds per request")
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--api-key")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report as JSON; 1 if any request failed, 2 if the arguments make no sense."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        load = Load(**vars(arguments))
    except ValueError as exc:
        parser.error(str(exc))
    result = run_load(load)
    shown = {name: value for name, value in asdict(load).items() if name != "api_key"}
    print(json.dumps({"load": shown, **result.report()}))
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
