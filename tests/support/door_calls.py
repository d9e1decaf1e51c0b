"""Somebody's module of endpoints, and a script of theirs that calls them in every way that Celery has.

Run as a script, it does what the names on its command line say, all at once with ``together`` as the first one, and
prints one JSON object: for each name ``[seconds, value]``, or ``[seconds, names of the error's classes, its text]``.
"""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import Celery, chain, chord, group
from celery.result import GroupResult

from dynamo_tasks import StreamResult, app, dynamo_endpoint, service
from dynamo_tasks.errors import RequestCancelledError, StreamExpiredError

__all__ = ["WAYS", "Caller", "plain"]


@service(dynamo={"namespace": "door"})
class Caller:
    @dynamo_endpoint()
    async def count(self, request):
        """Numbers below one, which may be the field ``n`` of what came."""
        for i in range(request["n"] if isinstance(request, dict) else request):
            await asyncio.sleep(0.005)
            yield i

    @dynamo_endpoint()
    async def slow(self, n: int):
        await asyncio.sleep(0.5)
        return {"n": n}

    @dynamo_endpoint()
    def double(self, x: int) -> int:
        return 2 * x

    @dynamo_endpoint()
    async def fail(self, why: str):
        yield 1
        raise KeyError(why)

    @dynamo_endpoint()
    async def ping(self):
        return "pong"

    @dynamo_endpoint()
    async def greet(self, name: str = "you"):
        return f"hello {name}"


@app.task(name="door.plain")
def plain(n: int) -> dict:
    """A plain task."""
    return {"n": n}


async def collected(result: Any) -> list[Any]:
    return [value async for value in result]


def forgotten() -> list[Any]:
    result = Caller.count.delay(3)
    result.get(timeout=20)
    result.forget()
    known = app.AsyncResult(result.id)
    try:
        left: Any = list(known)
    except StreamExpiredError as exc:
        left = type(exc).__name__
    return [known.state, known.exists(), left]


def copies() -> list[Any]:
    result = Caller.count.delay(1)
    both = (result, app.AsyncResult(result.id))
    pickled = [pickle.loads(pickle.dumps(one)) for one in both]  # noqa: S301
    return [list(one) for one in (*pickled, *map(copy.copy, both))]


def looked_at() -> list[Any]:
    result = Caller.count.delay(2)
    result.get(timeout=20)
    return [
        result.state, result.status, result.ready(), result.successful(), result.failed(), result.result, result.info,
        result.traceback, result.date_done is not None, result.children, result.parent, result.as_list() == [result.id],
        result.get_leaf(), [value for _, value in result.collect()], len(list(result.iterdeps())),
    ]  # fmt: skip


def told_then() -> list[Any]:
    told: list[Any] = []
    result = Caller.double.delay(4)
    result.then(lambda one: told.append(one.result))
    result.get(timeout=20)
    return told


def restored() -> list[Any]:
    made = group(Caller.count.s(2), Caller.double.s(3)).delay()
    made.save()
    made.get(timeout=20)
    found: GroupResult = app.GroupResult.restore(made.id)
    first = [list(one) for one in found.results]
    found.delete()
    return [*first, app.GroupResult.restore(made.id) is None]


def revoked_group() -> list[Any]:
    """Members that wait, and no worker is told."""
    made = group(Caller.double.s(1), Caller.double.s(2)).apply_async(countdown=300)
    made.revoke()
    started = time.monotonic()
    values = made.get(timeout=30, propagate=False)
    return [[isinstance(one, RequestCancelledError) for one in values], time.monotonic() - started < 20]


def of_chain() -> list[Any]:
    last = chain(Caller.double.s(1), Caller.double.s()).delay()
    value = last.get(timeout=20)
    return [value, last.parent.get(), len(last.as_list()), [v for _, v in last.parent.collect()]]


def by_name_only() -> Any:
    """Where the process knows no declaration, the worker refuses."""
    other = Celery("other", broker=app.server_url, backend=app.server_url, set_as_current=False)
    return app.AsyncResult(
        other.send_task("door.Caller.double", kwargs={"y": 1}, queue="door|Caller").id
    ).get(timeout=20)


