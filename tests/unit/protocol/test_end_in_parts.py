"""A large end of a request, read piece by piece, is what it is when it is read at once."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.states import State

ROWS = [[0.5] * 9000 for _ in range(20)]
VALUES: list[list[Any] | None] = [
    None, [], [None], [{"embeddings": ROWS, "prompt_tokens": 3}], [ROWS], [list(range(200_000))], ["x" * 300_000],
    [b"x" * 300_000], [{1: "y" * 200_000, "b": [[["z" * 200_000, {}]]] * 2}], ROWS,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_a_large_end_is_the_same_in_parts(number: int) -> None:
    end = End(State.SUCCEEDED, "stop", {"prompt_tokens": 3}, values=VALUES[number], previous="1-2")
    assert End.decode_in_parts(end.encode()) == End.decode(end.encode()) == end


WHOLE = End(State.SUCCEEDED, values=[{"embeddings": ROWS}]).encode()
BROKEN = {
    "cut": WHOLE[:-1], "a list": b"\x91" * 300_000, "a number": b"\x01" * 300_000, "nothing known": b"\xc1" * 300_000,
    "a deep value": b"\x81\xa6values" + b"\x91" * 300_000,
    "no list of values": b"\x81\xa6values\xda\xff\xff" + b"x" * 300_000,
    "no state": WHOLE.replace(b"\xa5state", b"\xa5stats"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_large_end_that_is_none_is_refused_in_parts(name: str) -> None:
    with pytest.raises(ProtocolError, match="cannot be read"):
        End.decode_in_parts(BROKEN[name])
