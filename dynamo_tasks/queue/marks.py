"""kombu's marks in JSON: ``{"__type__": "base64", "__value__": …}`` stands for bytes, others for dates and the like.

What an endpoint is sent is plain data, in which bytes alone are marked. Whatever else looks like a mark is a client's
own object: it stays as it is, and is no reason to refuse the rest.
"""

from __future__ import annotations

import json
from typing import Any

from kombu.utils.json import object_hook

__all__ = ["read_plain"]

_MARK = {"__type__", "__value__"}
_BYTES = ("base64", "bytes")


def read_plain(body: bytes | str) -> Any:
    """JSON, with its bytes.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(body, object_hook=_plain)


def _plain(found: dict[str, Any]) -> Any:
    if found.keys() != _MARK or found["__type__"] not in _BYTES or not isinstance(found["__value__"], str):
        return found
    try:
        return object_hook(found)
    except ValueError:  # no base64
        return found
