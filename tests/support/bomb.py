"""What no reader of the wire may load."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Bomb"]


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)
