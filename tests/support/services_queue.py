"""A service for the tests of the queue: endpoints of every kind, plain tasks, and a trace of Celery's signals.

``LAB_NAMESPACE`` names its namespace, so that tests which need a worker of their own can have one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from celery import current_task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from dynamo_tasks import app, current_context, depends, dynamo_endpoint, service
from dynamo_tasks.protocol.tokens import TokenDelta

NAMESPACE = os.environ.get("LAB_NAMESPACE", "lab")
app.conf.worker_soft_shutdown_timeout = float(os.environ.get("LAB_SOFT", 0))


def say(*words: object) -> None:
    """One line in the worker's log, for the test to find."""
    os.write(1, ("LAB " + " ".join(map(str, words)) + "\n").encode())


def _wrong(how: str) -> Any:
    match how:
        case "exit":
            sys.exit(3)
        case "nothing more":
            return next(iter(()))
        case "cancelled":
            raise asyncio.CancelledError
        case "surrogate in the error":
            raise ValueError("\ud800")
        case "surrogate in a token":
            return TokenDelta("a\ud800", [1])
        case "object in a token":
            return TokenDelta("a", [object()])
    return {"object": object(), "generator": (i for i in ()), "surrogate": "\ud800", "number": 2**70}[how]


@service(dynamo={"namespace": NAMESPACE, "name": "Lab"})
class Lab:
    """What the tests call."""

    again = depends(f"dyn://{NAMESPACE}.Lab.nest")

    @dynamo_endpoint(policy="replay")
    async def nest(self, request: dict) -> AsyncIterator[int]:
        """Call itself through the queue, ``levels`` deep; the deepest one yields until it is stopped."""
        try:
            if request["levels"] > 1:
                async for i in self.again.nest({"levels": request["levels"] - 1}):
                    yield i
            else:
                for i in range(10_000):
                    yield i
                    await asyncio.sleep(0.02)
        except BaseException as exc:
            say("stopped", current_context().id, type(exc).__name__, time.time())
            raise

    @dynamo_endpoint(policy="replay")
    async def count(self, request: dict) -> AsyncIterator[int]:
        """Yield 0 … n-1, ``delay`` seconds apart; says how it was stopped."""
        began = time.monotonic()
        try:
            for i in range(request["n"]):
                yield i
                await asyncio.sleep(request.get("delay", 0))
        except BaseException as exc:
            at = time.time() if request.get("wall") else time.monotonic() - began
            say("stopped", current_context().id, type(exc).__name__, at)
            raise

    @dynamo_endpoint(policy="replay")
    async def block(self, request: dict) -> AsyncIterator[int]:
        """Yield 0 … n-1; the first attempt blocks the whole loop on its way."""
        for i in range(request["n"]):
            if i == request["n"] // 2 and current_context().attempt == 1:
                time.sleep(request["seconds"])  # noqa: ASYNC251 - that is the fault
            yield i
            await asyncio.sleep(0.01)

    @dynamo_endpoint(policy="replay")
    async def poison(self, request: dict) -> AsyncIterator[int]:
        """Yield ``n`` values and kill the worker; harmless once the file ``antidote`` is there."""
        for i in range(request.get("n", 0)):
            yield i
        if not os.path.exists(request["antidote"]):
            os.kill(os.getpid(), signal.SIGKILL)

    @dynamo_endpoint()
    async def hog(self, request: dict) -> int:
        """The first attempt takes memory until the kernel ends its process."""
        taken = []
        while current_context().attempt == 1:
            taken.append(b"x" * (16 << 20))
        return len(taken)

    @dynamo_endpoint()
    async def pace(self, request: dict) -> AsyncIterator[float]:
        """Yield the time since the last value."""
        last = time.monotonic()
        for _ in range(request["n"]):
            await asyncio.sleep(request["delay"])
            now = time.monotonic()
            yield now - last
            last = now

    @dynamo_endpoint()
    async def overlap(self, seconds: float) -> tuple[int, float]:
        """Return how many of these run at the same time, and when it began."""
        began = time.monotonic()
        self._beside = getattr(self, "_beside", 0) + 1
        most = self._beside
        await asyncio.sleep(seconds)
        self._beside -= 1
        return most, began

    @dynamo_endpoint()
    async def echo(self, request: Any) -> Any:
        """Return the argument."""
        return request

    @dynamo_endpoint()
    async def add(self, request: dict) -> dict:
        """Add ``by`` to ``x``."""
        return {"x": request["x"] + request.get("by", 1)}

    @dynamo_endpoint()
    async def total(self, request: list) -> int:
        """The body of a chord."""
        return sum(item["x"] if isinstance(item, dict) else item for item in request)

    @dynamo_endpoint()
    def plain(self, request: dict) -> dict:
        """A plain function: runs in a thread, and may block."""
        time.sleep(request.get("sleep", 0))
        return {"thread": threading.current_thread() is not threading.main_thread()}

    @dynamo_endpoint()
    def steps(self, request: dict) -> Iterator[int]:
        """A plain generator that blocks between its values."""
        for i in range(request["n"]):
            time.sleep(request.get("sleep", 0))
            yield i

    @dynamo_endpoint()
    async def who(self, request: dict) -> dict:
        """What the body sees of itself, twice."""
        first = current_context()
        await asyncio.sleep(request.get("delay", 0.05))
        second = current_context()
        return {"id": first.id, "again": second.id, "task": bool(current_task), "retries": first.retries}

    @dynamo_endpoint()
    async def bytes(self, request: dict) -> bytes:
        """Return what msgpack knows and JSON does not."""
        return b"ab"

    @dynamo_endpoint()
    async def wrong(self, request: str) -> Any:
        """End in a way that no endpoint should."""
        return _wrong(request)

    @dynamo_endpoint()
    async def wrong_steps(self, request: str) -> AsyncIterator[Any]:
        """The same, while it streams."""
        yield 0
        yield _wrong(request)

    @dynamo_endpoint()
    def wrong_in_thread(self, request: str) -> Any:
        """The same, in a thread."""
        return _wrong(request)

    @dynamo_endpoint()
    def wrong_steps_in_thread(self, request: str) -> Iterator[Any]:
        """The same, while it streams."""
        yield 0
        yield _wrong(request)

    @dynamo_endpoint()
    async def garbage(self, request: dict) -> dict:
        """Collect; what could only be freed that way since the last time: number by type."""
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(type(one).__qualname__ for one in gc.garbage)
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()
        return dict(found.most_common(40))

    @dynamo_endpoint()
    async def live(self, request: dict) -> int:
        """Number of objects that the collector knows."""
        gc.collect()
        return len(gc.get_objects())

    @dynamo_endpoint()
    async def fail(self, request: dict) -> None:
        """Raise an error."""
        raise ValueError(request.get("message", "boom"))

    @dynamo_endpoint()
    async def flaky(self, request: dict) -> int:
        """Ask for retries until the n-th run; returns the number of retries."""
        context = current_context()
        if context.retries < request["until"]:
            error = ValueError("not yet")
            context.retry(error, countdown=request.get("countdown", 0), max_retries=request.get("max", 3))
        return context.retries

    @dynamo_endpoint(autoretry_for=(ValueError,), retry_backoff=1, retry_jitter=False, max_retries=1)
    async def auto(self, request: dict) -> int:
        """Fail until the n-th run."""
        if current_context().retries < request["until"]:
            raise ValueError("not yet")
        return current_context().retries

    @dynamo_endpoint(time_limit=0.4)
    async def limited(self, request: dict) -> AsyncIterator[int]:
        """Run into its hard time limit."""
        for i in range(1000):
            yield i
            await asyncio.sleep(0.02)

    @dynamo_endpoint()
    async def soft(self, request: dict) -> AsyncIterator[str]:
        """Catch its soft time limit."""
        try:
            while True:
                yield "on"
                await asyncio.sleep(0.02)
        except SoftTimeLimitExceeded:
            yield "off"

    @dynamo_endpoint()
    async def soft_wait(self, request: dict) -> str:
        """A coroutine that catches its soft time limit."""
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            return "caught"
        return "never"

    @dynamo_endpoint()
    async def refuse(self, request: dict) -> None:
        """Reject or ignore the message, as a Celery task may."""
        if request.get("ignore"):
            raise Ignore
        if request.get("requeue") and current_context().attempt == 1:
            raise Reject("not me", requeue=True)
        if not request.get("requeue"):
            raise Reject("nobody", requeue=False)


