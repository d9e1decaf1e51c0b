"""Several Redis servers in one text: the URLs of lanes (docs/lanes.md)."""

from __future__ import annotations

import re

__all__ = ["join_lanes", "split_lanes"]

# A comma within a URL separates Sentinels (sentinel://h1,h2/NAME): one between URLs is followed by a scheme.
_BETWEEN = re.compile(r"\s*,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)|\s+")


def split_lanes(text: str) -> list[str]:
    """The URLs of a text, in their order: separated by blanks, line ends, or commas.

    Example:
        >>> split_lanes("redis://a:6379/0, redis://b:6379/0")
        ['redis://a:6379/0', 'redis://b:6379/0']
    """
    return [url.strip(",") for url in _BETWEEN.split(text.strip()) if url.strip(",")] or [text]


def join_lanes(urls: list[str]) -> str:
    """The text that :func:`split_lanes` takes apart; a single URL stays as it is."""
    return " ".join(urls)
