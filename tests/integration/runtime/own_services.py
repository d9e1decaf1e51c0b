"""Services as a user writes them, for the tests of the runtime."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from dynamo_tasks import api, async_on_start, depends, dynamo_endpoint, on_shutdown, service
from dynamo_tasks.errors import EngineDeadError
from dynamo_tasks.sdk import liveness, readiness
from dynamo_tasks.sdk.context import current_context


class Count(msgspec.Struct):
    """Count to ``n``, with a pause in between; ``note``: a file that gets a line for each run."""

    n: int
    pause: float = 0.0
    fail_at: int = -1
    note: str = ""


def _note(path: str) -> None:
    if path:
        with Path(path).open("a") as file:
            context = current_context()
            file.write(f"{os.getpid()} {context.id if context else ''}\n")


@service(dynamo={"enabled": True})
class Child:
    """All four kinds of endpoints."""

    greeting: str = "hello"
    options: dict[str, Any] = {}  # noqa: RUF012 - as a user writes it
    config_extras = "options"

    def stats(self, endpoint: str) -> dict[str, Any]:
        if endpoint == "letters":
            raise LookupError("not counted")
        return {"told": endpoint}

    @dynamo_endpoint(policy="replay")
    async def count(self, request: Count) -> AsyncIterator[dict[str, int]]:
        _note(request.note)
        for number in range(request.n):
            if number == request.fail_at:
                raise ValueError(f"no {number}")
            yield {"number": number}
            await asyncio.sleep(request.pause)

    @dynamo_endpoint
    async def hold(self, note: str) -> None:
        """Run until stopped, and note when that was; the note is empty until then."""
        Path(note).touch()
        try:
            await asyncio.sleep(60)
        finally:
            Path(note).write_text(str(time.time()))

    @dynamo_endpoint
    async def double(self, number: int) -> int:
        return number * 2

    @dynamo_endpoint
    def square(self, number: int) -> int:
        return number * number

    @dynamo_endpoint
    def letters(self, text: str) -> Iterator[str]:
        yield from text

    @dynamo_endpoint
    async def show(self, request: Any = None) -> dict[str, Any]:
        return {"greeting": self.greeting, "options": self.options, "pid": os.getpid()}


@service(dynamo={"enabled": True})
class Parent:
    """Calls the child; its code does not know where that one lives."""

    child = depends(Child)

    @dynamo_endpoint(policy="replay")
    async def relay(self, request: Count) -> AsyncIterator[dict[str, Any]]:
        payload = msgspec.to_builtins(request)
        async for value in self.child.count(payload):
            yield {"relayed": value["number"]}

    @dynamo_endpoint
    async def sums(self, number: int) -> dict[str, Any]:
        client = await self.child.get_endpoint("letters")
        return {
            "double": await self.child.double(number),
            "square": await self.child.square(number),
            "letters": [letter async for letter in client.generate("abc")],
            "all": await self.child.letters("xy"),
            "awaited": [letter async for letter in await client.generate("de")],
        }

    @dynamo_endpoint
    async def wrong(self, what: str) -> Any:
        if what == "type":
            return await self.child.double("many")
        if what == "name":
            return await self.child.tripple(3)
        return [value async for value in self.child.count({"n": 3, "fail_at": 1})]

    @dynamo_endpoint
    async def child_pid(self, request: Any = None) -> list[int]:
        return [(await self.child.show())["pid"], os.getpid()]


@service(dynamo={"enabled": True})
class Policies:
    """One endpoint per policy; each runs slowly the first time."""

    @dynamo_endpoint(policy="replay")
    async def replay(self, request: Count) -> AsyncIterator[int]:
        _note(request.note)
        for number in range(request.n):
            yield number
            await asyncio.sleep(request.pause)

    @dynamo_endpoint(policy="restart")
    async def restart(self, request: Count) -> AsyncIterator[int]:
        _note(request.note)
        for number in range(request.n):
            yield number
            await asyncio.sleep(request.pause)

    @dynamo_endpoint(policy="fail")
    async def fail(self, request: Count) -> AsyncIterator[int]:
        _note(request.note)
        for number in range(request.n):
            yield number
            await asyncio.sleep(request.pause)

    @dynamo_endpoint(policy="restart")
    async def silent(self, request: Count) -> str:
        _note(request.note)
        first = len(Path(request.note).read_text().splitlines()) == 1
        await asyncio.sleep(60 if first else 0)
        return "done"


@service(dynamo={"enabled": True})
class Broken:
    """A start hook that fails."""

    @async_on_start
    async def load(self) -> None:
        raise RuntimeError("the weights are missing")

    @dynamo_endpoint
    async def call(self, request: Any) -> int:
        return 1


@service(dynamo={"enabled": True})
class Sulky:
    """A shutdown hook that fails."""

    @on_shutdown
    async def down(self) -> None:
        raise RuntimeError("the door is stuck")

    @dynamo_endpoint
    async def call(self, request: Any) -> int:
        return 1


@service(dynamo={"enabled": True})
class Unreadable:
    """An endpoint whose annotation names nothing."""

    @dynamo_endpoint
    async def call(self, request: Reqest) -> int:  # noqa: F821 - that is the fault
        return 1


@service(dynamo={"enabled": True})
class Hooked:
    """Notes what happens to it in the file ``notes``."""

    notes: str = ""

    def _write(self, line: str) -> None:
        with Path(self.notes).open("a") as file:
            file.write(line + "\n")

    @async_on_start
    def first(self) -> None:
        self._write("first")

    @async_on_start
    async def second(self) -> None:
        self._write("second")

    @on_shutdown
    async def down(self) -> None:
        self._write("down")

    @dynamo_endpoint
    async def work(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        self._write("worked")
        return "ok"


@service()
class Shop:
    """A service of its own with HTTP methods, in front of the child."""

    child = depends(Child)

    @api
    async def double(self, number: int) -> dict[str, int]:
        return {"doubled": await self.child.double(number)}

    @api
    async def count(self, n: int) -> AsyncIterator[dict[str, int]]:
        async for value in self.child.count({"n": n}):
            yield value

    @api
    def now(self) -> float:
        return time.time()

    @api
    async def wrong(self) -> Any:
        return await self.child.double("many")


@service(dynamo={"enabled": True})
class Patient:
    """Its health is what the files in ``folder`` say: ``unready``, ``dead``, ``mute``; ``lag`` blocks the loop.

    ``broken``: its engine is dead. ``alarm``: one request believes that, and is wrong.
    """

    folder: str = ""
    health_check: dict[str, float] = {"interval": 0.05, "max_lag": 0.3, "canary_after": 0.2}  # noqa: RUF012

    def _is(self, what: str) -> bool:
        return (Path(self.folder) / what).exists()

    @readiness
    async def ready(self) -> bool:
        return not self._is("unready")

    @liveness
    def alive(self) -> bool:
        if self._is("lag"):
            (Path(self.folder) / "lag").unlink()
            asyncio.get_running_loop().call_later(0.01, time.sleep, 0.5)
        return not self._is("dead") and not self._is("broken")

    @dynamo_endpoint(health_check_payload={"n": 1}, policy="replay")
    async def work(self, request: Count) -> AsyncIterator[int]:
        if self._is("mute"):
            raise RuntimeError("the engine does not answer")
        for number in range(request.n):
            yield number
            await asyncio.sleep(request.pause)
            if self._is("broken"):
                raise EngineDeadError("the engine is gone")
            if self._is("alarm"):
                (Path(self.folder) / "alarm").unlink()
                raise EngineDeadError("the engine seems to be gone")


@service(dynamo={"enabled": True})
class Traced:
    """Tells what it knows of the call chain; ``deep`` asks itself once more through the queue."""

    again = depends("dyn://own-context.Traced.tell")

    @dynamo_endpoint
    async def tell(self, request: Any = None) -> dict[str, Any]:
        context = current_context()
        return {"trace": context.traceparent, "deadline": context.deadline, "headers": context.headers}

    @dynamo_endpoint
    async def deep(self, request: Any = None) -> list[dict[str, Any]]:
        return [await self.tell(), *[told async for told in self.again.tell()]]

    @dynamo_endpoint(policy="replay")
    async def long(self, request: Count) -> AsyncIterator[int]:
        for number in range(request.n):
            yield number
            await asyncio.sleep(request.pause)
