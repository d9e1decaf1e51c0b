"""Kind and size of an image, read from its first bytes.

Nothing is decompressed: an image that would become too large is refused before any decoder sees it. The formats are
PNG (https://www.w3.org/TR/png-3/), JPEG (ITU-T T.81), GIF (https://www.w3.org/Graphics/GIF/spec-gif89a.txt) and WebP
(https://developers.google.com/speed/webp/docs/riff_container).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

__all__ = ["MEDIA_TYPES", "ImageHeader", "read_header"]

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""Kinds of images that are taken."""
_MOST_BLOCKS = 2048
"""Blocks of a file before that which has the size; photographs have some dozens."""
_SIZED = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of JPEG frames: they have the size."""
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers of JPEG without a length."""


class ImageHeader(Struct, frozen=True):
    """Kind and size of an image, as it says them itself.

    Attributes:
        media_type: One of :data:`MEDIA_TYPES`.
        width: Pixels.
        height: Pixels.
    """

    media_type: str
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width × height."""
        return self.width * self.height


def read_header(data: bytes) -> ImageHeader:
    """Read kind and size; of an animation, of its first picture.

    Raises:
        ValueError: It is none of these formats, or it is cut off.
    """
    known = next((one for one in _FORMATS if data.startswith(one[0])), None)
    if known is None:
        raise ValueError(f"is no image of the kinds {', '.join(MEDIA_TYPES)}")
    _, media_type, size_of = known
    try:
        width, height = size_of(data)
    except IndexError:
        width = height = 0
    if not width or not height:
        raise ValueError(f"is cut off, or no valid {media_type}")
    return ImageHeader(media_type, width, height)


def _number(data: bytes, at: int, size: int, *, little: bool = False) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "little" if little else "big")


def _png(data: bytes) -> tuple[int, int]:
    return (_number(data, 16, 4), _number(data, 20, 4)) if data[12:16] == b"IHDR" else (0, 0)


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MOST_BLOCKS):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _SIZED:
            return _number(data, at + 7, 2), _number(data, at + 5, 2)
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + max(2, _number(data, at + 2, 2))
    return 0, 0


def _gif(data: bytes) -> tuple[int, int]:
    """The screen; where the first picture is larger, decoders make room for it."""
    width, height = _number(data, 6, 2, little=True), _number(data, 8, 2, little=True)
    at = _behind_extensions(data, 13 + _palette(data[10]))
    if not at:
        return 0, 0
    left, top, wide, high = (_number(data, at + 1 + 2 * i, 2, little=True) for i in range(4))
    return max(width, left + wide), max(height, top + high)


def _behind_extensions(data: bytes, at: int) -> int:
    """The place of the first picture; 0 = there is none."""
    inside = False
    for _ in range(_MOST_BLOCKS):
        first = data[at]
        if inside:  # blocks of an extension, up to an empty one
            inside, at = first > 0, at + 1 + first
        elif first == 0x21:
            inside, at = True, at + 2
        else:
            return at if first == 0x2C else 0
    return 0


def _palette(flags: int) -> int:
    """Bytes of a palette of colors, if there is one."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        return 0, 0
    if kind == b"VP8X":
        return _number(data, 24, 3, little=True) + 1, _number(data, 27, 3, little=True) + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = _number(data, 21, 4, little=True)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return _number(data, 26, 2, little=True) & 0x3FFF, _number(data, 28, 2, little=True) & 0x3FFF
    return 0, 0


_FORMATS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int]]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png", _png),
    (b"\xff\xd8", "image/jpeg", _jpeg),
    (b"RIFF", "image/webp", _webp),
    (b"GIF87a", "image/gif", _gif),
    (b"GIF89a", "image/gif", _gif),
)
