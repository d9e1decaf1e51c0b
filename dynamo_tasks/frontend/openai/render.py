"""Server-sent events of completions, from the events of a stream.

One log event becomes one SSE event that carries its id, so a client can go on after any of them. A
renderer needs only the stored :class:`Render` and the events: any frontend can render the rest of a stream
that another one began. The token path puts bytes together; only the text itself is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import DynamoError, ProtocolError
from dynamo_tasks.frontend.http.errors import error_body
from dynamo_tasks.frontend.openai.logprobs import logprobs_of
from dynamo_tasks.protocol.events import UNREADABLE, ZERO, Claim, End, Event, Kind, decode_values
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas, merge_delta

__all__ = [
    "DONE",
    "CompletionRenderer",
    "EndsWithDone",
    "Render",
    "Renderer",
    "as_delta",
    "attempt_comment",
    "error_event",
    "one_line",
    "usage_of",
    "values_of",
]

DONE = b"data: [DONE]\n\n"
"""The last SSE event of every stream."""

_json = msgspec.json.Encoder().encode
_MORE_ENDS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)
_TOKENS, _CLAIM, _END = str(Kind.TOKENS), str(Kind.CLAIM), str(Kind.END)


class _Stored(Struct, array_like=True):
    """A render without its id, as it is stored; new fields go to the end."""

    api: str
    model: str
    created: int
    include_usage: bool
    n: int
    extra: bytes = b""
    tier: str = ""


_decode_stored = msgspec.msgpack.Decoder(_Stored).decode


class Render(Struct, frozen=True):
    """The data that rendering a completion takes besides its events; stored with the request.

    Attributes:
        api: The name of the API that the request came by.
        id: The request's id.
        model: As the client named it.
        created: Seconds since 1970.
        include_usage: Whether the stream ends with a usage chunk.
        n: Number of choices.
        extra: What else the API needs, encoded by itself.
        tier: Service tier that is shown; empty = none was asked for.
    """

    api: str
    id: str
    model: str
    created: int
    include_usage: bool = False
    n: int = 1
    extra: bytes = b""
    tier: str = ""

    @property
    def completion_id(self) -> str:
        """OpenAI's ``id``: ``chatcmpl-<id>`` or ``cmpl-<id>``."""
        return f"{'chatcmpl' if self.api == 'chat' else 'cmpl'}-{self.id}"

    def encode(self) -> bytes:
        """Encode as msgpack, without the id: a record of short fields alone takes a fourth of the memory."""
        stored = (self.api, self.model, self.created, self.include_usage, self.n, self.extra, self.tier)
        used = 7 if self.tier else 6 if self.extra else 5
        return msgspec.msgpack.encode(stored[:used])

    @classmethod
    def decode(cls, data: bytes, request_id: str) -> Render:
        """Decode from msgpack; what a newer peer has added is ignored.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            api, *rest = msgspec.structs.astuple(_decode_stored(data))
        except UNREADABLE as exc:
            raise ProtocolError(f"how to render a request cannot be read: {exc}") from exc
        return cls(api, request_id, *rest)


class Renderer(Protocol):
    """Turns batches of events into bytes of an SSE stream.

    Attributes:
        tokens: Tokens rendered so far.
        ended: Whether the end event was rendered.
        error: How the request failed, once it did.
        usage: The request's token counts, once known.
    """

    tokens: int
    ended: bool
    error: DynamoError | None
    usage: dict[str, int] | None

    def opening(self) -> bytes:
        """The SSE bytes that come before any event of the stream, at once; may be empty."""
        ...

    def render(self, events: Sequence[Event]) -> bytes:
        """The SSE bytes of some events; may be empty."""
        ...

    def close(self, error: DynamoError | None) -> bytes:
        """The last SSE bytes of a stream whose end event does not come.

        Args:
            error: Why the stream cannot be read any further; ``None`` = the reader has had its end before.
        """
        ...


class EndsWithDone:
    """Renderers of streams whose last line is ``[DONE]``."""

    def opening(self) -> bytes:
        """Nothing comes before the first event."""
        return b""

    def close(self, error: DynamoError | None) -> bytes:
        """The error, if there is one, and the last line."""
        return DONE if error is None else error_event(error) + DONE


class CompletionRenderer(EndsWithDone):
    """Chunks of ``chat.completion.chunk`` or ``text_completion``."""

    def __init__(self, render: Render):
        chat = render.api == "chat"
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        self._render = render
        self._chat = chat
        tier = b'"service_tier":%b,' % _json(render.tier) if render.tier else b""
        self._head = b'{"id":%b,"object":"%b","created":%d,"model":%b,%b"choices":[' % (
            _json(render.completion_id), kind, render.created, _json(render.model), tier,
        )  # fmt: skip
        self._close = b'],"usage":null}\n\n' if render.include_usage else b"]}\n\n"
        self._open_choice = b'{"index":%d,"delta":{"content":' if chat else b'{"index":%d,"text":'
        self._end_text = b'},"logprobs":' if chat else b',"logprobs":'
        self._fast_head = self._head + self._open_choice % 0
        self._fast_tail = self._end_text + b'null,"finish_reason":null}' + self._close
        self._text_open = False
        self.tokens = 0
        self.ended = False
        self.error: DynamoError | None = None
        self.usage: dict[str, int] | None = None

    def render(self, events: Sequence[Event]) -> bytes:
        """The SSE bytes of some events; empty for none."""
        out: list[bytes] = []
        head, tail, decode, encode = self._fast_head, self._fast_tail, decode_deltas, _json
        for event in events:
            if event[1] != _TOKENS:
                out.append(self._other(event))
                continue
            deltas = decode(event[2])
            # The token path: one delta of one choice, of which all but its text is the same bytes each time.
            if (
                len(deltas) == 1
                and (delta := deltas[0]).finish_reason is None
                and not delta.index
                and delta.logprobs is None
                and delta.message is None
            ):
                self.tokens += len(delta.token_ids)
                self._text_open = True
                out.append(b"id: %d-%d\ndata: %b%b%b" % (*event[0], head, encode(delta.text), tail))
            else:
                out.append(self._chunk(event, deltas))
        return one_line(b"".join(out))

    def _other(self, event: Event) -> bytes:
        if event.kind == _CLAIM:
            return self._claim(event)
        if event.kind == _END:
            return self._end(event)
        deltas: list[TokenDelta] = []
        for value in values_of(event):
            merge_delta(deltas, as_delta(value))
        return self._chunk(event, deltas) if deltas else b""

    def _event(self, event: Event, choices: bytes) -> bytes:
        return b"id: %d-%d\ndata: %b%b%b" % (*event.id, self._head, choices, self._close)

    def _claim(self, event: Event) -> bytes:
        claim = Claim.decode(event.data)
        # Another attempt goes on in the same message: clients have seen its role.
        if claim.previous != ZERO:
            return attempt_comment(claim)
        if not self._chat:
            return b""
        choice = (
            b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        )
        self._text_open = True
        return self._event(event, b",".join(choice % index for index in range(self._render.n)))

    def _chunk(self, event: Event, deltas: list[TokenDelta]) -> bytes:
        for delta in deltas:
            self.tokens += len(delta.token_ids)
            self._text_open = delta.finish_reason is None
            self.usage = delta.usage or self.usage
        return self._event(event, b",".join(self._choice(delta) for delta in deltas))

    def _choice(self, delta: TokenDelta) -> bytes:
        logprobs = b"null"
        if delta.logprobs is not None:
            logprobs = _json(logprobs_of(self._render.api, delta.logprobs))
        reason = _json(delta.finish_reason)
        if delta.message is not None:
            message = _json(delta.message.as_delta())
            whole = b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}'
            return whole % (delta.index, message, logprobs, reason)
        head = self._open_choice % delta.index
        return b'%b%b%b%b,"finish_reason":%b}' % (head, _json(delta.text), self._end_text, logprobs, reason)

    def _end(self, event: Event) -> bytes:
        end = End.decode(event.data)
        self.ended = True
        self.usage = end.usage or self.usage
        self.error = end.failure()
        if self.error is not None:
            return b"id: %d-%d\n%b%b" % (*event.id, error_event(self.error), DONE)
        out = b"id: %d-%d\n" % event.id
        if self._text_open:
            # The endpoint did not say in its chunks why it ended.
            out += b"data: %b%b%b" % (self._head, self._finish(end.finish_reason or "stop"), self._close)
        if self._render.include_usage:
            usage = _json(usage_of(self.usage, self.tokens))
            out += b'data: %b],"usage":%b}\n\n' % (self._head, usage)
        return out + DONE

    def _finish(self, reason: str) -> bytes:
        delta = b'{"index":%d,"delta":{}' if self._chat else b'{"index":%d,"text":""'
        rest = b',"logprobs":null,"finish_reason":%b}' % _json(reason)
        return b",".join(delta % index + rest for index in range(self._render.n))


def one_line(body: bytes) -> bytes:
    """Escape characters of JSON strings that some readers take for line ends; the events stay the same.

    An event ends at a line feed or carriage return, which JSON escapes. But Python's ``splitlines``, JavaScript's old
    grammar and others know more ends of lines: NEL, LINE SEPARATOR and PARAGRAPH SEPARATOR.
    """
    if body.isascii():
        return body
    for character, escaped in _MORE_ENDS:
        if character in body:
            body = body.replace(character, escaped)
    return body


def values_of(event: Event) -> list[Any]:
    """The values of a ``c`` event; none of a kind that only a newer release knows."""
    return decode_values(event.data) if event.kind == Kind.VALUES else []


def attempt_comment(claim: Claim) -> bytes:
    """An SSE comment that shows people that another attempt goes on; one line, see :data:`.sse.KEEP_ALIVE`."""
    return b": attempt %d\n" % claim.attempt


def error_event(error: DynamoError) -> bytes:
    """An error as it is shown within a stream."""
    return one_line(b"data: %b\n\n" % _json(error_body(error)))


def usage_of(usage: dict[str, int] | None, counted: int = 0) -> dict[str, Any]:
    """OpenAI's ``usage`` object.

    Args:
        usage: ``{"prompt_tokens", "completion_tokens", "cached_tokens"}``.
        counted: Completion tokens, where the endpoint does not say.
    """
    found = usage or {}
    prompt, completion = found.get("prompt_tokens", 0), found.get("completion_tokens", counted)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": found.get("cached_tokens", 0)},
    }


def as_delta(value: Any) -> TokenDelta:
    """A value that an endpoint of another kind yielded, as text."""
    if isinstance(value, dict) and "text" in value:
        return TokenDelta.from_dict(value)
    return TokenDelta(value if isinstance(value, str) else _json(value).decode())
