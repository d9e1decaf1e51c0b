"""Code that travels by value: cloudpickle, under a signature that is checked before a byte of it is read.

Off unless ``DYNAMO_SIGNING_KEY`` is set, here and where it is loaded. Whoever has that key runs code on the workers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any

from dynamo_tasks.errors import ConfigError

__all__ = ["KEY", "dump", "enabled", "restore"]

KEY = "DYNAMO_SIGNING_KEY"
_LEAST = 32
_PURPOSE = b"dynamo_tasks.pipelines.signed/1\0"
"""So that nothing else that was signed with the same key passes for code."""


def enabled() -> bool:
    """Whether this process has a key."""
    return bool(os.environ.get(KEY))


def dump(what: str, value: Any) -> tuple[bytes, bytes]:
    """Pickle a value.

    Args:
        what: Names it in errors.
        value: Anything that cloudpickle takes.

    Returns:
        The pickle, and its HMAC-SHA256.

    Raises:
        ConfigError: there is no key, or a short one; cloudpickle is not installed, or cannot pickle the value.
    """
    key, cloudpickle = _key(), _cloudpickle()
    try:
        data: bytes = cloudpickle.dumps(value)
    except Exception as exc:
        raise ConfigError(f"{what} cannot be pickled: {type(exc).__name__}: {exc}") from exc
    return data, _sign(key, data)


def restore(data: bytes, signature: bytes) -> Any:
    """The reverse of :func:`dump`.

    Raises:
        ConfigError: no key here, another one, or other bytes than those that were signed; nothing was unpickled then.
            Or what was signed cannot be loaded here.
    """
    if not hmac.compare_digest(_sign(_key(), data), signature):
        raise ConfigError(
            f"code that was sent is not signed with the {KEY} of this process, or was changed on its way: refused"
        )
    cloudpickle = _cloudpickle()
    try:
        return cloudpickle.loads(data)
    except Exception as exc:
        raise ConfigError(f"code that was sent cannot be loaded here: {type(exc).__name__}: {exc}") from exc


def _sign(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + data, hashlib.sha256)


def _key() -> bytes:
    key = os.environ.get(KEY, "").encode()
    if not key:
        raise ConfigError(f"code that travels by value needs {KEY}, which is not set in this process")
    if len(key) < _LEAST:
        raise ConfigError(
            f"{KEY} must have at least {_LEAST} characters, not {len(key)} (openssl rand -hex 32)"
        )
    return key


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{KEY} is set, but not cloudpickle: pip install 'dynamo-tasks[pickle]'") from exc
    return cloudpickle
