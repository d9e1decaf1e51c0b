"""The thinnest path: HTTP → Celery task → claim → log → push → SSE → resume at another frontend."""

from __future__ import annotations

import json

from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer

CHAT = {
    "model": "mocker",
    "max_tokens": 60,
    "stream": True,
    "messages": [{"role": "user", "content": "tell me"}],
}


def _text(events: list[tuple[str, str]]) -> str:
    chunks = [json.loads(data) for _, data in events if data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_a_stream_is_resumed_at_another_frontend(redis_server: RedisServer) -> None:
    slow = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=5")
    with together(
        Worker(redis_server.url, settings=slow),
        Frontend(redis_server.url),
        Frontend(redis_server.url),
    ) as (_, one, two):
        whole = list(one.events("POST", "/v1/chat/completions", CHAT))
        seen = []
        stream = one.events("POST", "/v1/chat/completions", CHAT)
        for event in stream:
            seen.append(event)
            if len(seen) == 20:
                break
        stream.close()
        request_id = json.loads(seen[0][1])["id"].removeprefix("chatcmpl-")
        path = f"/v1/requests/{request_id}/stream"
        rest = list(two.events("GET", path, headers={"Last-Event-ID": seen[-1][0]}))
        assert _text(seen + rest) == _text(whole)
        ids = [event_id for event_id, _ in seen + rest if event_id]
        assert len(ids) == len(set(ids))
        assert rest[-1][1] == "[DONE]"
