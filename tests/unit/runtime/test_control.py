"""Orders to an instance as they travel."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.runtime.control import ControlDesk


def _answers(payload: bytes) -> list[Any]:
    """What an instance answers; it gives back the arguments of ``echo``, and refuses anything else."""
    posted: list[Any] = []

    async def carry_out(op: str, arguments: Mapping[str, Any]) -> str:
        if op != "echo":
            raise InvalidRequestError(f"{op}: unknown")
        return str(dict(arguments))

    async def work() -> None:
        commands = SimpleNamespace(post=lambda *command: posted.append(command))
        desk = ControlDesk(SimpleNamespace(commands=commands), carry_out)  # type: ignore[arg-type]
        desk.take(payload)
        await asyncio.gather(*desk._tasks)

    asyncio.run(work())
    return posted


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b'control echo where {"a": 1}', b'["{\'a\': 1}","",""]'),
        (b"control dance where {}", b'["","invalid_request_error","dance: unknown"]'),
    ],
)
def test_an_order_is_answered(payload: bytes, answer: bytes) -> None:
    assert _answers(payload) == [("PUBLISH", "where", answer)]


@pytest.mark.parametrize(
    "payload", [b"control echo where {", b"control echo where [1]", b"control echo where \xff"]
)
def test_arguments_that_cannot_be_read_are_refused(payload: bytes) -> None:
    ((_, _, answer),) = _answers(payload)
    assert b"protocol_error" in answer


@pytest.mark.parametrize(
    "payload", [b"control ", b"control echo", b"control echo where", b"control \xff\xfe"]
)
def test_what_nobody_could_be_answered_is_dropped(payload: bytes) -> None:
    assert _answers(payload) == []
