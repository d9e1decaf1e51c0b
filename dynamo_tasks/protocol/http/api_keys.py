"""API keys that were made at run time: what is kept of them, and what their text looks like.

A secret is 32 random bytes. So its plain SHA-256 is enough to keep: a slow hash (bcrypt, scrypt) protects what people
think up, whose few possibilities can be tried; 2^256 cannot, and each request would pay for it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

import msgspec

from dynamo_tasks.errors import ConfigError, ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.http.limits import KeyLimits

__all__ = ["OWNER_PREFIX", "RunTimeKey", "Secret", "is_key", "made_secret", "make_key"]

_BEGINNING = "sk-dt-"
_FORM = re.compile(rb"sk-dt-[A-Za-z0-9_-]{43}")
_SHOWN = len(_BEGINNING) + 5
_NAME = re.compile(r"[^\x00-\x1f\x7f]{0,100}")
OWNER_PREFIX = 12
"""Characters of an owner's name that are shown: in logs, and in stream tokens."""


class Secret(msgspec.Struct, frozen=True):
    """A secret that stands for a key.

    Attributes:
        digest: Its SHA-256 in hex.
        prefix: Its first characters, by which people know it.
        until: When it stops to work, Unix seconds; 0 = with its key.
    """

    digest: str
    prefix: str
    until: float = 0.0


class RunTimeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key.

    Attributes:
        id: Its name for ever, ``key_…``.
        owner: Whose its requests are: a hash that stays when its secret is rotated. Signs its stream tokens.
        created: Unix seconds.
        name: What people call it.
        secrets: The newest first; while one is replaced, the older one after it.
        expires: When it stops to work, Unix seconds; 0 = never.
        revoked: When it was revoked; 0 = it was not.
        limits: What it may.
        revision: How often it was changed.
    """

    id: str
    owner: str
    created: float
    name: str = ""
    secrets: tuple[Secret, ...] = ()
    expires: float = 0.0
    revoked: float = 0.0
    limits: KeyLimits = KeyLimits()
    revision: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError("the name of a key has at most 100 characters, no control characters")

    @classmethod
    def decode(cls, data: bytes) -> RunTimeKey:
        """Read what :meth:`encode` wrote.

        Raises:
            ProtocolError: It is something else.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (*UNREADABLE, ConfigError) as error:
            raise ProtocolError(f"an API key cannot be read: {error}") from error

    def encode(self) -> bytes:
        """Write it as JSON."""
        return msgspec.json.encode(self)

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and now >= self.expires else "active"

    def works(self, digest: str, now: float) -> bool:
        """Return whether a secret opens it now; the digests are compared in constant time."""
        fits = [secrets.compare_digest(one.digest, digest) for one in self.secrets]
        good = [
            fit and not (one.until and now >= one.until) for fit, one in zip(fits, self.secrets, strict=True)
        ]
        return any(good) and self.state(now) == "active"

    def shown(self, now: float) -> dict[str, Any]:
        """The part that may be shown: neither a digest nor its owner's name."""
        old = [one.until for one in self.secrets[1:] if one.until > now]
        return {
            "id": self.id, "name": self.name, "prefix": self.secrets[0].prefix if self.secrets else "",
            "state": self.state(now), "tenant": self.limits.tenant, "created": self.created,
            "expires": self.expires or None, "revoked": self.revoked or None,
            "old_secret_until": max(old, default=None), "limits": msgspec.to_builtins(self.limits),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"RunTimeKey({self.id}, {self.name!r})"


def is_key(text: bytes) -> bool:
    """Return whether a text looks like a key that was made at run time: others are not looked for."""
    return _FORM.fullmatch(text) is not None


def made_secret() -> tuple[str, Secret]:
    """A new secret, and what is kept of it."""
    text = f"{_BEGINNING}{secrets.token_urlsafe(32)}"
    return text, Secret(hashlib.sha256(text.encode()).hexdigest(), text[:_SHOWN])


def make_key(now: float, *, name: str, expires: float, limits: KeyLimits) -> tuple[str, RunTimeKey]:
    """A new key: its secret, which is shown once, and what is kept of it."""
    text, secret = made_secret()
    key = RunTimeKey(
        id=f"key_{secrets.token_hex(8)}", owner=secrets.token_hex(32), created=now, name=name, secrets=(secret,),
        expires=expires, limits=limits,
    )  # fmt: skip
    return text, key
