"""Checks of environment variables and options: empty, which is not the same as not given, or of a wrong form.

An option without a value is a mistake: a variable of a script was empty. So is an empty environment variable where,
without its value, more would be let in than its owner meant. Other empty variables count as not set, as compose files
and shells have it.

A variable has one form wherever it is read: a process that starts checks all of them, whether it will ever read them
or not, so that a mistake shows then, and not at its end or at the first plan that is to be signed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dynamo_tasks.errors import ConfigError

__all__ = ["check_variables", "filled", "grace_period", "variable"]

_NEVER_EMPTY = {
    "DYNAMO_API_KEYS": "key",
    "DYNAMO_SIGNING_KEY": "key",
    "DYNAMO_ALLOWED_HOSTS": "name",
    "DYNAMO_REDIS_CA_CERTS": "file",
}


def _form(pattern: str) -> Callable[[str], Any]:
    return re.compile(pattern, re.ASCII | re.DOTALL).fullmatch


_FORMS: dict[str, tuple[Callable[[str], Any], str]] = {
    "DYNAMO_LOG_FORMAT": (_form("json|text"), "be json or text"),
    "DYNAMO_GPU_ALLOCATION": (_form("auto|require|off"), "be one of auto, require, off"),
    "DYNAMO_FAKE_GPUS": (_form("[0-9]{1,4}"), "be a number of GPUs"),
    "DYNAMO_SYSTEM_PORT": (
        lambda text: text.isascii() and text.strip().isdecimal() and int(text) <= 65535,
        "be a port, 0 (any free one) to 65535",
    ),
    "DYNAMO_GRACE_PERIOD": (_form(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+"), "be a number of seconds, as 30 or 0.5"),
    "DYNAMO_SIGNING_KEY": (
        lambda text: len(text.encode()) >= 32,
        "have at least 32 characters (openssl rand -hex 32)",
    ),
    "DYNAMO_FILES_URL": (
        _form(r"file:///.+|memory:///?|(s3a?|gs|az|azure|abfss?|adl)://[^/:\s]+(/[!-~]*)?"),
        "be file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix or memory:///",
    ),
    "DYNAMO_WEBHOOK_URL": (_form(r"https?://[^@\s]+"), "be an http or https URL without a password"),
    "DYNAMO_WEBHOOK_SECRET": (_form(r"whsec_[A-Za-z0-9+/=_-]{16,}"), "be whsec_ and random bytes in base64"),
    "DYNAMO_KEY_PREFIX": (_form(r"[!-~]{1,100}"), "be up to 100 printable ASCII characters without blanks"),
}
"""Variable → check of its value, where it has one, and the words for the error."""
_SECRET = {"DYNAMO_SIGNING_KEY", "DYNAMO_WEBHOOK_SECRET"}
_Value = TypeVar("_Value")


def variable(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The value of an environment variable; ``None`` where it is not set, or empty.

    Args:
        name: Which.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: it has not the form that it must have; or it is set, and empty, and that would let more in than its
            owner meant.
    """
    value = (os.environ if environ is None else environ).get(name)
    if value is None or value.replace(",", " ").strip():
        return value if value is None else _formed(name, value)
    if what := _NEVER_EMPTY.get(name):
        raise ConfigError(f"{name} is given but holds no {what}; give one, or leave it away")
    return None


def grace_period(environ: Mapping[str, str] | None = None) -> float | None:
    """Seconds of ``DYNAMO_GRACE_PERIOD``; ``None`` where it is not set.

    Raises:
        ConfigError: it is no number of seconds.
    """
    value = variable("DYNAMO_GRACE_PERIOD", environ)
    return None if value is None else float(value)


def _formed(name: str, value: str) -> str:
    fits, what = _FORMS.get(name, (None, ""))
    if fits is not None and not fits(value):
        shown = len(value) if name in _SECRET else repr(value[:100])
        raise ConfigError(f"environment {name} must {what}, not {shown}")
    return value


def check_variables(environ: Mapping[str, str] | None = None) -> None:
    """Refuse variables that are set and must not be empty, or have not the form that they must have.

    Raises:
        ConfigError: names the first such one.
    """
    for name in (*_NEVER_EMPTY, *_FORMS):
        variable(name, environ)


def filled(option: str, value: _Value | None) -> _Value | None:
    """The value of an option of a command line.

    Args:
        option: Its name, for the error.
        value: As given; ``None`` = it was not.

    Raises:
        ConfigError: it was given, and is empty.
    """
    if value is not None and not str(value).strip():
        raise ConfigError(f"{option} is given but empty; give a value, or leave it away")
    return value
