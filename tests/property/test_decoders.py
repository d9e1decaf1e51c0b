"""Whatever bytes come from the server, a socket or a command line: a valid value, or an error of our tree."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynamo_tasks.config.host.tls import complete_url
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.frontend.openai.values import ValueRenderer, parse_position
from dynamo_tasks.observe import mask_url
from dynamo_tasks.protocol.events import Claim, End, Event, EventId, Kind, decode_pushed, decode_values
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.openai import ChatRequest, CompletionRequest, EmbeddingRequest, parse_request
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.tokens import decode_deltas
from dynamo_tasks.protocol.trace import TraceParent
from dynamo_tasks.queue.broker.message import BrokerMessage, MalformedMessageError
from dynamo_tasks.queue.broker.message import decode as decode_message
from dynamo_tasks.serve.server.resp import PingAddress
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.record import read_record
from dynamo_tasks.store.redis.wire import Address
from dynamo_tasks.store.streams.at_rest import decode_row
from dynamo_tasks.store.streams.subscription import Cursor

EXAMPLES = int(os.environ.get("DECODER_EXAMPLES", 40))
"""Of each kind; more are a matter of minutes: `DECODER_EXAMPLES=5000`."""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DEEP = b"\x91" * 5000 + b"\x01"
MSGPACK = JSON.map(msgspec.msgpack.encode)


def nearly(valid: bytes) -> st.SearchStrategy[bytes]:
    """A valid encoding with a few bytes changed, or cut off."""
    edit = st.tuples(st.integers(0, max(0, len(valid) - 1)), st.binary(max_size=3))

    def edited(edits: list[tuple[int, bytes]], cut: int) -> bytes:
        data = valid
        for at, more in edits:
            data = data[:at] + more + data[at + 1 :]
        return data[:cut]

    return st.builds(edited, st.lists(edit, max_size=3), st.integers(0, len(valid)))


def valid_or_ours(decode: Callable[..., Any], *arguments: Any) -> Any:
    """Whatever else is raised fails the test."""
    with contextlib.suppress(DynamoError):
        return decode(*arguments)


END = End("SUCCEEDED", "stop", {"prompt_tokens": 1}).encode()  # type: ignore[arg-type]
INFO = InstanceInfo("c", "e", "n", 1, {"celery": "q"}).encode()
RENDER = Render("chat", "id", "m", 1, False, 1).encode()
PUSHED = msgspec.msgpack.encode([["id", "1-0", "k", b"0-0|1|a"]])
BYTES: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "claim": (Claim.decode, b"0-0|1|a"),
    "end": (End.decode, END),
    "tokens": (decode_deltas, msgspec.msgpack.encode([["a", [1]]])),
    "values": (decode_values, msgspec.msgpack.encode([{"a": 1}])),
    "pushed": (decode_pushed, PUSHED),
    "instance": (InstanceInfo.decode, INFO),
    "load": (Load.decode, b'{"in_flight": 1}'),
    "render": (lambda data: Render.decode(data, "id"), RENDER),
    "body": (decode_object, b'{"a": [1]}'),
}
BOMB = pickle.dumps(Exception("boom"))


@pytest.mark.parametrize("name", BYTES)
def test_bytes(name: str) -> None:
    decode, valid = BYTES[name]

    @settings(max_examples=EXAMPLES)
    @given(st.binary(max_size=200) | MSGPACK | JSON.map(msgspec.json.encode) | nearly(valid))
    @example(DEEP)
    @example(b"[" * 5000)
    @example(BOMB)
    @example(b"9" * 5000)
    def check(data: bytes) -> None:
        valid_or_ours(decode, data)

    check()
    assert decode(valid) is not None


NUMBERS = st.integers(0, 2**70).map(str) | st.sampled_from(["9" * 5000, "-1", "٣", "1_0", " 1", "+1", ""])
ID_LIKE = st.builds(
    lambda a, b, c: f"{a}{c}{b}", NUMBERS, NUMBERS, st.sampled_from(["-", ".", "--", "-1.", ""])
)


@pytest.mark.parametrize(
    "decode",
    [EventId.parse, parse_position, EndpointId.parse, TraceParent.parse],
    ids=lambda decode: decode.__qualname__,
)
def test_texts(decode: Callable[[str], Any]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.text(max_size=50) | ID_LIKE)
    def check(text: str) -> None:
        valid_or_ours(decode, text)

    check()


@settings(max_examples=EXAMPLES)
@given(ID_LIKE)
def test_an_event_id_is_one_that_the_server_takes(text: str) -> None:
    found = valid_or_ours(EventId.parse, text)
    assert found is None or (
        0 <= found.epoch < 2**64 and 0 <= found.seq < 2**64 and EventId.parse(str(found)) == found
    )


SENTINELS = ["a:1,b", "u:p%40@a,[::1]:2", "a;sentinel://b:2", "a;sentinel://[", "a,[", "a,,b", "%00,a"]
URLS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["redis://", "rediss://", "unix://", "http://", "sentinel://", "", "redis:"]),
        st.text(max_size=20) | st.sampled_from(["[::1]:6379", "u:p@h:1", "h:99999", "h:x", "[", "@", "h:-1"])
        | st.sampled_from(SENTINELS),
        st.sampled_from([
            "", "/0", "/x", "/99999999999999999999", "?db=x", "?db=1", "/0?ssl_cert_reqs=x", "?ssl_cert_reqs=none",
            "?socket_timeout=x", "?ssl_ca_certs=%00", "?password=%ff", "/m/0", "/m/²", "/²", "/m%2Fn/1",
            "?master_name=m", "/1?master_name=m&sentinel_password=%ff",
        ]),
    ),
)  # fmt: skip


@settings(max_examples=EXAMPLES)
@given(URLS)
def test_urls(url: str) -> None:
    for parse in (Address.parse, PingAddress.parse, complete_url):
        found = valid_or_ours(parse, url)
        if isinstance(found, Address) and found.sentinels:
            assert Address.parse(found.url) == found
            assert Address.parse(found.broker_url, found.broker_options) == found
    mask_url(url)


FIELDS = st.sampled_from([field.encode() for field in Field])


@settings(max_examples=EXAMPLES)
@given(
    st.dictionaries(
        FIELDS, st.binary(max_size=20) | st.sampled_from([b"QUEUED", b"1", b"{}", b"1-0"]), max_size=12
    )
)
def test_records(raw: dict[bytes, bytes]) -> None:
    valid_or_ours(read_record, "id", "ns", {Field.STATE.encode(): b"QUEUED", **raw})


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=20), st.lists(st.binary(max_size=20), max_size=4))
def test_rows_of_a_log(event_id: bytes, fields: list[bytes]) -> None:
    valid_or_ours(decode_row, [event_id, fields])


KINDS = st.sampled_from([*Kind, "x", ""])
PAYLOADS = st.binary(max_size=60) | MSGPACK | nearly(END) | nearly(b"0-0|1|a")


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), KINDS, PAYLOADS), max_size=5))
@example([(1, 1, Kind.TOKENS, b"\x90")])
def test_readers_and_renderers(rows: list[tuple[int, int, str, bytes]]) -> None:
    """A log that holds anything: judged by a cursor, rendered for a client."""
    events = [Event(EventId(epoch, seq), kind, data) for epoch, seq, kind, data in rows]
    cursor = Cursor()
    for event in events:
        valid_or_ours(cursor.pushed, event)
        valid_or_ours(cursor.stored, event)
    for renderer in (ValueRenderer(), CompletionRenderer(Render.decode(RENDER, "id"))):
        valid_or_ours(renderer.render, events)


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=100) | JSON.map(msgspec.json.encode))
@example(BOMB)
def test_entries_of_a_queue(raw: bytes) -> None:
    with contextlib.suppress(MalformedMessageError):
        BrokerMessage(decode_message(raw))


NAMES = st.sampled_from([
    "model", "messages", "prompt", "input", "stop", "n", "stream", "logit_bias", "max_tokens", "tools", "user", "seed",
    "content", "role", "stream_options", "response_format", "temperature", "logprobs", "max_token", "retention",
])  # fmt: skip
BODIES = st.dictionaries(
    NAMES | st.text(max_size=10), JSON | st.just([{"role": "user", "content": "x"}]) | st.just("x")
)


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest, EmbeddingRequest])
def test_bodies_of_requests(kind: type[Any]) -> None:
    @settings(max_examples=EXAMPLES)
    @given(BODIES)
    def check(body: dict[str, Any]) -> None:
        valid_or_ours(parse_request, kind, body)
        if "model" in body:
            valid_or_ours(
                parse_request,
                kind,
                {**body, "model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x"},
            )

    check()
