"""Bounds of the images of one request."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from dynamo_tasks.engines.images.header import ImageHeader
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["MOST", "TOTAL_BYTES", "TOTAL_PIXELS", "ImageLimits", "ImageSum"]

TOTAL_BYTES = 32 << 20
"""Of all images of one request: in base64 they fit into the largest message that a worker takes."""
TOTAL_PIXELS = 256_000_000
"""Of all images of one request: as RGB they are 768 MB of an engine's memory."""


class ImageLimits(Struct, frozen=True, kw_only=True):
    """Bounds of the images of one request.

    Attributes:
        count: Images.
        size: Bytes of each, as they come (PNG, JPEG, …).
        pixels: Of each: width × height.
    """

    count: int = 20
    size: int = 8 << 20
    pixels: int = 40_000_000


MOST = ImageLimits(count=256, size=TOTAL_BYTES, pixels=178_956_970)
"""The largest bounds that can be set; they hold for requests that come without HTTP, too."""


class ImageSum:
    """Counts the images of one request against its bounds."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._count = self._bytes = self._pixels = 0

    def next(self, at: str) -> int:
        """Count one more image, before anything of it is read; gives the bytes that it may have.

        Args:
            at: The field that holds it.

        Raises:
            InvalidRequestError: It is one too many.
        """
        self._count += 1
        if self._count > self._limits.count:
            raise InvalidRequestError(
                f"{at}: at most {self._limits.count} images are allowed in one request", param=at
            )
        return min(self._limits.size, TOTAL_BYTES - self._bytes)

    def add(self, data: bytes, header: ImageHeader, at: str) -> None:
        """Count what was read.

        Raises:
            InvalidRequestError: It is too large, or all of them together are.
        """
        self._bytes += len(data)
        self._pixels += header.pixels
        for name, found, most in self._bounds(len(data), header):
            if found > most:
                raise InvalidRequestError(f"{at}: {name} {found}; at most {most} are allowed", param=at)

    def _bounds(self, size: int, header: ImageHeader) -> Iterable[tuple[str, int, int]]:
        yield "bytes of the image:", size, self._limits.size
        yield "bytes of all images:", self._bytes, TOTAL_BYTES
        yield f"pixels of the image ({header.width} x {header.height}):", header.pixels, self._limits.pixels
        yield "pixels of all images:", self._pixels, TOTAL_PIXELS
