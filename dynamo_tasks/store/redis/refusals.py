"""Error replies of the Redis server, and the exception that each becomes: one table.

Redis names a refusal by its first word. What passes by itself (memory, disk, replicas, a script that runs, a
failover) is a :class:`~dynamo_tasks.errors.ServerRefusedError`: a process that starts or serves waits, as for
a server that is away; an HTTP client gets a 503. The rest is a :class:`ReplyError`, which no waiting mends.

What Redis said goes to the log. The errors have a text of ours: clients see it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

from dynamo_tasks.errors import DynamoError, ServerFullError, ServerRefusedError
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle

__all__ = ["EXPECTED", "PASSING", "ReplyError", "code_of", "refusal"]

RETRY_AFTER = 1.0


class ReplyError(DynamoError):
    """The Redis server answered a command with an error.

    Attributes:
        text: What it said, for the log and for who knows its words; not for clients.
    """

    code = "server_error"

    def __init__(self, message: str | None = None, *, text: str = ""):
        super().__init__(message)
        self.text = text or self.message


class _Passing(NamedTuple):
    error: type[ServerRefusedError]
    message: str


def _refused(message: str) -> _Passing:
    return _Passing(ServerRefusedError, message)


PASSING = {
    "OOM": _Passing(
        ServerFullError,
        "the memory of the Redis server is full (maxmemory); it takes no new requests until there is room",
    ),
    "MISCONF": _refused(
        "the Redis server cannot save its data (is its disk full?); it takes no writes until it can"
    ),
    "NOREPLICAS": _refused(
        "the Redis server has too few replicas (min-replicas-to-write); it takes no writes until they are back"
    ),
    "READONLY": _refused("the Redis server has become a replica; it takes no writes"),
    "MASTERDOWN": _refused("the Redis server is a replica that has lost its master"),
    "LOADING": _refused("the Redis server still reads its data"),
    "BUSY": _refused("the Redis server is busy with a script"),
    "UNKILLABLE": _refused("the Redis server is busy with a script"),
    "TRYAGAIN": _refused("the Redis server moves its data; it asks to be tried again"),
    "CLUSTERDOWN": _refused("the Redis server's cluster is down"),
    "FAILOVER": _refused("the Redis server hands over to a replica"),
    "INPROG": _refused("the Redis server is in a failover"),
    "ERR max number of clients reached": _refused("the Redis server has no connection left (maxclients)"),
}
"""First words of refusals that pass by themselves."""

_LASTING = {
    "NOPERM": "the ACL of the Redis server does not let this process's user do what it needs (docs/security.md)",
    "NOAUTH": "the Redis server asks for a password",
    "WRONGPASS": "the Redis server refuses the user name or the password",
    "CROSSSLOT": "the server is a Redis Cluster, which is not supported: name a single server, or Sentinels",
    "MOVED": "the server is a Redis Cluster, which is not supported: name a single server, or Sentinels",
    "ASK": "the server is a Redis Cluster, which is not supported: name a single server, or Sentinels",
    "WRONGTYPE": "a key of ours in the Redis server holds something else",
    "ERR unknown command": "the Redis server does not know a command that is needed",
}

EXPECTED = frozenset({"NOSCRIPT", "BUSYGROUP", "NOGROUP", "UNBLOCKED"})
"""Answers that their callers understand; no log line."""

_WORD = re.compile(r"[A-Z]+(?= |$)")
_INSIDE = re.compile(r"because of: ([A-Z]+.*)")
_ARGUMENTS = re.compile(r"(unknown (?:sub)?command '?[^,]*),.*", re.DOTALL)
_MOST = 300
_reported: defaultdict[str, LogThrottle] = defaultdict(LogThrottle)


def code_of(text: str) -> str:
    """The word by which Redis names an error: of the command, or of the one that spoilt a transaction."""
    if text.startswith("EXECABORT") and (inside := _INSIDE.search(text)):
        text = inside[1]
    for phrase in ("ERR max number of clients reached", "ERR unknown command"):
        if text.startswith(phrase):
            return phrase
    word = _WORD.match(text)
    return word[0] if word else "ERR"


def refusal(text: str) -> DynamoError:
    """Return the exception for an error reply of Redis, and log the reply, unless its caller expects it."""
    code = code_of(text)
    if code not in EXPECTED and _reported[code].due():
        # The arguments of a command that it does not know are not for a log.
        event("store.refused", error=_ARGUMENTS.sub(r"\1", text)[:_MOST])
    if passing := PASSING.get(code):
        return passing.error(passing.message, retry_after=RETRY_AFTER)
    return ReplyError(_LASTING.get(code, f"the Redis server refused a command ({code})"), text=text)
