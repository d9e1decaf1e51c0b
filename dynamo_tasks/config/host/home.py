"""The state directory of one user: ``DYNAMO_HOME``, by default ``~/.dynamo-tasks``.

Everything in it is private to its owner: directories are 0700, files 0600, and a state file is replaced
as a whole, so that a reader sees the old content or the new one, never half of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError, ServerUnavailableError

__all__ = ["Home", "file_lock", "private_dir", "read_json", "write_json", "write_private"]

_DEFAULT = "~/.dynamo-tasks"


def private_dir(path: Path) -> Path:
    """Make ``path`` a directory of the current user with mode 0700.

    Args:
        path: Missing parents are made too.

    Returns:
        The same path.

    Raises:
        ConfigError: it exists and is not a directory, belongs to somebody else, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.getuid():
            raise ConfigError(f"{path} belongs to another user; set DYNAMO_HOME to a directory of your own")
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"DYNAMO_HOME cannot be used: {path}: {error.strerror}") from error
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically by ``text``, readable by its owner only (0600)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # Else a crash of the machine may leave the new name with nothing behind it.
        os.fsync(file.fileno())
    draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace a state file atomically by ``value`` as JSON (0600)."""
    write_private(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any | None:
    """The content of a state file; ``None`` when it is missing or not JSON (then it counts as missing)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def file_lock(path: Path, timeout: float, problem: str) -> Iterator[int]:
    """Hold an exclusive ``flock`` on a file.

    Args:
        path: Made if missing.
        timeout: Seconds to wait for another holder.
        problem: What to say when that was not enough.

    Yields:
        The descriptor. At the end it is closed, not unlocked: a child that inherited it still holds the lock.

    Raises:
        ServerUnavailableError: somebody else holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerUnavailableError(f"{problem}; waited {timeout:.0f} s") from None
                time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Home:
    """The state directory.

    Attributes:
        path: Its absolute path; it need not exist yet.
    """

    path: Path

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Home:
        """The home that ``DYNAMO_HOME`` names.

        Args:
            environ: ``os.environ`` by default.
        """
        found = variable("DYNAMO_HOME", environ) or _DEFAULT
        return cls(Path(found).expanduser().absolute())

    @property
    def server(self) -> Path:
        """Directory of the embedded server."""
        return self.path / "server"

    def check(self) -> None:
        """Look whether :meth:`ensure` could make the directories; nothing is made.

        Raises:
            ConfigError: something is in the way, or this user may not write there.
        """
        place = next(path for path in (self.server, *self.server.parents) if path.exists())
        if not place.is_dir():
            raise ConfigError(f"DYNAMO_HOME cannot be used: {place}: Not a directory")
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"DYNAMO_HOME cannot be used: {place}: Permission denied")

    def ensure(self) -> Home:
        """Make the directories; an existing home keeps its mode, ``server`` is always private.

        Raises:
            ConfigError: see :func:`private_dir`.
        """
        if not self.path.is_dir():
            private_dir(self.path)
        private_dir(self.server)
        return self
