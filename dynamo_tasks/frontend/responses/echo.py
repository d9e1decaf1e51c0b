"""Fields of a request that its response shows, and the response as an object."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import DynamoError, ProtocolError
from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.frontend.responses.names import response_id
from dynamo_tasks.protocol.events import UNREADABLE, End
from dynamo_tasks.protocol.http.responses import ResponseRequest, TextOptions
from dynamo_tasks.protocol.states import State

__all__ = ["Echo", "Made", "Outcome", "response_object", "usage_of"]


class Echo(Struct, array_like=True, omit_defaults=True):
    """Fields of a request that its response shows, or is rendered by; new ones go to the end.

    Attributes:
        store: Whether the response can be got later.
        background: Whether it runs on without a reader.
        conversation: Id of its conversation.
        logprobs: Whether its text is shown with log probabilities.
        shown: Further fields, as they are shown.
    """

    store: bool = True
    background: bool = False
    conversation: str | None = None
    logprobs: bool = False
    shown: dict[str, Any] = {}

    @classmethod
    def of(cls, request: ResponseRequest) -> Echo:
        """The fields of a request."""
        given = {name: msgspec.to_builtins(getattr(request, name)) for name in _SHOWN}
        if request.tools:
            given["tools"] = [{**_TOOL, **tool} for tool in request.tools]
        if request.text is not None:
            given["text"] = _shown_text(request.text)
        return cls(
            request.stored,
            bool(request.background),
            request.conversation_id,
            request.wants_logprobs,
            {name: value for name, value in given.items() if value is not None},
        )

    def encode(self) -> bytes:
        """Encode as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Echo:
        """Decode from msgpack.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            return _decode(data)
        except UNREADABLE as exc:
            raise ProtocolError(f"what a response shows of its request cannot be read: {exc}") from exc


_decode = msgspec.msgpack.Decoder(Echo).decode
_DEFAULTS: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "reasoning": {"effort": None, "summary": None}, "safety_identifier": None,
    "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0,
    "top_p": 1.0, "truncation": "disabled", "user": None,
}  # fmt: skip
_SHOWN = _DEFAULTS.keys()
_TOOL = {"description": None, "parameters": None, "strict": None}
"""Fields of a tool that are shown, also where they were not given."""


def _shown_text(text: TextOptions) -> dict[str, Any]:
    shown = {"format": text.format or {"type": "text"}}
    if shown["format"].get("type") == "json_schema":
        shown["format"] = {"description": None, "strict": None, **shown["format"]}
    return shown if text.verbosity is None else {**shown, "verbosity": text.verbosity}


class Outcome(Struct):
    """The status of a response.

    Attributes:
        status: ``queued``, ``in_progress``, ``completed``, ``incomplete``, ``failed`` or ``cancelled``.
        reason: Why it is incomplete.
        error: With what it failed.
        completed_at: Unix seconds; only of a completed one.
    """

    status: str
    reason: str | None = None
    error: dict[str, Any] | None = None
    completed_at: int | None = None

    @classmethod
    def of(cls, end: End) -> Outcome:
        """The outcome that the end of a request is for its response."""
        if end.state == State.CANCELLED:
            return cls("cancelled")
        if (error := end.failure()) is not None:
            return cls("failed", error={"code": _code(error), "message": error.message})
        if end.finish_reason in _INCOMPLETE:
            return cls("incomplete", _INCOMPLETE[end.finish_reason])
        return cls("completed", completed_at=end.at or None)


class Made(Struct):
    """A response that has ended, without what it shows of its request.

    Attributes:
        outcome: Where it stands.
        output: Its items.
        usage: See :func:`usage_of`.
    """

    outcome: Outcome
    output: list[dict[str, Any]]
    usage: dict[str, Any]

    def encode(self) -> bytes:
        """Encode as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Made:
        """Decode from msgpack.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            return _decode_made(data)
        except UNREADABLE as exc:
            raise ProtocolError(f"what is kept of a response cannot be read: {exc}") from exc

    def shown(self, render: Render, echo: Echo) -> dict[str, Any]:
        """The ``response`` object."""
        return response_object(render, echo, self.outcome, self.output, self.usage)


_decode_made = msgspec.msgpack.Decoder(Made).decode
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reason → the reason why a response is incomplete."""


def _code(error: DynamoError) -> str:
    """One of the reference's codes: clients with closed lists of them can't read others."""
    return "invalid_prompt" if 400 <= error.http_status < 429 else "server_error"


def response_object(
    render: Render, echo: Echo, outcome: Outcome, output: list[Any], usage: dict[str, Any] | None
) -> dict[str, Any]:
    """The ``response`` object.

    Args:
        render: As it is stored.
        echo: What the render holds for this API.
        outcome: Where it stands.
        output: Items of the answer.
        usage: See :func:`usage_of`; ``None`` before the end.
    """
    return {
        "id": response_id(render.id),
        "object": "response",
        "created_at": render.created,
        "completed_at": outcome.completed_at,
        "status": outcome.status,
        "error": outcome.error,
        "incomplete_details": {"reason": outcome.reason} if outcome.reason else None,
        "model": render.model,
        "output": output,
        "usage": usage,
        "background": echo.background,
        "store": echo.store,
        "conversation": {"id": echo.conversation} if echo.conversation else None,
        "service_tier": render.tier or "default",
        **_DEFAULTS,
        **echo.shown,
    }


def usage_of(usage: dict[str, int] | None, counted: int, reasoning: int) -> dict[str, Any]:
    """The ``usage`` object.

    Args:
        usage: ``{"prompt_tokens", "completion_tokens", "cached_tokens"}``.
        counted: Tokens of the answer, where the endpoint does not say.
        reasoning: Tokens in which the model was reasoning.
    """
    found = usage or {}
    given, made = found.get("prompt_tokens", 0), found.get("completion_tokens", counted)
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": found.get("cached_tokens", 0), "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": min(reasoning, made)},
        "total_tokens": given + made,
    }
