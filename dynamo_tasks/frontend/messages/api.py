"""The Messages API as an :class:`~dynamo_tasks.frontend.openai.apis.Api`."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.engines.text.shorten import SHORTEN, Shorten
from dynamo_tasks.frontend.messages.chat import chat_body, chat_request
from dynamo_tasks.frontend.messages.collect import MessageCollector
from dynamo_tasks.frontend.messages.content import Shown
from dynamo_tasks.frontend.messages.errors import error_shape
from dynamo_tasks.frontend.messages.render import PING, MessageRenderer
from dynamo_tasks.frontend.openai.apis import Api, ParsedBody, engine_body
from dynamo_tasks.frontend.openai.collect import Collector
from dynamo_tasks.frontend.openai.render import Render, Renderer
from dynamo_tasks.frontend.openai.values import FROM_START, Position
from dynamo_tasks.protocol.http.bodies import decode_object
from dynamo_tasks.protocol.http.messages import Thinking, parse_messages
from dynamo_tasks.protocol.http.openai import OpenAIRequest

__all__ = ["CountTokensApi", "MessagesApi"]


class MessagesApi(Api):
    """``POST /v1/messages``."""

    name = "messages"
    base = "chat"
    needs_start = True
    keep_alive = PING
    request_header = "request-id"
    counting = False

    def parse(self, raw: bytes) -> ParsedBody:
        """Read a body, as that of a chat."""
        body = decode_object(raw)
        asked = parse_messages(body, counting=self.counting)
        request = chat_request(asked, body)
        made = engine_body(request, chat_body(asked))
        # A limit beyond the context is no error in this API: clients give one size for all models.
        made[SHORTEN] = msgspec.to_builtins(Shorten(limit=True))
        return ParsedBody(request, made, _shown(asked.thinking).encode())

    def render(self, parsed: ParsedBody, payload: dict[str, Any], request_id: str) -> Render | None:
        """As every API, with the number of the prompt's tokens, which the stream begins with."""
        shown = Shown.decode(parsed.extra)
        shown.input_tokens = len(payload.get("prompt_token_ids") or ())
        shown.clipped = "prompt_token_ids" in payload and "max_tokens" not in payload
        parsed.extra = shown.encode()
        return super().render(parsed, payload, request_id)

    def renderer(self, render: Render, known: Position = FROM_START) -> Renderer:
        """Make what renders a stream, from its start."""
        return MessageRenderer(render, known)

    def collector(self, render: Render | None, request: OpenAIRequest) -> Collector:
        """Make what puts a whole message together."""
        assert render is not None
        return MessageCollector(render)

    def error(
        self, status: int, message: str, code: str, param: str | None = None, request_id: str | None = None
    ) -> dict[str, Any]:
        """The JSON object of an error, in Anthropic's shape."""
        return error_shape(status, message, code, param, request_id)


class CountTokensApi(MessagesApi):
    """``POST /v1/messages/count_tokens``: the same bodies, of which only the prompt counts."""

    counting = True


def _shown(thinking: Thinking | None) -> Shown:
    if thinking is None:
        return Shown()
    return Shown(thinking=2 if thinking.type == "disabled" else 1 if thinking.display == "omitted" else 0)
