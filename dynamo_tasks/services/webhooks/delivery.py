"""The delivery of one event to one address: signed as Standard Webhooks says, tried again for three days.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

from msgspec import Struct
from standardwebhooks import Webhook

from dynamo_tasks.services.webhooks.targets import WebhookTarget

__all__ = ["Delivery", "delivery_id", "next_delay", "send"]

_TIMEOUT = 15.0
_DELAYS = (5, 30, 120, 600, 1800, 3600, 7200, 14_400)
"""Seconds before each further try; the last one again and again."""
_POSTS = ThreadPoolExecutor(64, thread_name_prefix="webhooks")
# Threads of their own: addresses that do not answer hold up nothing else that is done in threads.
_LONGEST = 72 * 3600.0
_SPACE = uuid.UUID("5f0c5a5e-6a0e-4f0c-9c1f-3f6d3b7c9a51")


class Delivery(Struct):
    """One try to tell an address about an event.

    Attributes:
        url: The address; it must be one of the configuration.
        event_id: Of the event.
        body: Its JSON, the same for all tries.
        began: When the first try was due, Unix seconds.
        number: Of the try, from 0.
    """

    url: str
    event_id: str
    body: str
    began: float
    number: int = 0


def delivery_id(delivery: Delivery) -> str:
    """The id of the request that is a try."""
    return str(uuid.uuid5(_SPACE, f"{delivery.event_id} {delivery.number} {delivery.url}"))


def next_delay(delivery: Delivery, now: float) -> float | None:
    """Seconds until the next try; ``None`` = there is none any more."""
    delay = float(_DELAYS[min(delivery.number, len(_DELAYS) - 1)])
    return delay if now + delay - delivery.began <= _LONGEST else None


async def send(target: WebhookTarget, delivery: Delivery) -> str:
    """POST an event; returns why it was not taken, empty = it was."""
    moment = datetime.now(tz=UTC)
    headers = {
        "content-type": "application/json",
        "user-agent": "dynamo-tasks",
        "webhook-id": delivery.event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(target.secret).sign(delivery.event_id, moment, delivery.body),
    }
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_POSTS, _post, target.url, headers, delivery.body.encode(), _TIMEOUT)


def _post(url: str, headers: dict[str, str], body: bytes, seconds: float) -> str:
    """POST, within some seconds; a redirect is not followed: it would lead to an address that nobody has configured."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    # The connection's own timeout begins anew with each byte of an answer.
    end = threading.Timer(seconds, _cut, [connection])
    end.daemon = True
    end.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return f"{type(exc).__name__}: {exc}"[:200]
    finally:
        end.cancel()
        connection.close()
    return "" if 200 <= status < 300 else f"HTTP {status}"


def _cut(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