WAYS: dict[str, Callable[[], Any]] = {
    "tasks": lambda: sorted(name for name in app.tasks if name.startswith("door.Caller.")),
    "delay": lambda: Caller.double.delay(4).get(timeout=20),
    "send_task": lambda: list(app.send_task("door.Caller.count", [3])),
    "send_task kwargs": lambda: app.send_task("door.Caller.double", kwargs={"x": 4}).get(timeout=20),
    "send_task positional": lambda: app.send_task("door.Caller.double", (4,), {}, 0.05).get(timeout=20),
    "AsyncResult": lambda: list(app.AsyncResult(Caller.count.delay(3).id)),
    "endpoint AsyncResult": lambda: list(Caller.count.AsyncResult(Caller.count.delay(3).id)),
    "signature": lambda: app.signature("door.Caller.double", args=(4,)).delay().get(timeout=20),
    "endpoint signature": lambda: Caller.double.signature((4,), priority=3).delay().get(timeout=20),
    "subtask": lambda: Caller.double.subtask((4,)).delay().get(timeout=20),
    "si": lambda: chain(Caller.double.s(1), Caller.double.si(4)).delay().get(timeout=20),
    "map": lambda: Caller.double.map([1, 2, 3]).delay().get(timeout=20),
    "map stream": lambda: Caller.count.map([1, 2]).delay().get(timeout=20),
    "starmap": lambda: Caller.double.starmap([[1], [2]]).delay().get(timeout=20),
    "chunks": lambda: Caller.double.chunks([[1], [2], [3]], 2).delay().get(timeout=20),
    "apply": lambda: list(Caller.count.apply((3,))),
    "call": lambda: Caller.double(4),
    "task call": lambda: app.tasks["door.Caller.double"](x=4),
    "keyword": lambda: Caller.double.delay(x=4).get(timeout=20),
    "keyword in a chain": lambda: (
        chain(Caller.slow.s(1), Caller.count.s(request={"n": 2})).delay().get(timeout=20)
    ),
    "wrong keyword": lambda: Caller.double.delay(y=4),
    "wrong keyword by name": by_name_only,
    "too many": lambda: Caller.double.delay(1, 2),
    "none given": lambda: Caller.double.delay(),
    "takes none": lambda: Caller.ping.delay(5),
    "none taken": lambda: Caller.ping.delay().get(timeout=20),
    "default": lambda: [Caller.greet.delay().get(timeout=20), Caller.greet.delay("me").get(timeout=20)],
    "chain": lambda: list(chain(Caller.slow.s(2), Caller.count.s()).delay()),
    "chain async": lambda: asyncio.run(collected(chain(Caller.slow.s(2), Caller.count.s()).delay())),
    "chain of three": lambda: list(chain(Caller.slow.s(2), Caller.slow.si(3), Caller.count.s()).delay()),
    "failed chain": lambda: list(chain(Caller.fail.s("x"), Caller.count.s()).delay()),
    "failed chain get": lambda: chain(Caller.fail.s("x"), Caller.count.s()).delay().get(timeout=20),
    "chord": lambda: list(chord([Caller.double.s(1), Caller.double.s(2)], Caller.count.si(3)).delay()),
    "group": lambda: [list(one) for one in group(Caller.count.s(1), Caller.count.s(2)).delay()],
    "fail get": lambda: Caller.fail.delay("x").get(timeout=20),
    "fail await": lambda: asyncio.run(_awaited(Caller.fail.delay("x"))),
    "fail iterate": lambda: list(Caller.fail.delay("x")),
    "fail iterate async": lambda: asyncio.run(collected(Caller.fail.delay("x"))),
    "fail ignored": lambda: list(Caller.fail.apply_async(("x",), ignore_result=True)),
    "unknown": lambda: list(app.AsyncResult("nobody")),
    "unknown of a chain": lambda: list(_of_unknown()),
    "forget": forgotten,
    "looked at": looked_at,
    "then": told_then,
    "restored": restored,
    "revoked group": revoked_group,
    "of a chain": of_chain,
    "copies": copies,
}


async def _awaited(result: Any) -> Any:
    return await result


def _of_unknown() -> Any:
    result = StreamResult("nobody", namespace="door")
    result.parent = StreamResult("nobody before", namespace="door")
    return result


def outcome(way: str) -> list[Any]:
    began = time.monotonic()
    try:
        value = WAYS[way]()
    except Exception as exc:  # noqa: BLE001 - it is what is tested
        return [time.monotonic() - began, [kind.__name__ for kind in type(exc).__mro__], str(exc)]
    return [time.monotonic() - began, value]


if __name__ == "__main__":
    ways = sys.argv[1:] or list(WAYS)
    with ThreadPoolExecutor(8) as pool:
        print(json.dumps(dict(zip(ways, pool.map(outcome, ways), strict=True))))