@app.task(name=f"{NAMESPACE}.plus")
def plus(x: Any, y: int = 1) -> Any:
    """A plain Celery task."""
    return {"x": x["x"] + y} if isinstance(x, dict) else x + y


@app.task(name=f"{NAMESPACE}.doze")
def doze(seconds: float) -> bool:
    """A plain Celery task that blocks its thread; whether that is not the main one."""
    time.sleep(seconds)
    return threading.current_thread() is not threading.main_thread()


@app.task(name=f"{NAMESPACE}.leave")
def leave() -> None:
    """A plain Celery task that would end its process."""
    sys.exit(3)


@app.task(name=f"{NAMESPACE}.note")
def note(*args: Any) -> None:
    """A link or an errback."""
    say("note", *args)


@app.task(name=f"{NAMESPACE}.errback")
def errback(request: Any, exc: Exception, traceback: Any) -> None:
    """What Celery calls in the worker when a task has failed."""
    say("errback", request.id, type(exc).__name__)


@app.task(name=f"{NAMESPACE}.slow_rate", rate_limit="6/m")
def slow_rate(i: int) -> int:
    """A rate-limited plain task: most of them wait in the worker."""
    return i


def _trace(name: str) -> None:
    def heard(sender: Any = None, task_id: Any = None, request: Any = None, **more: Any) -> None:
        task_id = task_id or more.get("id") or getattr(request, "id", None) or "-"
        say("signal", name, task_id, more.get("state", ""))

    getattr(signals, name).connect(heard, weak=False)


for _name in (
    "task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_revoked", "task_unknown",
    "task_rejected", "worker_process_init",
):  # fmt: skip
    _trace(_name)
