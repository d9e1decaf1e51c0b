"""Signatures of what travels to workers: plans, and code by value.

Off unless ``DYNAMO_SIGNING_KEY`` is set, here and where it is loaded. A signature is checked before a byte of what it
covers is read. Any process with that key runs code on the workers.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, NoReturn

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError

__all__ = ["KEY", "dump", "enabled", "is_sealed", "refuse", "restore", "seal"]

KEY = "DYNAMO_SIGNING_KEY"
_PURPOSE = b"dynamo_tasks.pipelines.plans.signed/1\0"
"""A prefix of what is signed, so that nothing else that was signed with the same key passes for code."""
_PLANS = b"dynamo_tasks.pipelines.plans.plan/1\0"
_SEAL = re.compile(rb'\{"signature":"([0-9a-f]{64})",(?=")')
"""The beginning of a sealed JSON object; what follows is the object that was signed, without its brace."""


def enabled() -> bool:
    """Return whether this process has a key.

    Raises:
        ConfigError: it has an empty one.
    """
    return variable(KEY) is not None


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
        refuse()
    cloudpickle = _cloudpickle()
    try:
        return cloudpickle.loads(data)
    except Exception as exc:
        raise ConfigError(f"code that was sent cannot be loaded here: {type(exc).__name__}: {exc}") from exc


def refuse() -> NoReturn:
    """Say why code that was sent is not run.

    Raises:
        ConfigError: always.
    """
    _key()
    raise ConfigError(
        f"code that was sent is not signed with the {KEY} of this process, or was changed on its way: refused"
    )


def seal(data: bytes) -> bytes:
    """Sign a JSON object, where this process has a key; those that do not ask for its signature read it as before.

    Raises:
        ConfigError: the key is a short one.
    """
    if not enabled():
        return data
    signature = hmac.digest(_key(), _PLANS + data, hashlib.sha256).hex()
    return b'{"signature":"' + signature.encode() + b'",' + data[1:]


def is_sealed(data: bytes) -> bool:
    """Return whether all of a JSON object is signed with this process's key.

    Raises:
        ConfigError: the key is a short one.
    """
    found = _SEAL.match(data)
    if found is None or not enabled():
        return False
    wanted = hmac.digest(_key(), _PLANS + b"{" + data[found.end() :], hashlib.sha256).hex()
    return hmac.compare_digest(wanted.encode(), found[1])


def _sign(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + data, hashlib.sha256)


def _key() -> bytes:
    key = (variable(KEY) or "").encode()
    if not key:
        raise ConfigError(f"code that travels by value needs {KEY}, which is not set in this process")
    return key


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{KEY} is set, but not cloudpickle: pip install 'dynamo-tasks[pickle]'") from exc
    return cloudpickle
