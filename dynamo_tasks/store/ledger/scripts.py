"""The Lua scripts: one file per transition, called by their SHA.

All are read when this module is imported: a process runs the scripts of its own release, also where another one is
installed over it, and also once it has no descriptor left.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Protocol

from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.redis.wire import Reply

__all__ = ["Runner", "Script", "script"]

_FILES = {one.stem: one.read_text() for one in Path(__file__).with_name("lua").glob("*.lua")}
_MISSING = "NOSCRIPT"
_RULES = "local line_rules\n"
_PARTS = re.compile(r"\n\n(?=--|local )")
_DEFINED = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)


class Runner(Protocol):
    """A connection that a script can run on: a ``Link`` or a ``Wire``."""

    async def execute(self, *command: str | bytes | int | float) -> Reply:
        """Run one command."""


class Script:
    """One transition."""

    def __init__(self, name: str):
        """Take ``lua/<name>.lua``, after what it uses of the common part; its flags (``#!lua flags=…``) go first."""
        self.name = name
        common, rules, own = (_FILES[one] for one in ("_lib", "_line", name))
        flags, _, own = own.partition("\n") if own.startswith("#!") else ("", "", own)
        rules = f"line_rules = function()\n{rules}\nend"
        used = _used(common, own)
        rules = rules if _RULES in used else ""
        self.source = "\n".join(filter(None, (flags, _used(common, own + rules), rules, own)))
        self.sha = self.digest(self.source)

    @staticmethod
    def digest(source: str) -> str:
        """The SHA-1 by which Redis names a script (``EVALSHA``)."""
        return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, on: Runner, keys: list[str], *args: str | bytes | int | float) -> Reply:
        """Run the script; loads it where the server does not know it (any more).

        Raises:
            ReplyError: the script failed.
            ServerRefusedError: the server runs no such script for the moment.
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


def _used(common: str, script: str) -> str:
    """The definitions of the common part that a script uses, itself or by others of them.

    Each run of a script makes all functions that stand in front of it, which takes as long as a quarter of its work.
    Definitions use only what stands above them.
    """
    words, used = _words(script), list[str]()
    for part in reversed(_PARTS.split(common)):
        names = {name for names in _DEFINED.findall(part) for name in names.split(", ")}
        if names & words:
            words |= _words(part)
            used.insert(0, part)
    return "\n\n".join(used)


def _words(lua: str) -> set[str]:
    return set(re.findall(r"\w+", re.sub(r"--.*", "", lua)))


@cache
def script(name: str) -> Script:
    """The script of a transition, e.g. ``script("claim")``."""
    return Script(name)
