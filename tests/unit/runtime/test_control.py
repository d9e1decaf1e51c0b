"""Commands to an instance as they travel."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.errors import InvalidRequestError, ProtocolError
from dynamo_tasks.runtime.control import CommandHandler
from dynamo_tasks.store.keys import Keys
from tests.support.streams import eventually


def _answers(payload: bytes) -> list[Any]:
    """What an instance answers; it gives back the arguments of ``echo``, and refuses anything else."""
    posted: list[Any] = []

    async def handle(op: str, arguments: Mapping[str, Any]) -> str:
        if op != "echo":
            raise InvalidRequestError(f"{op}: unknown")
        return str(dict(arguments))

    async def work() -> None:
        commands = SimpleNamespace(post=lambda *command: posted.append(command))
        store: Any = SimpleNamespace(commands=commands, keys=Keys)
        handler = CommandHandler(store, "shop", handle)
        handler.take(payload)
        await eventually(lambda: posted)

    asyncio.run(work())
    return posted


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b'control echo dt:shop:answers:0:abc {"a": 1}', b'["{\'a\': 1}","",""]'),
        (b"control dance dt:shop:answers:0:abc {}", b'["","invalid_request_error","dance: unknown"]'),
    ],
)
def test_a_command_is_answered(payload: bytes, answer: bytes) -> None:
    assert _answers(payload) == [("PUBLISH", "dt:shop:answers:0:abc", answer)]


@pytest.mark.parametrize(
    "payload",
    [
        b"control echo dt:shop:answers:0:abc {",
        b"control echo dt:shop:answers:0:abc [1]",
        b"control echo dt:shop:answers:0:abc \xff",
    ],
)
def test_arguments_that_cannot_be_read_are_refused(payload: bytes) -> None:
    ((_, _, answer),) = _answers(payload)
    assert b"protocol_error" in answer


@pytest.mark.parametrize(
    "payload",
    [
        b"control ", b"control echo", b"control echo where", b"control \xff\xfe",
        *(b"control echo %s {}" % where for where in (
            b"/0.celery.pidbox", b"dt:shop:answers:1:abc", b"dt:other:answers:0:abc", b"dt:shop:answers:0:",
            b"dt:shop:alive:0:abc",
            b"dt:shop:answers:0:a/b", b"dt:shop:answers:0:" + b"a" * 65, b"xdt:shop:answers:0:abc", b"*", b"",
        )),
    ],
)  # fmt: skip
def test_what_nobody_waits_for_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        _answers(payload)
