"""The Lua scripts: one file per transition, called by their SHA.

What several of them need is in files of ``lua/lib/``; a line ``-- @include records, clock`` stands for these. Fields of
records stand there by their words, see :mod:`~dynamo_tasks.store.ledger.fields`. A line ``-- @args base, id, ...``
names the arguments, for the script and for those who call it: no caller knows in which order they travel.

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

__all__ = ["MISSING", "SOURCES", "Argument", "Runner", "Script", "assembled", "declared", "script"]

_FOLDER = Path(__file__).with_name("lua")
SOURCES = {
    file.relative_to(_FOLDER).with_suffix("").as_posix(): file.read_text() for file in _FOLDER.rglob("*.lua")
}
"""All of ``lua/`` by name: ``claim`` is a script, ``lib/records`` what scripts share."""
MISSING = "NOSCRIPT"
"""How Redis begins to say that it does not know a script (any more)."""
_ARGS = re.compile(r"^(-- @args )((?:.*,\n-- +)*.*)\n", re.MULTILINE)
_MORE = "..."
_INCLUDE = re.compile(r"^ *-- @include (.*)\n", re.MULTILINE)


Argument = str | bytes | int | float


def declared(source: str) -> list[str]:
    """Names of the arguments of a script; the last one is ``...`` where any number may follow."""
    line = _ARGS.search(source)
    return re.split(r",\s+(?:-- +)?", line[2]) if line else []


def _locals(line: re.Match[str]) -> str:
    """The arguments as locals, and where in ``ARGV`` what follows them begins."""
    names = [name for name in declared(line[0]) if name != _MORE]
    said = f"{line[0]}local {', '.join(names)} = unpack(ARGV, 1, {len(names)})\n"
    return said if not line[2].endswith(_MORE) else f"{said}local REST = {len(names) + 1}\n"


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

    return coded(_ARGS.sub(_locals, part(name)))


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
        names = declared(SOURCES[name])
        self._more = names[-1] == _MORE
        self._names = tuple(names[:-1] if self._more else names)
        self._named = frozenset(self._names)

    @staticmethod
    def digest(source: str) -> str:
        """The SHA-1 by which Redis names a script (``EVALSHA``)."""
        return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def arguments(self, *more: Argument, **named: Argument) -> list[Argument]:
        """The arguments in the order in which they travel.

        Raises:
            TypeError: one is missing, or is none of the script's.
        """
        if named.keys() != self._named or (more and not self._more):
            takes = ", ".join([*self._names, *([_MORE] if self._more else [])])
            raise TypeError(f"{self.name} takes {takes}; given: {', '.join(named)}, and {len(more)} more")
        return [*map(named.__getitem__, self._names), *more]

    async def run(self, on: Runner, keys: list[str], /, *more: Argument, **named: Argument) -> Reply:
        """Run the script; loads it where Redis does not know it (any more).

        Raises:
            ReplyError: the script failed.
            ServerRefusedError: Redis runs no such script for the moment.
            ServerUnavailableError: the connection was lost; whether it ran is not known.
        """
        # By its digest: the text, of kilobytes, travels only to a server that has not seen it.
        given = [len(keys), *keys, *self.arguments(*more, **named)]
        try:
            return await on.execute("EVALSHA", self.sha, *given)
        except ReplyError as exc:
            if not exc.text.startswith(MISSING):
                raise
        return await on.execute("EVAL", self.source, *given)

    def command(self, keys: list[str], /, *more: Argument, **named: Argument) -> list[Argument]:
        """The command to put into a pipeline on a server that has the script."""
        return ["EVALSHA", self.sha, len(keys), *keys, *self.arguments(*more, **named)]


@cache
def script(name: str) -> Script:
    """The script of a transition, e.g. ``script("claim")``."""
    return Script(name)
