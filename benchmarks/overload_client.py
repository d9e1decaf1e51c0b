"""An open-loop client: requests come at their times, whether or not earlier ones have been answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Tenant", "drive"]

_TIMEOUT = 120.0


@dataclass
class Tenant:
    """One API key, its rate, and what came of its requests.

    Attributes:
        key: The API key.
        every: Seconds between two requests.
        outcomes: ``ok``, the code of a refusal, ``broken`` (a stream without its end).
        first: Seconds to the first token, of accepted requests.
        whole: Seconds to the end, of the same.
    """

    key: str
    every: float
    outcomes: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


class _Client:
    def __init__(self, url: str, model: str, max_tokens: int):
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        body = {"model": model, "prompt": "overload", "max_tokens": max_tokens, "stream": True}
        self._body = json.dumps(body).encode()

    async def ask(self, tenant: Tenant) -> None:
        """One request, to its end; what came of it is noted."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._ask(tenant)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as exc:
            tenant.outcomes[f"broken: {type(exc).__name__}"] += 1

    async def _ask(self, tenant: Tenant) -> None:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(self._head(tenant) + self._body)
            status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
            if status != 200:
                body = await reader.read()
                tenant.outcomes[
                    f"{status} {json.loads(body[body.index(b'{') : body.rindex(b'}') + 1])['error']['code']}"
                ] += 1
                return
            await self._stream(reader, tenant, began)
        finally:
            writer.close()

    def _head(self, tenant: Tenant) -> bytes:
        return (
            f"POST /v1/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {tenant.key}\r\n"
            f"connection: close\r\ncontent-type: application/json\r\ncontent-length: {len(self._body)}\r\n\r\n"
        ).encode()

    @staticmethod
    async def _stream(reader: asyncio.StreamReader, tenant: Tenant, began: float) -> None:
        first, last = 0.0, b""
        while data := await reader.read(1 << 16):
            if not first and b'"text"' in data:
                first = time.monotonic() - began
            last = (last + data)[-64:]
        if b"[DONE]" not in last or not first:
            tenant.outcomes["broken: no end"] += 1
            return
        tenant.outcomes["ok"] += 1
        tenant.first.append(first)
        tenant.whole.append(time.monotonic() - began)


async def _load(client: _Client, tenant: Tenant, until: float, running: set[asyncio.Task[None]]) -> None:
    at = time.monotonic()
    while at < until:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        task = asyncio.create_task(client.ask(tenant))
        running.add(task)
        task.add_done_callback(running.discard)
        at += tenant.every


async def drive(url: str, model: str, max_tokens: int, tenants: list[Tenant], seconds: float) -> None:
    """Send every tenant's requests at their times, then wait for what was accepted."""
    client, running = _Client(url, model, max_tokens), set[asyncio.Task[None]]()
    until = time.monotonic() + seconds
    await asyncio.gather(*(_load(client, tenant, until, running) for tenant in tenants))
    if running:
        await asyncio.wait(running)
