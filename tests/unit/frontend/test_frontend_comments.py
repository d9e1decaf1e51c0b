"""Comments within a stream: nobody's client takes them for events."""

from __future__ import annotations

import httpx
import openai
import pytest

from dynamo_tasks.frontend.openai.render import CompletionRenderer, Render
from dynamo_tasks.frontend.sse import KEEP_ALIVE
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.frontend_fakes import EPOCH, claim, end, text, tokens

LATER = claim(EPOCH + 1, EventId(EPOCH, 1), attempt=2)


def _stream(body: bytes) -> str:
    """What the ``openai`` client makes of a stream."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    with openai.OpenAI(base_url="http://x/v1", api_key="none", http_client=transport) as client:
        chunks = client.chat.completions.create(model="m", messages=[], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize("silent", [b"", KEEP_ALIVE, KEEP_ALIVE * 3])
def test_the_openai_client_reads_past_comments(silent: bytes) -> None:
    """Once an event had an id, it takes every blank line for an event: behind a comment for one without data."""
    renderer = CompletionRenderer(Render("chat", "r1", "m", 1234))
    parts = [
        renderer.render([claim(), text(1, "a")]),
        renderer.render([LATER]),
        renderer.render([tokens(1, TokenDelta("b", [2], 0, "stop"), epoch=EPOCH + 1)]),
        renderer.render([end(2)]),
    ]
    assert b": attempt 2" in parts[1]
    assert _stream(silent.join(parts)) == "ab"
