"""Settings of the HTTP side, and what they allow a request to ask for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import ConfigError, InvalidRequestError
from dynamo_tasks.frontend.access.accounts import Accounts
from dynamo_tasks.frontend.access.configured import ApiKey
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.protocol.http.openai import OpenAIRequest
from dynamo_tasks.protocol.options import RequestOptions

__all__ = ["BOUNDED", "IDEMPOTENCY_HEADER", "TIMEOUT_HEADER", "FrontendSettings", "idempotency_key"]

IDEMPOTENCY_HEADER = "idempotency-key"
"""The same key with the same body gives the same request, once."""
TIMEOUT_HEADER = "x-request-timeout"
"""Seconds by which the request must have ended."""
_IDEMPOTENCY_LIMIT = 255
_LONGEST_TIMEOUT = 10**9

_MIB = 1 << 20
_LONGEST = 366 * 86400.0
_MOST_TENANTS = 1000
_RECORD = 86400.0
"""Seconds for which a record is kept after its end, and with it all that belongs to it."""
BOUNDED = {name: f"max_{name}" for name in ("retention", "abandon_after", "timeout")}
"""Option of a request → the setting that bounds it."""


class _Named(Struct):
    """The fields of a body that may name a session."""

    prompt_cache_key: Any = None
    user: Any = None


class FrontendSettings(Struct, frozen=True, kw_only=True):
    """The settings of the HTTP side.

    Attributes:
        api_keys: Accepted API keys, besides those that are made at run time.
        require_api_keys: Whether nobody is served without a key, also where ``api_keys`` is empty.
        body_limit: Bytes of the largest request body that is accepted (10 MiB).
        max_file_bytes: Bytes of the largest file that may be uploaded (512 MiB).
        keep_alive: Seconds of silence on a stream after which a comment is sent (15).
        header_delay: Seconds for which the headers of a new stream wait for the first token, so that a
            refusal by the engine is a proper HTTP error and not a 200 that turns bad (0.25).
        cors_origins: Web pages that may use the server; see :mod:`dynamo_tasks.frontend.access.admission`.
        allowed_hosts: Names under which it is known, besides addresses and local names.
        host: What it listens at.
        max_retention: Most seconds of ``retention`` that a request may ask for (a day, as long as its record lives).
        max_abandon_after: Most of ``abandon_after`` (an hour).
        max_timeout: Most of ``timeout`` and ``X-Request-Timeout`` (a day).
        response_retention: Seconds for which a stored response is kept after its end (a day, as long as its record
            lives).
        conversation_retention: Seconds for which a conversation is kept after it was used (30 days).
        announces: Whether a webhook wants to know of the ends of responses.
        names: Aliases and fallbacks of models.
        accounts: For how long usage is kept, and what models cost.
        metric_tenants: Tenants with a label of their own in metrics; 0 = none is counted.
        session_fields: Fields of a body that name a session, where the header does not; the first that is there.
    """

    api_keys: tuple[ApiKey | str, ...] = ()
    require_api_keys: bool = False
    body_limit: int = 10 * _MIB
    max_file_bytes: int = 512 * _MIB
    keep_alive: float = 15.0
    header_delay: float = 0.25
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    max_retention: float = 86400.0
    max_abandon_after: float = 3600.0
    max_timeout: float = 86400.0
    response_retention: float = 86400.0
    conversation_retention: float = 30 * 86400.0
    announces: bool = False
    names: ModelNames = ModelNames()
    accounts: Accounts = Accounts()
    metric_tenants: int = 50
    session_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("body_limit", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1 byte, not {getattr(self, name)}")
        if not 0 <= self.metric_tenants <= _MOST_TENANTS:
            raise ConfigError(f"metric_tenants must be 0 to {_MOST_TENANTS}, not {self.metric_tenants}")
        if not self.keep_alive > 0:
            raise ConfigError(f"keep_alive must be more than 0 seconds, not {self.keep_alive}")
        for name in ("max_retention", "response_retention"):
            if getattr(self, name) > _RECORD:
                raise ConfigError(
                    f"{name} can be at most {_RECORD:g} seconds, as long as the record of a request is kept after its "
                    f"end, not {getattr(self, name):g}", param=name,
                )  # fmt: skip
        for name in (*BOUNDED.values(), "response_retention", "conversation_retention"):
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ConfigError(
                    f"{name} must be more than 0 seconds and at most a year, not {getattr(self, name)}"
                )
        if not self.header_delay >= 0:
            raise ConfigError(f"header_delay must be 0 or more seconds, not {self.header_delay}")

    def options(
        self,
        asked: OpenAIRequest,
        headers: Mapping[str, str],
        owner_key: str,
        limits: KeyLimits,
        kept: float | None,
    ) -> RequestOptions:
        """The options of a request.

        Args:
            asked: Its checked body.
            headers: Of the HTTP request: its time limit and idempotency key.
            owner_key: Hash of the API key.
            limits: Of that.
            kept: Seconds of retention, where the body does not say.

        Raises:
            InvalidRequestError: it asks for a longer time than the operator allows, or a header is not valid.
        """
        chosen = asked.options()
        if "timeout" not in chosen:
            chosen |= _timeout(headers)
        self._check_bounds(chosen)
        if kept is not None:
            chosen.setdefault("retention", kept)
        timeout = chosen.pop("timeout", None)
        return RequestOptions(
            deadline=time.time() + timeout if timeout else 0.0,
            ignore_result=True,
            idempotency_key=idempotency_key(headers),
            tenant=limits.tenant or owner_key,
            weight=limits.weight,
            **chosen,
        )

    def session_named(self, raw: bytes) -> str:
        """The session that a body names in one of :attr:`session_fields`; empty = none."""
        if not self.session_fields or not any(name.encode() in raw for name in self.session_fields):
            return ""
        try:
            body = msgspec.json.decode(raw, type=_Named)
        except UNREADABLE:
            return ""
        found = (getattr(body, name) for name in self.session_fields)
        return next((name for name in found if isinstance(name, str) and name), "")

    def _check_bounds(self, asked: Mapping[str, float]) -> None:
        for name, seconds in asked.items():
            if name in BOUNDED and seconds > (most := getattr(self, BOUNDED[name])):
                raise InvalidRequestError(
                    f"{name} is {seconds:g} s; this server allows at most {most:g} s", param=name
                )

    def __repr__(self) -> str:
        keys = f"<{len(self.api_keys)} keys>"
        return (
            f"FrontendSettings(api_keys={keys}, body_limit={self.body_limit}, keep_alive={self.keep_alive})"
        )


def _timeout(headers: Mapping[str, str]) -> dict[str, float]:
    """The header of clients that can't put ``timeout`` into the body, as if they had."""
    text = headers.get(TIMEOUT_HEADER)
    if text is None:
        return {}
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise InvalidRequestError(
            f"the header X-Request-Timeout must be a number of seconds above 0, not {text!r:.60}",
            param=TIMEOUT_HEADER,
        )
    return {"timeout": seconds}


def idempotency_key(headers: Mapping[str, str]) -> str:
    """The idempotency key of an HTTP request; empty where it has none.

    Raises:
        InvalidRequestError: It is too long, or empty.
    """
    key = headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return ""
    if not (0 < len(key) <= _IDEMPOTENCY_LIMIT and key.isascii() and key.isprintable()):
        raise InvalidRequestError(
            f"the header Idempotency-Key must have 1 to {_IDEMPOTENCY_LIMIT} printable characters of ASCII",
            param=IDEMPOTENCY_HEADER,
        )
    return key
