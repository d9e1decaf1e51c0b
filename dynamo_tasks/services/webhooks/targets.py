"""Addresses that are told about ends: those of the operator's configuration, and no others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from standardwebhooks import Webhook

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError

__all__ = ["EVENTS", "WebhookTarget", "targets_from"]

EVENTS = (
    *(f"batch.{status}" for status in ("completed", "failed", "expired", "cancelled")),
    *(f"response.{status}" for status in ("completed", "failed", "incomplete", "cancelled")),
)
"""Types of events."""
_KEYS = {"url", "secret", "events"}
_SHORTEST = 16
_WHERE = "Background.webhooks"


class WebhookTarget(Struct, frozen=True):
    """An address that is told.

    Attributes:
        url: Where to POST.
        secret: ``whsec_…``, with which messages to it are signed.
        events: Those that it is told about.
    """

    url: str
    secret: str
    events: frozenset[str]

    @property
    def host(self) -> str:
        """Its host: paths of such addresses may be secrets."""
        return urlsplit(self.url).netloc

    def __repr__(self) -> str:
        return f"WebhookTarget({self.host!r})"


def targets_from(
    configured: Sequence[Any], environ: Mapping[str, str] | None = None
) -> tuple[WebhookTarget, ...]:
    """The addresses of the configuration, and that of the environment.

    Args:
        configured: Objects with ``url``, ``secret`` and ``events``; without a secret, ``DYNAMO_WEBHOOK_SECRET`` is it.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: Says what is wrong; never shows a secret.
    """
    found = os.environ if environ is None else environ
    secret, url = variable("DYNAMO_WEBHOOK_SECRET", found), variable("DYNAMO_WEBHOOK_URL", found)
    given = [*configured, *([{"url": url}] if url else [])]
    return tuple(_target(item, place, secret) for place, item in enumerate(given))


def _target(item: Any, place: int, default: str | None) -> WebhookTarget:
    where = f"{_WHERE}[{place}]"
    if not isinstance(item, Mapping) or set(item) - _KEYS or not isinstance(item.get("url"), str):
        raise ConfigError(f"{where} must be {{url, secret, events}}")
    parts = urlsplit(item["url"])
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ConfigError(f"{where}.url must be an http or https URL without a password")
    events = item.get("events") or EVENTS
    if not isinstance(events, Sequence) or isinstance(events, str) or set(events) - set(EVENTS):
        raise ConfigError(f"{where}.events must be some of {', '.join(EVENTS)}")
    return WebhookTarget(item["url"], _secret(item.get("secret") or default, where), frozenset(events))


def _secret(secret: Any, where: str) -> str:
    """A secret that messages can be signed with."""
    hint = "whsec_ and 24 random bytes or more in base64: echo whsec_$(openssl rand -base64 24)"
    if not isinstance(secret, str) or not secret.startswith("whsec_"):
        raise ConfigError(f"{where} needs a secret, there or in DYNAMO_WEBHOOK_SECRET: {hint}")
    try:
        Webhook(secret)
    except Exception:  # noqa: BLE001 - whatever it is, it may quote the secret
        raise ConfigError(f"{where}.secret must be {hint}") from None
    if len(secret) < _SHORTEST + len("whsec_"):
        raise ConfigError(f"{where}.secret is too short; it must be {hint}")
    return secret
