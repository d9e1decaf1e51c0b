"""What a newer release may add, an older one passes over (docs/upgrading.md)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dynamo_tasks.frontend.openai.collect import CompletionCollector, ValueCollector
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.frontend.openai.values import ValueRenderer
from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.protocol.states import State
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas, encode_deltas
from dynamo_tasks.queue.broker.envelope import CallHeader
from dynamo_tasks.queue.client.result import values_of
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.record import read_record
from dynamo_tasks.store.streams.subscription import Cursor, Verdict

NEWS = Event(EventId(5, 2), "x", b"\xc1 no msgpack")
TOKENS = Event(EventId(5, 1), "t", encode_deltas([TokenDelta("hi", [1])]))
RENDER = Render("completions", "1", "m", 1)


def test_unknown_fields_of_messages() -> None:
    info = InstanceInfo(component="c", endpoint="e", namespace="n", lease_id=1, transport={})
    told = msgspec.json.decode(info.encode()) | {"news": [1], "version": 2}
    assert InstanceInfo.decode(msgspec.json.encode(told)).version == 2
    assert msgspec.json.decode(b'{"in_flight": 3, "news": 1}', type=Load).in_flight == 3
    header = {"v": 2, "options": {"background": True, "news": 1}, "news": 1}
    assert msgspec.convert(header, CallHeader).options.background
    end = msgspec.msgpack.encode({"state": "SUCCEEDED", "finish_reason": "stop", "news": {}})
    assert End.decode(end) == End(State.SUCCEEDED, "stop")
    assert Claim.decode(b"0-0|1|ff|news") == Claim(ZERO, 1, 255)


def test_a_longer_delta() -> None:
    row = ["hi", [1], 0, None, None, None, None, None, "news"]
    assert decode_deltas(msgspec.msgpack.encode([row])) == [TokenDelta("hi", [1])]


def test_unknown_fields_of_a_record() -> None:
    raw = {
        Field.STATE.encode(): b"QUEUED",
        Field.ENDPOINT.encode(): b"a.b.c",
        Field.NEEDS.encode(): b"2",
        b"news": b"1",
    }
    assert read_record("r", "a", raw).state is State.QUEUED


def test_unknown_events_have_no_values_and_no_gap() -> None:
    cursor = Cursor(TOKENS.id)
    assert cursor.pushed(NEWS) is Verdict.APPLY
    assert cursor.pushed(Event(EventId(5, 3), "t", b"")) is Verdict.APPLY
    assert values_of(NEWS) == []


def test_a_frontend_renders_what_it_knows() -> None:
    for renderer in (CompletionRenderer(RENDER), ValueRenderer()):
        assert renderer.render([NEWS]) == b""
        assert b"hi" in renderer.render([TOKENS, NEWS])
    completion, values = CompletionCollector(RENDER), ValueCollector()
    for collector in (completion, values):
        collector.take(NEWS)
    completion.take(TOKENS)
    assert completion.body(End(State.SUCCEEDED, "stop"))["choices"][0]["text"] == "hi"


@pytest.mark.parametrize("command", [b"news", b"news r 1", b"news r x y z", b""])
def test_unknown_commands_are_passed_over(command: bytes) -> None:
    store: Any = SimpleNamespace(address=None)

    async def take() -> None:
        WorkerContext(store, 1, {}).on_command(b"alive", command)

    asyncio.run(take())
