"""A stream that survives its reader and its frontend, shown over plain HTTP.

Starts a 300-token stream at 20 ms per token at one frontend, drops the connection at token 100, resumes at
another one with ``Last-Event-ID``, and compares the whole with an uninterrupted answer. Against servers
that run already::

    python tests/e2e/resume_demo.py http://127.0.0.1:8000 http://127.0.0.1:8001 [--model mocker]

Nothing but the standard library is needed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TOKENS = 300


class Chunk(NamedTuple):
    """One server-sent event: its id, the text that it carries, and the completion that it belongs to."""

    id: str
    text: str
    completion: str


def events(
    method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Server-sent events as ``(id, data)``; closing the iterator drops the connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, parts.path, data, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{method} {url}: {answer.status} {answer.read().decode()}")
        event_id = ""
        while line := answer.readline().decode():
            if line.startswith("id: "):
                event_id = line[4:].strip()
            elif line.startswith("data: "):
                yield event_id, line[6:].strip()
    finally:
        connection.close()


def chunks(source: Iterator[tuple[str, str]]) -> Iterator[Chunk]:
    """The chunks of a chat completion."""
    for event_id, data in source:
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise SystemExit(f"the stream ended with an error: {chunk['error']['message']}")
        text = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        yield Chunk(event_id, text, chunk["id"])


def demo(first: str, second: str, model: str, tokens: int = TOKENS) -> dict[str, Any]:
    """Run it; returns what was found.

    Args:
        first: Base URL of the frontend where the stream is started.
        second: Base URL of the one where it is resumed.
        model: A model whose text is decided by its prompt and seed.
        tokens: Of the whole answer; a third of them comes before the drop.
    """
    ask = {
        "model": model, "stream": True, "max_tokens": tokens, "seed": 1,
        "messages": [{"role": "user", "content": "tell me a long story"}],
    }  # fmt: skip
    whole: list[Chunk] = []
    uninterrupted = f"{second}/v1/chat/completions"
    reading = threading.Thread(target=lambda: whole.extend(chunks(events("POST", uninterrupted, ask))))
    reading.start()
    seen: list[Chunk] = []
    stream = chunks(events("POST", f"{first}/v1/chat/completions", ask))
    for chunk in stream:
        seen.append(chunk)
        if len([one for one in seen if one.text]) == tokens // 3:
            break
    stream.close()  # type: ignore[attr-defined]
    request_id = seen[0].completion.removeprefix("chatcmpl-")
    path = f"{second}/v1/requests/{request_id}/stream"
    rest = list(chunks(events("GET", path, headers={"Last-Event-ID": seen[-1].id})))
    reading.join()
    ids = [chunk.id for chunk in seen + rest if chunk.text]
    return {
        "request_id": request_id,
        "events_before": len(seen),
        "events_after": len(rest),
        "characters": sum(len(chunk.text) for chunk in whole),
        "same_text": "".join(c.text for c in seen + rest) == "".join(c.text for c in whole),
        "no_event_twice": len(ids) == len(set(ids)) and ids == sorted(ids, key=_position),
    }


def _position(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.replace("-", " ").split()))


def main() -> None:
    """Read the command line, run, print; exit code 1 if the text is not the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("first", help="base URL of the frontend where the stream is started")
    parser.add_argument("second", help="base URL of the frontend where it is resumed")
    parser.add_argument("--model", default="mocker")
    parser.add_argument(
        "--tokens", type=int, default=TOKENS, help="of the answer; dropped after a third of them"
    )
    given = parser.parse_args()
    found = demo(given.first, given.second, given.model, given.tokens)
    print(json.dumps(found, indent=2))
    raise SystemExit(0 if found["same_text"] and found["no_event_twice"] else 1)


if __name__ == "__main__":
    main()
