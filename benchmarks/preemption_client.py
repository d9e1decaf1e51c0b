"""Streams of completions whose every token is kept: when it came, and what it was."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Answer", "Client", "poisson", "saturate"]

_TIMEOUT = 300.0


@dataclass
class Answer:
    """One stream.

    Attributes:
        prompt: What was asked.
        began: When it was asked, monotonic seconds.
        times: When each event with text came.
        text: All of it.
        attempts: How often another attempt went on with it.
        ids: Of its events.
        error: Why there is no answer: a status, an error of the stream, or that it broke; empty where there is one.
    """

    prompt: str
    began: float = 0.0
    times: list[float] = field(default_factory=list)
    text: str = ""
    attempts: int = 0
    ids: list[tuple[int, int]] = field(default_factory=list)
    error: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.began


class Client:
    """Asks one frontend.

    Args:
        url: Root of the server.
        model: Served model name.
        tokens: Of each answer.
        chars: Length of each prompt.
        more: Further fields of each body.
    """

    def __init__(self, url: str, model: str, *, tokens: int, chars: int, **more: object):
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._body = {"model": model, "max_tokens": tokens, "stream": True, **more}
        self._chars = chars
        self.answers: list[Answer] = []

    async def ask(self, name: str) -> Answer:
        """Ask, and read to the end; prompts of different names share nothing from their first character on."""
        answer = Answer(f"{name} ".ljust(self._chars, "."), time.monotonic())
        self.answers.append(answer)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._ask(answer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as exc:
            answer.error = answer.error or f"broken: {type(exc).__name__}"
        return answer

    async def _ask(self, answer: Answer) -> None:
        body = json.dumps({**self._body, "prompt": answer.prompt}).encode()
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            head = (
                "POST /v1/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
            if status != 200:
                answer.error = str(status)
                return
            await self._read(reader, answer)
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, answer: Answer) -> None:
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                return
            if line.startswith(b"data: "):
                self._take(json.loads(line[6:]), answer)
            elif line.startswith(b"id: "):
                epoch, _, number = line[4:].decode().strip().partition("-")
                answer.ids.append((int(epoch), int(number)))
            elif line.startswith(b": attempt"):
                answer.attempts += 1
        answer.error = answer.error or "broken: no end"

    @staticmethod
    def _take(chunk: dict[str, object], answer: Answer) -> None:
        if "error" in chunk:
            answer.error = json.dumps(chunk["error"])
        choices = chunk.get("choices")
        assert isinstance(choices, list)
        for choice in choices:
            if choice["text"]:
                answer.text += choice["text"]
                answer.times += [time.monotonic()] * len(choice["text"])  # a token of the mocker is a byte


async def poisson(client: Client, name: str, rate: float, seconds: float, seed: int) -> None:
    """Ask at random times, ``rate`` times a second on average, whether or not earlier answers are complete."""
    source, running, number = random.Random(seed), set[asyncio.Task[Answer]](), 0
    began = at = time.monotonic()
    while (at := at + source.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        running.add(asyncio.create_task(client.ask(f"{name} {number}")))
        number += 1
    await asyncio.wait(running)


async def saturate(client: Client, name: str, streams: int, over: asyncio.Event) -> None:
    """Keep so many streams open, until it is over; then read what is left of them."""

    async def one(place: int) -> None:
        number = 0
        while not over.is_set():
            await client.ask(f"{name} {place} {number}")
            number += 1

    await asyncio.gather(*map(one, range(streams)))
