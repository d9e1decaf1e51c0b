"""A script that waits for results in other threads than those that made the calls; see ``test_other_threads``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery import chord, group
from celery.result import ResultSet

from dynamo_tasks import app
from tests.support.door_calls import Caller, plain

double, slow, count = Caller.double, Caller.slow, Caller.count
pool = ThreadPoolExecutor(4)
WAIT = 60


def pair() -> Any:
    return group(slow.s(1), slow.s(2)).delay()


def ended() -> Any:
    """A group whose results are there before anybody waits."""
    made = group(double.s(1), double.s(2)).delay()
    for one in made.results:
        assert app.AsyncResult(one.id).get(timeout=WAIT)
    return made


def elsewhere(wait: Callable[[], Any]) -> Any:
    return pool.submit(wait).result()


def of_threads() -> Any:
    return ResultSet(list(pool.map(slow.delay, (1, 2, 3))))


def twice(result: Any) -> Any:
    return [one.result() for one in [pool.submit(result.get, timeout=WAIT) for _ in range(2)]]


def here_and_there(result: Any) -> Any:
    there = pool.submit(result.get, timeout=WAIT)
    return [result.get(timeout=WAIT), there.result()]


def failed(result: Any) -> str:
    try:
        elsewhere(lambda: result.get(timeout=WAIT))
    except KeyError as exc:
        return str(exc.args[0])
    return "nothing"


def got(result: Any) -> Any:
    return elsewhere(lambda: result.get(timeout=WAIT))


WAYS: dict[str, Callable[[], Any]] = {
    "group": lambda: got(pair()),
    "ended": lambda: got(ended()),
    "join": lambda: (lambda made: elsewhere(lambda: made.join(timeout=WAIT)))(pair()),
    "join_native": lambda: (lambda made: elsewhere(lambda: made.join_native(timeout=WAIT)))(pair()),
    "iterate": lambda: (
        lambda made: elsewhere(lambda: sorted(r[1]["result"]["n"] for r in made.iter_native()))
    )(pair()),
    "to_thread": lambda: (lambda made: asyncio.run(asyncio.to_thread(made.get, timeout=WAIT)))(pair()),
    "chord": lambda: got(chord([slow.s(1), slow.s(2)], count.si(3)).delay()),
    "header": lambda: got(chord([slow.s(1), slow.s(2)], count.si(3)).delay().parent),
    "set": lambda: got(ResultSet([slow.delay(1), slow.delay(2)])),
    "made in threads": lambda: of_threads().get(timeout=WAIT),
    "made in threads, waited for in another": lambda: got(of_threads()),
    "nested": lambda: got(group(slow.s(1), group(slow.s(2), slow.s(3))).delay()),
    "two wait": lambda: twice(pair()),
    "here and there": lambda: here_and_there(pair()),
    "failed": lambda: failed(group(double.s(1), Caller.fail.s("why")).delay()),
    "plain and not": lambda: got(group(plain.s(1), slow.s(2)).delay()),
    "not and plain": lambda: got(group(slow.s(1), group(plain.s(2), plain.s(3))).delay()),
    "chord of both": lambda: got(chord([plain.s(1), slow.s(2)], count.si(3)).delay()),
    "chain of both": lambda: got((plain.s(1) | count.s()).delay()),
    "set of both": lambda: got(ResultSet([plain.delay(1), slow.delay(2)])),
    "many": lambda: got(group(double.s(n) for n in range(60)).delay()),
}

assert double.delay(4).get(timeout=WAIT) == 8
print(json.dumps({name: way() for name, way in WAYS.items()}))
