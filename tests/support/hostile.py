"""What strangers publish and push: bytes that are no message, and messages that want what they must not have."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import pickle
import uuid
import zlib
from functools import cache
from typing import Any

import msgspec

__all__ = ["BOMBS", "CHANNEL_COMMANDS", "COMMANDS", "GARBAGE", "bomb", "command", "envelope"]

BOMB_SIZE = 100 << 20
"""Bytes that a compressed message stands for."""


def envelope(body: Any, **changes: Any) -> dict[str, Any]:
    """A message around a body, as kombu makes it; with some parts in the place of others."""
    return {
        "body": body if isinstance(body, str) else json.dumps(body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 1, "expires": 0},
        "properties": {
            "delivery_mode": 2, "priority": 0, "body_encoding": None, "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": ""},
        },
    } | changes  # fmt: skip


def command(body: Any, **changes: Any) -> bytes:
    """The same as it is published on the channel of remote control."""
    return json.dumps(envelope(body, **changes)).encode()


GARBAGE = [
    b"", b"[]", b"{}", b"1", b"null", b'"x"', b"x", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"9" * 5000,
    b"\x91" * 5000,    b"x" * 1_000_000, pickle.dumps(Exception("boom")), msgspec.msgpack.encode([[1, 2, 3, 4]]),
    msgspec.msgpack.encode([["a", "b", "c", b"d"]]),
]  # fmt: skip
CHANNEL_COMMANDS = [
    b"abort x", b"abort  ", b"abort a b c d", b"abort \xff 1 x", b"abort a 9" + b"9" * 5000, b"readers x",
    b"readers x y z", b"control",
    b"control ", b"control wake x", b"control \xff", b"control wake /0.celery.pidbox {}",
    b"control wake dt:dynamo:answers:0:abc [", b"stats", b"stats ", b"stats a", b"stats a b c",
    b"stats a 0 /0.celery.pidbox", b"stats \xff 0 \xff",
]  # fmt: skip
_PING = {"method": "ping", "arguments": {}, "ticket": "t"}
_BODIES: list[Any] = [
    [], {}, 1, None, "x", "[" * 50_000, '{"a":' * 50_000, "\xff", "{", {"method": 1}, {"method": "nothing"},
    *({"method": "ping", "arguments": one} for one in ([], 1, "x")),
    *(_PING | {"destination": one} for one in ("w", {}, [1], 5)),
    *(_PING | {"pattern": "(a|a)*b", "matcher": one} for one in ("pcre", "x", 1)),
    _PING | {"pattern": [], "matcher": "glob"},
    *(_PING | {"reply_to": one} for one in (
        [], "x", {}, {"exchange": "", "routing_key": "dynamo|Worker"}, {"exchange": "celeryev", "routing_key": "x"},
        {"exchange": "reply.celery.pidbox", "routing_key": "a\x06\x16b"}, {"exchange": [], "routing_key": {}},
    )),
    *({"method": "revoke", "arguments": {"task_id": one}} for one in ([1, {}, [], None], {"a": 1}, 5)),
    {"method": "rate_limit", "arguments": {"task_name": [], "rate_limit": {}}},
    {"method": "time_limit", "arguments": {"task_name": {}, "soft": "x", "hard": []}},
    {"method": "query_task", "arguments": {"ids": {"a": []}}},
    *({"method": "hello", "arguments": {"from_node": [], "revoked": one}} for one in (5, {"a": "b"})),
    {"method": "election", "arguments": {"id": 1, "topic": [], "action": {}}},
    *({"method": "add_consumer", "arguments": {"queue": one}} for one in ([], {"a": 1}, 5, None)),
    {"method": "add_consumer", "arguments": {"queue": "x", "exchange": 5, "exchange_type": "y"}},
    *({"method": "cancel_consumer", "arguments": {"queue": one}} for one in ({}, [], "not there")),
    {"method": "pool_restart", "arguments": {"modules": ["os"], "reload": True}},
    {"method": "autoscale", "arguments": {"max": "x"}}, {"method": "memdump", "arguments": {"samples": "x"}},
    {"method": "revoke_by_stamped_headers", "arguments": {"headers": 5}},
    {"method": "terminate", "arguments": {"signal": "x", "task_id": 5}},
]  # fmt: skip
COMMANDS = [
    *map(command, _BODIES),
    *(command(_PING, properties=one) for one in ([], {}, {"delivery_tag": 5})),
    command(_PING, properties={"delivery_tag": "x", "delivery_info": 5}),
    *(command(_PING, headers=one) for one in ([], "x", {"clock": "x"}, {"clock": 2**64}, {"clock": -1}, {"clock": {}})),
    command(_PING, **{"content-type": "application/x-python-serialize"}),
]  # fmt: skip


def _packed(data: bytes, **changes: Any) -> dict[str, Any]:
    message = envelope(base64.b64encode(data).decode(), **changes)
    message["properties"]["body_encoding"] = "base64"
    return message


KINDS = {
    "application/x-gzip": zlib.compress, "bzip2": bz2.compress, "lzma": lzma.compress, "zstd": zlib.compress,
    "brotli": zlib.compress, "nothing": zlib.compress,
}  # fmt: skip
CODECS = {"zlib_codec": zlib.compress, "zip": zlib.compress, "bz2_codec": bz2.compress, "uu": zlib.compress}
"""kombu decodes what has no serializer by the encoding that the message names, and Python's codecs unpack."""
BOMBS = [*KINDS, *CODECS]


@cache
def bomb(name: str) -> dict[str, Any]:
    """A message of a few 100 kB that stands for a thousand times as much; ``name`` is one of :data:`BOMBS`."""
    zeros = b"0" * BOMB_SIZE
    if name in KINDS:
        return _packed(KINDS[name](zeros), headers={"compression": name})
    more = {"content-type": "application/data", "content-encoding": name}
    return _packed(CODECS[name](zeros), **more)
