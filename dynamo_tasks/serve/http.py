"""One GET, for readiness and for the model names of the line to paste. Needs no HTTP library."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

__all__ = ["base_url", "get", "get_bytes", "local_host"]

_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def local_host(host: str) -> str:
    """The address under which this machine itself reaches a server that listens on ``host``."""
    return _EVERY.get(host, host)


def base_url(host: str, port: int) -> str:
    """``http://host:port`` as this machine can use it."""
    name = local_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


async def get(
    host: str, port: int, path: str, *, api_key: str | None = None, timeout: float = 2.0
) -> tuple[int, Any]:
    """GET a JSON document.

    Args:
        host: As given to the server; ``0.0.0.0`` means this machine.
        port: TCP port.
        path: With its leading slash.
        api_key: Sent as a bearer token.
        timeout: Seconds for all of it.

    Returns:
        Status and parsed body (``None`` when it is no JSON); status 0 when nobody answers.
    """
    status, body = await get_bytes(host, port, path, api_key=api_key, timeout=timeout)
    try:
        return status, json.loads(body)
    except ValueError:
        return status, None


async def get_bytes(
    host: str, port: int, path: str, *, api_key: str | None = None, timeout: float = 2.0
) -> tuple[int, bytes]:
    """GET anything; as :func:`get`."""
    try:
        async with asyncio.timeout(timeout):
            return await _get(local_host(host), port, path, api_key)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return 0, b""


async def _get(host: str, port: int, path: str, api_key: str | None) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = [
            f"GET {path} HTTP/1.0",
            f"Host: {f'[{host}]' if ':' in host else host}",
            "Accept: application/json",
            "Connection: close",
        ]
        if api_key:
            head.append(f"Authorization: Bearer {api_key}")
        writer.write("\r\n".join([*head, "", ""]).encode())
        answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    top, _, body = answer.partition(b"\r\n\r\n")
    words = top.split(maxsplit=2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, body
