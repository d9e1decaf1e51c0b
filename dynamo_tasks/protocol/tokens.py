"""Token deltas: what an LLM endpoint yields, and its compact form on the wire.

On the wire a delta is a msgpack array whose trailing defaults are left out:
``[text, token_ids, index, finish_reason, logprobs, usage, message, stop]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.messages import MessageDelta, merge_messages

__all__ = [
    "CompletionAggregate",
    "TokenDelta",
    "decode_deltas",
    "emitted_ids",
    "encode_deltas",
    "finished",
    "is_complete",
    "merge_delta",
    "several_prompts",
]


class TokenDelta(msgspec.Struct, array_like=True):
    """A piece of generated text.

    Attributes:
        text: New text; may be empty while a multi-byte character or a stop string is open.
        token_ids: The ids of the new tokens.
        index: Which of the ``n`` choices.
        finish_reason: ``stop``, ``length`` or ``tool_calls`` on the last delta of a choice.
        logprobs: Where asked for, one entry per token: ``{"token", "logprob", "bytes", "top_logprobs",
            "text_offset"}``, as in OpenAI's chat API, and where the token begins in the answer's text.
        usage: ``{"prompt_tokens", "completion_tokens", "cached_tokens"}`` on the last delta of the request.
        message: What a parser read in the answer, this text included; ``None`` where none reads it.
        stop: The stop string that ended the choice, on its last delta; ``None`` where something else did.
    """

    text: str = ""
    token_ids: list[int] = []
    index: int = 0
    finish_reason: str | None = None
    logprobs: list[Any] | None = None
    usage: dict[str, int] | None = None
    message: MessageDelta | None = None
    stop: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The chunk as application code sees it: ``{"text", "token_ids", "index", "finish_reason"}`` and,
        where present, ``"logprobs"``, ``"usage"``, ``"message"`` and ``"stop"``."""
        out: dict[str, Any] = {
            "text": self.text,
            "token_ids": self.token_ids,
            "index": self.index,
            "finish_reason": self.finish_reason,
        }
        if self.logprobs is not None:
            out["logprobs"] = self.logprobs
        if self.usage is not None:
            out["usage"] = self.usage
        if self.message is not None:
            out["message"] = msgspec.to_builtins(self.message)
        if self.stop is not None:
            out["stop"] = self.stop
        return out

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TokenDelta:
        """The opposite of :meth:`as_dict`."""
        return msgspec.convert(
            {name: value[name] for name in cls.__struct_fields__ if name in value}, _AsMap
        ).delta()


class _AsMap(msgspec.Struct):
    text: str = ""
    token_ids: list[int] = []
    index: int = 0
    finish_reason: str | None = None
    logprobs: list[Any] | None = None
    usage: dict[str, int] | None = None
    message: MessageDelta | None = None
    stop: str | None = None

    def delta(self) -> TokenDelta:
        return TokenDelta(*msgspec.structs.astuple(self))


def _row(delta: TokenDelta) -> list[Any]:
    # Cut off after the last field that says something: most events are a text and its ids.
    if delta.stop is not None:
        return list(msgspec.structs.astuple(delta))
    if delta.message is not None:
        return list(msgspec.structs.astuple(delta)[:-1])
    if delta.usage is not None or delta.logprobs is not None:
        return [delta.text, delta.token_ids, delta.index, delta.finish_reason, delta.logprobs, delta.usage]
    if delta.finish_reason is not None:
        return [delta.text, delta.token_ids, delta.index, delta.finish_reason]
    if delta.index:
        return [delta.text, delta.token_ids, delta.index]
    return [delta.text, delta.token_ids]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[TokenDelta]).decode


def encode_deltas(deltas: Iterable[TokenDelta]) -> bytes:
    """The payload of one ``t`` event."""
    return _encode([_row(delta) for delta in deltas])


def decode_deltas(data: bytes) -> list[TokenDelta]:
    """The deltas of one ``t`` event.

    Raises:
        ProtocolError: they are something else.
    """
    try:
        return _decode(data)
    except UNREADABLE as exc:
        raise ProtocolError(f"tokens in a stream cannot be read: {exc}") from exc


