"""Compressed bodies of messages, unpacked up to a bound: 680 kB of gzip can stand for gigabytes."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["inflate"]

_MOST_DICTIONARY = 128 << 20
"""Memory that lzma's decoder may ask for; its strongest preset needs half of it."""


def _lzma() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_MOST_DICTIONARY)


_KINDS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), _lzma),
}
"""By the names of kombu; those of its other codecs have no bound."""


def inflate(body: bytes, compression: object, most: int) -> bytes:
    """Unpack a body.

    Args:
        body: As it was sent.
        compression: The message's header of that name.
        most: Bytes that it may become.

    Raises:
        ValueError: an unknown compression, broken data, or more than ``most`` bytes.
    """
    make = _KINDS.get(compression) if isinstance(compression, str) else None
    if make is None:
        raise ValueError(f"compression {str(compression)[:50]!r} is not taken: gzip, bzip2 and lzma are")
    decompressor = make()
    try:
        found: bytes = decompressor.decompress(body, most)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as exc:
        raise ValueError(f"the body is no {compression}: {exc}") from exc
    if not decompressor.eof:
        raise ValueError(f"the unpacked body has more than {most} bytes, or is not whole")
    return found
