"""Rounds over many things of many owners: what is wrong with one of them ends nothing for the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.errors import DynamoError, InvalidRequestError, ProtocolError, ServerUnavailableError
from dynamo_tasks.frontend.responses.turns import Turns
from dynamo_tasks.services.batches.supervisor import BatchSupervisor
from dynamo_tasks.services.webhooks.announcer import Announcer
from dynamo_tasks.store.conversations import Opened

NAMES = [f"n{number}" for number in range(4)]


class Round:
    """Looks at things one after the other; the second one is broken."""

    def __init__(self, broken: Exception):
        self.broken = broken
        self.seen: list[str] = []

    async def look_at(self, name: str) -> None:
        self.seen.append(name)
        if name == NAMES[1]:
            raise self.broken

    async def page(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(objects=[SimpleNamespace(id=name, created=0.0) for name in NAMES], more=False)


def turns(round_: Round) -> Any:
    async def opened(limit: int, again: float) -> list[Opened]:
        return [Opened(name, "r") for name in NAMES]

    async def get(kind: Any, name: str, owner: Any) -> None:
        await round_.look_at(name)
        raise InvalidRequestError("no more of it is needed here")

    async def close(opened: Opened) -> None: ...

    conversations = SimpleNamespace(opened=opened, objects=SimpleNamespace(get=get), close=close)
    return Turns(SimpleNamespace(conversations=conversations), 1.0).sweep()  # type: ignore[arg-type]


def batches(round_: Round) -> Any:
    made = BatchSupervisor(SimpleNamespace(objects=round_), None, None)  # type: ignore[arg-type]
    made.look_after = round_.look_at  # type: ignore[method-assign]
    return made.look()


def notes(round_: Round) -> Any:
    client = SimpleNamespace(ledger=SimpleNamespace(get=round_.look_at))
    return Announcer(client, round_, None, None, ()).look()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [ProtocolError("unreadable"), InvalidRequestError("odd"), ValueError("odd")]
)
@pytest.mark.parametrize("rounds", [turns, batches])
def test_the_others_are_looked_at(rounds: Any, error: Exception) -> None:
    made = Round(error)
    asyncio.run(rounds(made))
    assert made.seen == NAMES


def test_notes_of_responses_too() -> None:
    made = Round(ProtocolError("unreadable"))
    made.look_at = _running(made.look_at)  # type: ignore[method-assign]
    asyncio.run(notes(made))
    assert made.seen == NAMES


def _running(before: Any) -> Any:
    async def look_at(name: str) -> Any:
        await before(name)
        return SimpleNamespace(state="RUNNING")

    return look_at


@pytest.mark.parametrize("rounds", [turns, batches])
def test_a_lost_connection_ends_the_round(rounds: Any) -> None:
    made = Round(ServerUnavailableError("away"))
    with pytest.raises(DynamoError):
        asyncio.run(rounds(made))
    assert made.seen == NAMES[:2]
