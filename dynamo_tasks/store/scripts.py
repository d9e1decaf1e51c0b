"""The Lua scripts: one file per transition, loaded once, called by their SHA."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Protocol

from dynamo_tasks.store.wire import Reply, ReplyError

__all__ = ["Runner", "Script", "script"]

_MISSING = "NOSCRIPT"


class Runner(Protocol):
    """What a script can run on: a ``Link`` or a ``Wire``."""

    async def execute(self, *command: str | bytes | int | float) -> Reply:
        """Run one command."""


class Script:
    """One transition."""

    def __init__(self, name: str):
        """Read ``lua/<name>.lua`` behind the common part; its flags (``#!lua flags=…``) go before that."""
        folder = files(__package__) / "lua"
        self.name = name
        common, rules, own = ((folder / f"{one}.lua").read_text() for one in ("_lib", "_line", name))
        flags, _, own = own.partition("\n") if own.startswith("#!") else ("", "", own)
        rules = f"line_rules = function()\n{rules}\nend"
        self.source = "\n".join(filter(None, (flags, common, rules, own)))
        self.sha = self.digest(self.source)

    @staticmethod
    def digest(source: str) -> str:
        """What a server calls a script by."""
        return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, on: Runner, keys: list[str], *args: str | bytes | int | float) -> Reply:
        """Run the script; loads it where the server does not know it (any more).

        Raises:
            ReplyError: the script failed.
            ServerUnavailableError: the connection was lost; whether it ran is not known.
        """
        try:
            return await on.execute("EVALSHA", self.sha, len(keys), *keys, *args)
        except ReplyError as exc:
            if not exc.message.startswith(_MISSING):
                raise
        return await on.execute("EVAL", self.source, len(keys), *keys, *args)

    def command(self, keys: list[str], *args: str | bytes | int | float) -> list[str | bytes | int | float]:
        """The command to put into a pipeline on a server that has the script."""
        return ["EVALSHA", self.sha, len(keys), *keys, *args]


@cache
def script(name: str) -> Script:
    """The script of a transition, e.g. ``script("claim")``."""
    return Script(name)
