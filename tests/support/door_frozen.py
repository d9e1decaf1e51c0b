"""A script that calls and looks while the server is frozen; see ``tests/doors/test_frozen_server.py``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import chain, chord, group
from celery.result import GroupResult

from dynamo_tasks import StreamResult, app
from tests.support.door_calls import Caller

IS_CONNECTED = sys.argv[1] == "connected"
double = Caller.double
waiting: dict[str, Any] = {}
if IS_CONNECTED:
    for _ in range(3):
        assert double.delay(4).get(timeout=30) == 8
    assert group(double.s(1), double.s(2)).delay().get(timeout=30) == [2, 4]
    waiting["get"] = double.apply_async((1,), countdown=600)
    waiting["group get"] = group(double.s(number) for number in range(24)).apply_async(countdown=600)
    waiting["chord get"] = chord([double.s(1).set(countdown=600), double.s(2)], Caller.count.si(1)).delay()
    print("connected", flush=True)
    sys.stdin.readline()
    one: Any = waiting["get"]
else:
    one = StreamResult("somebody")

WAYS: dict[str, Callable[[], Any]] = {
    "delay": lambda: double.delay(4),
    "again": lambda: double.apply_async((4,), task_id="the-same"),
    "countdown": lambda: double.apply_async((4,), countdown=5),
    "group": lambda: group(double.s(1), double.s(2)).delay(),
    "chord": lambda: chord([double.s(1), double.s(2)], Caller.count.si(1)).delay(),
    "chain": lambda: chain(double.s(1), double.s()).delay(),
    "send_task": lambda: app.send_task("door.Caller.double", [4]),
    "plain": lambda: app.send_task("somebody.elses", [4]),
    "beat": lambda: app.tasks["door.Caller.double"].apply_async(
        (4,), producer=app.amqp.Producer(app.connection_for_write())
    ),
    "state": lambda: one.state,
    "ready": lambda: app.AsyncResult("another").ready(),
    "result": lambda: app.AsyncResult("one more").result,
    "record": one.record,
    "cancel": one.cancel,
    "revoke": one.revoke,
    "forget": one.forget,
    "restore": lambda: app.GroupResult.restore("a group"),
    "save": lambda: GroupResult("a group", [one], app=app).save(),
    "ping": lambda: app.control.ping(timeout=1),
    "inspect": lambda: app.control.inspect(timeout=1).active(),
    **{name: lambda result=result: result.get(timeout=3) for name, result in waiting.items()},
}


def outcome(way: str) -> list[Any]:
    began = time.monotonic()
    try:
        value = WAYS[way]()
    except Exception as exc:  # noqa: BLE001 - it is what is tested
        return [time.monotonic() - began, [kind.__name__ for kind in type(exc).__mro__], str(exc)]
    return [time.monotonic() - began, [], repr(value)]


with ThreadPoolExecutor(len(WAYS)) as pool:
    print(json.dumps(dict(zip(WAYS, pool.map(outcome, WAYS), strict=True))), flush=True)
