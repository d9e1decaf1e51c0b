"""Keeps passwords out of logs."""

from __future__ import annotations

import re

__all__ = ["mask_url"]

_MASK = "***"
_NEXT_URL = re.compile(r";(?=[a-z][a-z0-9+.-]*://)")
_SECRET_PARAMETER = re.compile(
    r"((?:^|[?&])[^=&?]*(?:password|secret|token|api_key)[^=&]*=)[^&#]*", re.IGNORECASE
)


def mask_url(url: str) -> str:
    """The URL with its password, and secrets among its query parameters, replaced by ``***``.

    Knows kombu's list form (``sentinel://:pw@a;sentinel://:pw@b``). A password that holds ``/``, ``?``
    or ``@`` unquoted is masked as a whole.

    Example:
        >>> mask_url("redis://user:hunter2@db:6379/0")
        'redis://user:***@db:6379/0'
    """
    return ";".join(_mask_one(part) for part in _NEXT_URL.split(url))


def _mask_one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # The last "@", not the first after the host: an unquoted password must not leak its tail.
    userinfo, at, address = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    masked = f"{user}:{_MASK}" if colon else user
    return scheme + separator + masked + at + _SECRET_PARAMETER.sub(rf"\1{_MASK}", address)
