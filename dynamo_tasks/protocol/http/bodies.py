"""JSON bodies of requests, of any kind: what they are decoded with, and how deep they may be."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.structure import check_structure

__all__ = ["MAX_DEPTH", "decode_json", "decode_nested", "decode_object"]

MAX_DEPTH = 64
"""Levels to which the JSON of a body may be nested."""
_BOM = b"\xef\xbb\xbf"
_OTHERS = {
    b"\x1f\x8b": "gzip, which the header Content-Encoding must say",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F]..)")
_SEARCHED = 256 << 10
"""Bytes in which a reason is looked for."""


def decode_json(raw: bytes) -> Any:
    """Parse the JSON of a request body; a byte order mark before it is skipped.

    Raises:
        InvalidRequestError: Not JSON, not UTF-8, or nested too deeply.
    """
    try:
        body = msgspec.json.decode(raw.removeprefix(_BOM))
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"the body is not valid JSON: {_cause(raw) or exc}") from None
    except RecursionError:
        raise _too_deep() from None
    # Only a body with that many brackets can be that deep; counting them costs nothing.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper_than(body, MAX_DEPTH):
        raise _too_deep()
    return body


def _cause(raw: bytes) -> str:
    """Find the cause that the parser's own message does not tell."""
    if raw[:2] in _OTHERS:
        return f"it is {_OTHERS[raw[:2]]}; UTF-8 is expected"
    if raw[1:2] == b"\0" or raw[:1] == b"\0":
        return "it is UTF-16 or UTF-32; UTF-8 is expected"
    try:
        raw.decode()
    except UnicodeDecodeError as exc:
        return f"byte {exc.start} ({raw[exc.start : exc.start + 1].hex()}) is not UTF-8"
    found = _SURROGATE.search(raw.replace(b"\\\\", b"  ")[:_SEARCHED])
    if found:
        return f"{found[0][:6].decode()} at byte {found.start()} is half of a surrogate pair, which is no character"
    return ""


def decode_nested(raw: bytes) -> Any:
    """Parse JSON that came as a text inside of a body, with the same bounds.

    Raises:
        InvalidRequestError: As :func:`decode_json`, or it holds too much.
    """
    check_structure(raw)
    return decode_json(raw)


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(f"the body is nested more than {MAX_DEPTH} levels deep")


def _deeper_than(value: Any, levels: int) -> bool:
    """Tell whether JSON is nested more deeply; level by level, so that nothing here is recursive."""
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
