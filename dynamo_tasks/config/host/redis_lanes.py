"""Several Redis servers in one text: the URLs of lanes (docs/lanes.md)."""

from __future__ import annotations

import re
from collections.abc import Callable

from dynamo_tasks.errors import ConfigError

__all__ = ["completed_lanes", "join_lanes", "lane_url", "split_lanes"]

_DRAIN = "drain"

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


def lane_url(text: str) -> tuple[str, bool]:
    """The URL of one lane, and whether it is drained: it gets no new requests.

    Example:
        >>> lane_url("redis://b:6379/0#drain")
        ('redis://b:6379/0', True)

    Raises:
        ConfigError: another word stands behind the mark.
    """
    url, mark, state = text.partition("#")
    if mark and state != _DRAIN:
        raise ConfigError(f"a lane's URL may end with #{_DRAIN}, not with #{state[:50]}")
    return url, bool(mark)


def completed_lanes(text: str, complete: Callable[[str], str]) -> str:
    """The same text with each URL completed; what it says of each lane besides stays.

    Args:
        text: URLs of lanes.
        complete: Completes one.
    """
    parts = (one.partition("#") for one in split_lanes(text))
    return join_lanes([f"{complete(url)}{mark}{state}" for url, mark, state in parts])
