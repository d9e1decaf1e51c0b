"""A second machine, as far as its network goes: a network namespace at the end of a cable that can be cut.

Cut, packets are dropped without a word: no reset, no unreachable. Both ends believe in their connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import threading

import pytest

__all__ = ["Distance", "Machine"]

_numbers = itertools.count()
_NOBODY = "02:00:00:00:00:01"


class Machine:
    """Use as ``with Machine() as other: Worker(f"redis://{other.here}:…", prefix=other.prefix)``.

    Skips the test where namespaces cannot be made.

    Attributes:
        here: Address of this side of the cable.
        there: Address of the other side.
        prefix: What makes a command run on the other side.
    """

    def __init__(self) -> None:
        number = os.getpid() * 8 + next(_numbers)
        self._name, self._near, self._far = f"dt{number}", f"dtn{number}", f"dtf{number}"
        net = f"10.{213 + number % 32}.{number // 32 % 256}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        self.prefix = ("ip", "netns", "exec", self._name)
        self._macs: dict[str, str] = {}

    def _ip(self, *words: str, far: bool = False) -> str:
        argv = ["ip", *(("-n", self._name) if far else ()), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> Machine:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("a network namespace needs root and the command `ip`")
        try:
            self._ip("netns", "add", self._name)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no network namespace can be made here: {exc.stderr.strip()}")
        try:
            self._ip(
                "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name
            )
            for far, device, address in ((False, self._near, self.here), (True, self._far, self.there)):
                self._ip("address", "add", f"{address}/30", "dev", device, far=far)
                self._ip("link", "set", device, "up", far=far)
                self._macs[device] = self._ip("-br", "link", "show", device, far=far).split()[2]
            self._ip("link", "set", "lo", "up", far=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._ip("netns", "delete", self._name)

    def cut(self) -> None:
        """Everything that is sent goes to a machine that is not there."""
        self._address_to(_NOBODY, _NOBODY)

    def mend(self) -> None:
        """The cable works again."""
        self._address_to(self._macs[self._far], self._macs[self._near])

    def _address_to(self, far: str, near: str) -> None:
        fixed = ("nud", "permanent", "dev")
        self._ip("neigh", "replace", self.there, "lladdr", far, *fixed, self._near)
        self._ip("neigh", "replace", self.here, "lladdr", near, *fixed, self._far, far=True)


class Distance:
    """A server that is far away: a proxy in front of it that holds back what goes either way.

    Use as ``with Distance(server.port, round_trip=0.3) as far: Worker(f"redis://127.0.0.1:{far.port}/0")``.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, port: int, *, round_trip: float):
        self._target = port
        self._delay = round_trip / 2
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Distance:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        ours = asyncio.all_tasks() - {asyncio.current_task()}
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        # The handshake of TCP takes no time here: it is this machine's, and held back behind it, the first answer would
        # take two round trips to whoever bounds each answer.
        try:
            far_in, far_out = await asyncio.open_connection("127.0.0.1", self._target)
        except ConnectionError:
            near_out.close()
            return
        # Cancelled at the end, which asyncio's streams would tell as an error.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._carry(near_in, far_out), self._carry(far_in, near_out))

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Hand on what comes, each piece when its time has come; a connection that ends, ends there, too."""
        way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            data = b" "
            while data:
                with contextlib.suppress(ConnectionError):
                    data = b""
                    data = await source.read(65536)
                await way.put((self._loop.time() + self._delay, data))

        reading = asyncio.ensure_future(read())
        try:
            while True:
                due, data = await way.get()
                await asyncio.sleep(due - self._loop.time())
                if not data:
                    break
                target.write(data)
        finally:
            target.close()
            reading.cancel()
