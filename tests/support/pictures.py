"""Small pictures, made without an image library: PNG files, and data URLs of them."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

__all__ = ["data_url", "gif", "image_part", "jpeg", "picture", "png", "text_part", "webp"]


def picture(red: int, green: int = 0, blue: int = 0, width: int = 24, height: int = 16) -> bytes:
    """A PNG with a gradient of a color."""
    rows = b"".join(
        b"\0" + b"".join(bytes((red, (green + 7 * x) % 256, (blue + 11 * y) % 256)) for x in range(width))
        for y in range(height)
    )
    return png(width, height, zlib.compress(rows))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says to have a size; 8 bits RGB."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg(width: int, height: int, *, before: bytes = b"") -> bytes:
    """The head of a JPEG."""
    frame = struct.pack(">BHHBBBB", 8, height, width, 1, 1, 0x11, 0)
    return b"\xff\xd8" + before + b"\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + b"\xff\xd9"


def gif(width: int, height: int, *, picture: tuple[int, int, int, int] | None = None) -> bytes:
    """The head of a GIF; ``picture``: left, top, width and height of its first one."""
    comment = b"\x21\xfe\x05hello\x00"
    frame = struct.pack("<BHHHHB", 0x2C, *(picture or (0, 0, width, height)), 0)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + comment + frame


def webp(width: int, height: int, kind: bytes = b"VP8X") -> bytes:
    """The head of a WebP."""
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data), **more}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
