"""Accounts of requests: one charge for each, and its reservation back, however it ends; and who would notice if not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dynamo_tasks.protocol.account import Account, Price
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.accounts.usage import Usage, UsageRow
from dynamo_tasks.store.ledger.forwarding import preempt
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.ledger.scripts import SOURCES, Script, assembled, script
from tests.support.server import RedisServer
from tests.support.streams import Place, on_loop

OWNER = "ab" * 32
USED = {"prompt_tokens": 10, "completion_tokens": 5}
DONE = End(State.SUCCEEDED, "stop", usage=USED)
Course = Callable[[Place, str], Awaitable[None]]


async def finished(place: Place, request_id: str) -> None:
    owner = await place.owner()
    log = await owner.run(request_id)
    assert await owner.finish(log, DONE) == "OK"


async def finished_and_cancelled(place: Place, request_id: str) -> None:
    await finished(place, request_id)
    assert await place.ledger.cancel(place.namespace, request_id) == "ENDED"


async def preempted_and_continued(place: Place, request_id: str) -> None:
    owner = await place.owner()
    assert await preempt(place.store, await owner.claim(request_id)) == "OK"
    await finished(place, request_id)


async def retried(place: Place, request_id: str) -> None:
    owner = await place.owner()
    await owner.ledger.release(await owner.claim(request_id), retries=0)
    await finished(place, request_id)


async def lost_and_continued(place: Place, request_id: str) -> None:
    owner = await place.owner()
    await owner.run(request_id)
    await owner.die()
    assert await Recovery(place.store).requeue(place.namespace, request_id, owner.lease) == "OK"
    await finished(place, request_id)


async def cancelled(place: Place, request_id: str) -> None:
    for outcome in ("OK", "ENDED"):
        assert await place.ledger.cancel(place.namespace, request_id) == outcome


async def expired(place: Place, request_id: str) -> None:
    for outcome in ("OK", "ENDED"):
        assert await place.ledger.expire(place.namespace, request_id, "late") == outcome


async def dead_letter(place: Place, request_id: str) -> None:
    outcomes = []
    for _ in range(3):
        owner = await place.owner()
        await owner.run(request_id)
        await owner.die()
        outcomes.append(await Recovery(place.store).requeue(place.namespace, request_id, owner.lease))
    assert outcomes == ["OK", "OK", "DEAD"]


# The course of a request; then how many of it failed, and its tokens of prompt and answer.
COURSES: list[tuple[Course, tuple[int, int, int]]] = [
    (finished, (0, 10, 5)),
    (finished_and_cancelled, (0, 10, 5)),
    (preempted_and_continued, (0, 10, 5)),
    (retried, (0, 10, 5)),
    (lost_and_continued, (0, 10, 5)),
    (cancelled, (1, 0, 0)),
    (expired, (1, 0, 0)),
    (dead_letter, (1, 12, 0)),
]


async def _counted_once(place: Place, course: Course, counts: tuple[int, int, int]) -> None:
    limits = KeyLimits(tokens_per_minute=1000, tokens_per_day=10_000)
    account = Account("llama", 12, 100, limits, 90, Price(input=1.0, output=2.0))
    request_id = await place.submit(owner_key=OWNER, account=account)
    assert await place.do("HGET", f"{place.keys.base}held:{OWNER}", "tokens") == b"112"
    await course(place, request_id)
    rows = await Usage(place.store, [place.namespace]).of_day(datetime.now(UTC).date())
    errors, prompt, answer = counts
    assert [_short(row) for row in rows] == [(1, errors, prompt, answer, 1000 * prompt + 2000 * answer)]
    assert not await place.do("EXISTS", f"{place.keys.base}held:{OWNER}")
    full_at = float(await place.do("GET", f"{place.keys.base}tokens:{OWNER}") or 0)
    seconds, micro = await place.do("TIME")
    now = int(seconds) * 1000 + int(micro) / 1000
    # A token is whole again after 60 ms; what was not used is given back.
    assert full_at - now <= 60 * (prompt + answer) + 1


@pytest.mark.parametrize("price", [Price(), Price(input=1.0, output=2.0)], ids=["free", "priced"])
@pytest.mark.parametrize(
    "limits",
    [
        KeyLimits(tokens_per_minute=1000),
        KeyLimits(tokens_per_day=10_000),
        KeyLimits(cost_per_day=1.0),
        KeyLimits(),
    ],
    ids=["minute", "day", "cost", "none"],
)
@on_loop
async def test_several_that_are_open_at_once(
    redis_server: RedisServer, limits: KeyLimits, price: Price
) -> None:
    account = Account("llama", 12, 100, limits, 90, price)
    async with Place(redis_server.url) as place:
        ids = [await place.submit(owner_key=OWNER, account=account) for _ in range(3)]
        for request_id in ids:
            await finished(place, request_id)
        [row] = await Usage(place.store, [place.namespace]).of_day(datetime.now(UTC).date())
        assert (row.requests, row.errors, row.prompt, row.answer) == (3, 0, 30, 15)
        assert not await place.do("EXISTS", f"{place.keys.base}held:{OWNER}")


@on_loop
async def test_a_charge_is_a_read_and_a_write(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()

        async def commands(**options: Any) -> Counter[str]:
            log = await owner.run(await place.submit(owner_key=OWNER, **options))
            await place.do("CONFIG", "RESETSTAT")
            assert await owner.finish(log, DONE) == "OK"
            text = (await place.do("INFO", "commandstats")).decode()
            calls = re.findall(
                r"^cmdstat_(hget|hset|hdel|hincrby|sadd|pexpire):calls=(\d+)", text, re.MULTILINE
            )
            return Counter({name: int(count) for name, count in calls})

        account = Account("llama", 12, 100, KeyLimits(), 90)
        first, without = await commands(account=account), await commands()
        assert first["sadd"], "the first one of a day notes the owner"
        assert await commands(account=account) - without == Counter(hget=1, hset=1)


def _short(row: UsageRow) -> tuple[int, ...]:
    return row.requests, row.errors, row.prompt, row.answer, row.cost


@pytest.mark.parametrize(("course", "counts"), COURSES, ids=[course.__name__ for course, _ in COURSES])
@on_loop
async def test_one_charge_however_it_ends(
    redis_server: RedisServer, course: Course, counts: tuple[int, int, int]
) -> None:
    async with Place(redis_server.url) as place:
        await _counted_once(place, course, counts)


FINISH_CHARGES = "  account_ends(log, r, state, used, tonumber(ttft))\n"
OTHERS_CHARGE = "    account_ends(log, r, state, '', -1)\n"
# Script or what it includes, a text of it, what is there instead; a course that shows it.
MUTANTS: list[tuple[str, str, str, Course]] = [
    ("finish", FINISH_CHARGES, "", finished),
    ("finish", FINISH_CHARGES, FINISH_CHARGES * 2, finished),
    ("lib/unowned", OTHERS_CHARGE, "", cancelled),
    ("lib/unowned", OTHERS_CHARGE, OTHERS_CHARGE * 2, expired),
    ("lib/charge", "    redis.call('DEL', key)\n  else", "  else", finished),
    ("lib/charge", "local change = (used - tokens) * step", "local change = 0", finished),
    ("lib/charge", "r.started and expected or 0", "0", dead_letter),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m[0]}-{n}" for n, m in enumerate(MUTANTS)])
@on_loop
async def test_a_charge_that_is_left_out_or_doubled_shows(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, mutant: tuple[str, str, str, Course]
) -> None:
    file, text, replacement, course = mutant
    assert text in SOURCES[file]
    sources = {**SOURCES, file: SOURCES[file].replace(text, replacement)}
    for name in (name for name in SOURCES if not name.startswith("lib/")):
        source = assembled(name, sources)
        monkeypatch.setattr(script(name), "source", source)
        monkeypatch.setattr(script(name), "sha", Script.digest(source))
    async with Place(redis_server.url) as place:
        with pytest.raises(AssertionError):
            await _counted_once(place, course, dict(COURSES)[course])
