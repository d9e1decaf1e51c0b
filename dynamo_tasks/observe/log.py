"""Structured log events on the standard library's logging.

An event of the catalogue becomes one record of the logger ``dynamo_tasks.<area>``. Its message is
``name key=value …``; formatters that want the parts find them as ``record.event`` and
``record.fields``. Passwords in URLs are kept out of both.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.observe.catalogue import LOG_EVENTS
from dynamo_tasks.observe.schema import LogEvent

__all__ = [
    "FORMAT_VARIABLE",
    "STRICT_VARIABLE",
    "JsonFormatter",
    "choose_format",
    "enabled",
    "event",
    "mask_url",
    "set_strict",
    "strict",
]

_MASK = "***"
_NEXT_URL = re.compile(r"(;|\s*,\s*|\s+)(?=[a-z][a-z0-9+.-]*://)")
_SECRET_PARAMETER = re.compile(
    r"((?:^|[?&])[^=&?]*(?:password|secret|token|api_key)[^=&]*=)[^&#]*", re.IGNORECASE
)


def mask_url(url: str) -> str:
    """The URL with its password, and secrets among its query parameters, replaced by ``***``.

    Knows kombu's list form (``sentinel://:pw@a;sentinel://:pw@b``), and lists of lanes. A password
    that holds ``/``, ``?`` or ``@`` unquoted is masked as a whole.

    Example:
        >>> mask_url("redis://user:hunter2@db:6379/0")
        'redis://user:***@db:6379/0'
    """
    parts = _NEXT_URL.split(url)
    return "".join(part if number % 2 else _mask_one(part) for number, part in enumerate(parts))


def _mask_one(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # The last "@", not the first after the host: an unquoted password must not leak its tail.
    userinfo, at, address = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    masked = f"{user}:{_MASK}" if colon else user
    return scheme + separator + masked + at + _SECRET_PARAMETER.sub(rf"\1{_MASK}", address)


STRICT_VARIABLE = "DYNAMO_STRICT_TELEMETRY"
"""Set to ``1`` (tests do, for child processes too) to make names outside the catalogue an error."""

FORMAT_VARIABLE = "DYNAMO_LOG_FORMAT"
"""``json`` makes workers and HTTP processes write one JSON object per line; ``text`` is the default."""

_strict = os.environ.get(STRICT_VARIABLE) == "1"
_loggers = {name: logging.getLogger(entry.logger) for name, entry in LOG_EVENTS.items()}


def set_strict(strict: bool) -> bool:
    """Make names outside the catalogue an error (or log them all the same); returns the old setting."""
    global _strict
    before, _strict = _strict, strict
    return before


def strict() -> bool:
    """Return whether names outside of the catalogue are an error."""
    return _strict


def enabled(name: str, /) -> bool:
    """Return whether an event would be logged; asked where its fields cost something, e.g. once per request."""
    return _loggers[name].isEnabledFor(LOG_EVENTS[name].level)


def event(name: str, /, *, exc: BaseException | None = None, **fields: Any) -> None:
    """Log an event of the catalogue.

    Args:
        name: Its name there, e.g. ``request.claimed``.
        exc: An exception whose traceback belongs to the record.
        **fields: Its fields. URLs among the values lose their password.

    Raises:
        LookupError: In strict mode only: the catalogue has no such event, or no such field in it.
    """
    entry = LOG_EVENTS.get(name) or _unknown(name)
    logger = _loggers.get(name) or logging.getLogger(entry.logger)
    if _strict:
        _check_fields(entry, fields)
    if not logger.isEnabledFor(entry.level):
        return
    shown = {key: _shown(value) for key, value in fields.items()}
    message = " ".join((name, *(f"{key}={_quoted(value)}" for key, value in shown.items())))
    # The message is an argument, not the format: it may hold a "%".
    # stacklevel 2: the record's file and line are those of the caller.
    logger.log(entry.level, "%s", message, exc_info=exc, stacklevel=2, extra={"event": name, "fields": shown})


def _unknown(name: str) -> LogEvent:
    if _strict:
        raise LookupError(f"log event {name!r} is not in the catalogue; known: {', '.join(LOG_EVENTS)}")
    return LogEvent(name, logging.WARNING, "")


def _check_fields(entry: LogEvent, fields: dict[str, Any]) -> None:
    if unknown := fields.keys() - set(entry.fields):
        known = ", ".join(entry.fields) or "none"
        raise LookupError(f"log event {entry.name!r} has no field {sorted(unknown)}; allowed: {known}")


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, BaseException):
        value = f"{type(value).__name__}: {value}"
    if isinstance(value, str) and "://" in value:
        return mask_url(value)
    return value


def _quoted(value: Any) -> str:
    text = str(value)
    plain = text and not any(char.isspace() or char in '="' for char in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time`` (s since 1970), ``level``, ``logger``, ``event``, the fields.

    Records that are no events have ``message`` in place of ``event``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        name = getattr(record, "event", None)
        line: dict[str, Any] = {
            "time": round(record.created, 6),
            "level": record.levelname,
            "logger": record.name,
        }
        line |= {"message": record.getMessage()} if name is None else {"event": name, **record.fields}  # type: ignore[attr-defined]
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def choose_format(logger: logging.Logger, environ: Mapping[str, str] = os.environ) -> None:
    """Let the handlers of a logger write what ``DYNAMO_LOG_FORMAT`` asks for.

    Raises:
        ConfigError: it is neither ``json`` nor ``text``.
    """
    for handler in logger.handlers if variable(FORMAT_VARIABLE, environ) == "json" else ():
        handler.setFormatter(JsonFormatter())
