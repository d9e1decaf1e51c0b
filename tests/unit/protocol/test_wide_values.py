"""Values in a stream that are small as bytes and large in memory are refused; large texts are not."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import decode_values

COUNT = (8 << 20) + 1


@pytest.mark.parametrize("head", [b"\x90", b"\x80"])
def test_an_array_of_millions_of_empty_ones_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError, match="more than 8388608 arrays and maps"):
        decode_values(b"\xdd" + COUNT.to_bytes(4) + head * COUNT)


def test_a_large_text_of_any_script_is_read() -> None:
    text = "\u4e00\u0440" * (1 << 20)
    assert decode_values(msgspec.msgpack.encode([text])) == [text]
