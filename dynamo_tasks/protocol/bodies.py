"""JSON bodies of requests, of any kind: what they are decoded with, and how deep they may be."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["MAX_DEPTH", "decode_json", "decode_object"]

MAX_DEPTH = 64
"""How deeply the JSON of a body may be nested."""


def decode_json(raw: bytes) -> Any:
    """Parse the JSON of a request body.

    Raises:
        InvalidRequestError: Not JSON, not UTF-8, or nested too deeply.
    """
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"the body is not valid JSON: {exc}") from None
    except RecursionError:
        raise _too_deep() from None
    # Only a body with that many brackets can be that deep; counting them costs nothing.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper_than(body, MAX_DEPTH):
        raise _too_deep()
    return body


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"the body is nested more than {MAX_DEPTH} levels deep")


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether JSON is nested more deeply; level by level, so that nothing here is recursive."""
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def decode_object(raw: bytes) -> dict[str, Any]:
    """Parse the JSON object of a request body.

    Raises:
        InvalidRequestError: As :func:`decode_json`, or it is no object.
    """
    body = decode_json(raw)
    if not isinstance(body, dict):
        raise InvalidRequestError(f"the body must be a JSON object, not {_json_type(body)}")
    return body


def _json_type(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
