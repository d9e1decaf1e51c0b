"""Bodies that were compressed or encoded: unpacked within bounds, or refused."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import zlib
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport.virtual import Base64

from dynamo_tasks.queue.broker.message import (
    MAX_MESSAGE,
    BrokerMessage,
    MalformedMessageError,
    decode,
    inflate,
)

PACKERS = {
    "application/x-gzip": zlib.compress, "gzip": zlib.compress, "zlib": zlib.compress,
    "application/x-bz2": bz2.compress, "bzip2": bz2.compress, "bzip": bz2.compress,
    "application/x-lzma": lzma.compress, "lzma": lzma.compress, "xz": lzma.compress,
}  # fmt: skip
BODY = json.dumps([[{"prompt": "hi"}], {}, {}]).encode()


@pytest.mark.parametrize("name", PACKERS)
def test_what_celery_compresses_is_unpacked(name: str) -> None:
    assert inflate(PACKERS[name](BODY), name, 1000) == BODY
    assert inflate(PACKERS[name](BODY), name, len(BODY)) == BODY


@pytest.mark.parametrize("name", PACKERS)
def test_one_byte_more_than_the_bound_is_refused(name: str) -> None:
    packed = PACKERS[name](BODY)
    for data, most in (
        (packed, len(BODY) - 1),
        (packed[:-1], 1000),
        (packed[: len(packed) // 2], 1000),
        (b"", 1000),
    ):
        with pytest.raises(ValueError, match=r"more than|is no"):
            inflate(data, name, most)
    with pytest.raises(ValueError, match=r"is no|more than"):
        inflate(b"no such thing", name, 1000)


@pytest.mark.parametrize(
    "name", ["zstd", "brotli", "application/zstd", "", "GZIP", None, 5, ["gzip"], {"a": 1}]
)
def test_a_compression_without_a_bound_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="is not taken: gzip, bzip2 and lzma are"):
        inflate(zlib.compress(BODY), name, 1000)


def test_an_archive_that_asks_for_gigabytes_of_dictionary_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 28}]
    with pytest.raises(ValueError, match="is no lzma"):
        inflate(lzma.compress(BODY, filters=filters), "lzma", 1000)


def payload(body: str, **changes: Any) -> dict[str, Any]:
    return {
        "body": body, "content-encoding": "utf-8", "content-type": "application/json", "headers": {},
        "properties": {
            "delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": "q"}, "body_encoding": "base64",
        },
    } | changes  # fmt: skip


def channel() -> Any:
    codec = Base64()
    return SimpleNamespace(decode_body=lambda body, encoding=None: codec.decode(body) if encoding else body)


def test_a_compressed_message_is_read() -> None:
    sent = payload(base64.b64encode(zlib.compress(BODY)).decode(), headers={"compression": "gzip", "id": "1"})
    message = BrokerMessage(sent, channel=channel(), accept={"application/json"})
    assert message.decode() == json.loads(BODY)
    assert sent["headers"] == {"compression": "gzip", "id": "1"}


@pytest.mark.parametrize(
    "codec", ["zlib_codec", "zip", "bz2", "uu", "hex", "rot13", "utf-7", "idna", 5, ["utf-8"]]
)
def test_an_encoding_that_could_unpack_is_refused(codec: object) -> None:
    with pytest.raises(MalformedMessageError):
        BrokerMessage(payload("x", **{"content-encoding": codec}), channel=channel())


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"a":' * 100_000, b"{" + b" " * MAX_MESSAGE + b"}", b"\xff", b"1"]
)
def test_what_is_no_message_of_a_reasonable_size_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(raw)


@pytest.mark.parametrize("piece", ["[]", "{}"])
def test_a_body_that_is_wide_is_refused(piece: str) -> None:
    wide = f"[{','.join([piece] * ((2 << 20) + 1))}]"
    with pytest.raises(MalformedMessageError, match="more than 2097152 arrays and objects"):
        BrokerMessage(
            payload(wide, properties=payload("")["properties"] | {"body_encoding": None}), channel=channel()
        )