def merge_delta(pending: list[TokenDelta], delta: TokenDelta) -> None:
    """Add ``delta`` to ``pending``: tokens of one choice that gather become one delta."""
    for last in pending:
        if last.index == delta.index:
            last.text += delta.text
            last.token_ids = last.token_ids + delta.token_ids  # not +=: the list is also the first delta's
            last.finish_reason = delta.finish_reason or last.finish_reason
            last.stop = delta.stop or last.stop
            last.usage = delta.usage or last.usage
            if delta.logprobs is not None:
                last.logprobs = (last.logprobs or []) + delta.logprobs
            if delta.message is not None:
                last.message = merge_messages(last.message, delta.message)
            return
    pending.append(
        TokenDelta(
            delta.text, delta.token_ids, delta.index, delta.finish_reason, delta.logprobs, delta.usage,
            delta.message, delta.stop,
        )
    )  # fmt: skip


def emitted_ids(written: Iterable[Any]) -> dict[int, list[int]]:
    """Token ids per choice of what was written; values of other kinds are passed over."""
    out: dict[int, list[int]] = {}
    for delta in written:
        if isinstance(delta, TokenDelta):
            out.setdefault(delta.index, []).extend(delta.token_ids)
    return out


def finished(written: Iterable[Any]) -> set[int]:
    """The choices whose finish reason was written."""
    return {
        delta.index for delta in written if isinstance(delta, TokenDelta) and delta.finish_reason is not None
    }


def is_complete(payload: Any, written: Iterable[Any]) -> bool:
    """Return whether the stream holds the end of every choice that a payload asks for."""
    choices = 1
    if isinstance(payload, dict):
        name = several_prompts(payload)
        choices = (payload.get("n") or 1) * (len(payload[name]) if name else 1)
    return len(finished(written)) >= choices


def several_prompts(payload: Mapping[str, Any]) -> str | None:
    """The field that holds a list of prompts (texts, or lists of token ids), if one does."""
    for name in ("prompt", "prompt_token_ids"):
        value = payload.get(name)
        if isinstance(value, list | tuple) and value and isinstance(value[0], str | list | tuple):
            return name
    return None


class CompletionAggregate:
    """Collects deltas into ``{"text", "token_ids", "finish_reason", "usage"}``, and ``"message"`` where a
    parser reads the answer.

    With ``n`` > 1 the result has ``"choices"`` as well, one such record per index; the top-level
    fields are those of choice 0.
    """

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._ids: dict[int, list[int]] = {}
        self._finish: dict[int, str | None] = {}
        self._messages: dict[int, MessageDelta] = {}
        self.usage: dict[str, int] | None = None

    def add(self, value: TokenDelta | dict[str, Any]) -> None:
        """Take the next chunk."""
        delta = value if isinstance(value, TokenDelta) else TokenDelta.from_dict(value)
        self._texts.setdefault(delta.index, []).append(delta.text)
        self._ids.setdefault(delta.index, []).extend(delta.token_ids)
        if delta.finish_reason is not None:
            self._finish[delta.index] = delta.finish_reason
        if delta.usage is not None:
            self.usage = delta.usage
        if (message := merge_messages(self.message(delta.index), delta.message)) is not None:
            self._messages[delta.index] = message

    def message(self, index: int) -> MessageDelta | None:
        """The message that a parser read in the answer of a choice; ``None`` where none reads it."""
        return self._messages.get(index)

    def _choice(self, index: int) -> dict[str, Any]:
        out: dict[str, Any] = {
            "text": "".join(self._texts.get(index, ())),
            "token_ids": self._ids.get(index, []),
            "finish_reason": self._finish.get(index),
        }
        if (message := self.message(index)) is not None:
            out["message"] = msgspec.to_builtins(message)
        return out

    @property
    def finish_reason(self) -> str | None:
        """The finish reason of choice 0."""
        return self._finish.get(0)

    def result(self) -> dict[str, Any]:
        """The whole answer."""
        out = self._choice(0) | {"usage": self.usage or self._counted()}
        if len(self._texts) > 1:
            out["choices"] = [self._choice(index) | {"index": index} for index in sorted(self._texts)]
        return out

    def _counted(self) -> dict[str, int]:
        completion = sum(len(ids) for ids in self._ids.values())
        return {"prompt_tokens": 0, "completion_tokens": completion, "cached_tokens": 0}
