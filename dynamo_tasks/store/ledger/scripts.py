"""The Lua scripts: one file per transition, called by their SHA.

What several of them need is in files of ``lua/lib/``; a line ``-- @include records, clock`` stands for these. Fields of
records stand there by their words, see :mod:`~dynamo_tasks.store.ledger.fields`.

All are read when this module is imported: a process runs the scripts of its own release, also where another one is
installed over it, and also once it has no descriptor left.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

from dynamo_tasks.store.ledger.fields import coded
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.redis.wire import Reply

__all__ = ["SOURCES", "Runner", "Script", "assembled", "script"]

_FOLDER = Path(__file__).with_name("lua")
SOURCES = {
    file.relative_to(_FOLDER).with_suffix("").as_posix(): file.read_text() for file in _FOLDER.rglob("*.lua")
}
"""All of ``lua/`` by name: ``claim`` is a script, ``lib/records`` what scripts share."""
_MISSING = "NOSCRIPT"
_INCLUDE = re.compile(r"^ *-- @include (.*)\n", re.MULTILINE)


def assembled(name: str, sources: Mapping[str, str]) -> str:
    """The text of a script, with the files of ``lib/`` where it includes them: each of them once.

    Each run of a script makes all functions that stand in it, so what a script does not need is not in it.
    """
    included: set[str] = set()

    def part(name: str) -> str:
        if name in included:
            return ""
        included.add(name)
        return _INCLUDE.sub(parts, sources[name])

    def parts(line: re.Match[str]) -> str:
        return "".join(part(f"lib/{one}") for one in line[1].split(", "))

    return coded(part(name))


class Runner(Protocol):
    """A connection that a script can run on: a ``Link`` or a ``Wire``."""

    async def execute(self, *command: str | bytes | int | float) -> Reply:
        """Run one command."""


class Script:
    """One transition."""

    def __init__(self, name: str):
        """Take ``lua/<name>.lua``, with what it includes."""
        self.name = name
        self.source = assembled(name, SOURCES)
        self.sha = self.digest(self.source)

    @staticmethod
    def digest(source: str) -> str:
        """The SHA-1 by which Redis names a script (``EVALSHA``)."""
        return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, on: Runner, keys: list[str], *args: str | bytes | int | float) -> Reply:
        """Run the script; loads it where Redis does not know it (any more).

        Raises:
            ReplyError: the script failed.
            ServerRefusedError: Redis runs no such script for the moment.
            ServerUnavailableError: the connection was lost; whether it ran is not known.
        """
        try:
            return await on.execute("EVALSHA", self.sha, len(keys), *keys, *args)
        except ReplyError as exc:
            if not exc.text.startswith(_MISSING):
                raise
        return await on.execute("EVAL", self.source, len(keys), *keys, *args)

    def command(self, keys: list[str], *args: str | bytes | int | float) -> list[str | bytes | int | float]:
        """The command to put into a pipeline on a server that has the script."""
        return ["EVALSHA", self.sha, len(keys), *keys, *args]


@cache
def script(name: str) -> Script:
    """The script of a transition, e.g. ``script("claim")``."""
    return Script(name)
