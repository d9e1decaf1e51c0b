"""Deliveries of webhooks to addresses that answer badly."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from contextlib import suppress

import pytest

from dynamo_tasks.services.webhooks.delivery import Delivery, send
from dynamo_tasks.services.webhooks.targets import WebhookTarget


def test_an_address_that_answers_byte_by_byte_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout of a socket begins anew with each byte: such an address would keep its thread."""
    monkeypatch.setattr("dynamo_tasks.services.webhooks.delivery._TIMEOUT", 0.5)
    over = threading.Event()

    def drip() -> None:
        with suppress(OSError), listener.accept()[0] as connection:
            while not over.wait(0.1):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        target = WebhookTarget(url, "whsec_" + base64.b64encode(b"s" * 24).decode(), frozenset())
        try:
            why = asyncio.run(asyncio.wait_for(send(target, Delivery(url, "evt", "{}", 0.0)), 10))
        finally:
            over.set()
    assert why
