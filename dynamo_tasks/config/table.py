"""The resolved tree as rows for people, with the origin of every value and no secret in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dynamo_tasks.config.records import as_mapping

__all__ = ["MASK", "SECRET_SETTINGS", "Row", "mask", "rows"]

MASK = "***"

SECRET_SETTINGS = "DYNAMO_SECRET_SETTINGS"
"""Variable in which `serve` hands its processes the secret settings of its command line: a JSON list."""
_SECRET = re.compile(
    r"(api|access|private|auth)[_-]?keys?|passw(or)?d|passphrase|secret|credential|(^|[._-])token$",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


class Row(NamedTuple):
    """One value of the resolved configuration."""

    service: str
    key: str
    value: Any
    origin: str


def mask(key: str, value: Any) -> Any:
    """Hide what must not be shown: values of secret-looking keys, and passwords inside URLs.

    Args:
        key: Dotted; ``api_key``, ``password``, ``…_token``, ``…secret…`` and their like are secret.
        value: Lists and mappings are masked within.
    """
    if isinstance(value, Mapping):
        return {name: mask(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(key, item) for item in value]
    if value is None or value == "" or isinstance(value, bool):
        return value
    if _SECRET.search(key):
        return MASK
    return _USERINFO.sub(f"{MASK}@", value) if isinstance(value, str) else value


def rows(sections: Mapping[str, Mapping[str, Any]], origins: Mapping[str, str]) -> list[Row]:
    """Flatten sections for ``serve --dry-run``.

    Args:
        sections: Service name → its section (``ResolvedConfig.tree()``).
        origins: Dotted key → where it was written (``ResolvedConfig.origins``).

    Returns:
        One row per value, secrets masked, in the order of the tree.
    """
    out = []
    for service, section in sections.items():
        for key, value in _leaves(section, ""):
            origin = origins.get(f"{service}.{key}", "default")
            out.append(Row(service, key, mask(key, value), origin))
    return out


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        value = as_mapping(value)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
