"""The fields of a record, which is a hash in Redis: what each of them is, and the short name that it has there.

The names are short since what is left of a record stays for 24 hours: with whole words it would be a fifth larger (464
bytes instead of 384, of a chat). They are written out here alone. In Python a field is ``Field.STATE``; in the Lua
scripts ``F.state``, and ``r.state`` of a record that was read: :func:`coded` puts the short names there.

A field at its default is missing: empty, 0, a weight of 1; 5 s, an hour and 60 s for ``ABANDON_AFTER``, ``RETENTION``
and ``READ_RETENTION``. Times are milliseconds. Once a request is settled, its record keeps only what is asked for
afterwards (``lua/lib/settled.lua``).
"""

from __future__ import annotations

import re
from enum import StrEnum

__all__ = ["Field", "coded"]


class Field(StrEnum):
    """A field: its word is the member's name, its value the name in Redis."""

    NEEDS = "v"
    """Protocol version that its worker must speak."""
    STATE = "st"
    ENDPOINT = "en"
    QUEUE = "q"
    """Key of its queue, without the priority."""
    SUFFIX = "qs"
    """What a priority adds to that key."""
    MESSAGE = "msg"
    """The Celery message, until it ends."""
    CREATED = "cr"
    NOT_BEFORE = "nb"
    DEADLINE = "dl"
    EXPIRES = "ex"
    """A worker must have started it by then."""
    STARTED = "stt"
    FINISHED = "fin"
    READERS = "rd"
    """Channels of its readers, separated by spaces."""
    RENDER = "rnd"
    """How a frontend renders it."""
    OWNER_KEY = "ok"
    TENANT = "tn"
    WEIGHT = "tw"
    """Of the tenant."""
    ACCOUNT = "ac"
    """What it is charged to its API key, until its end; see ``lua/lib/account.lua``."""
    MARKS = "mk"
    """Of its prompt, where it may wait for late binding; see :mod:`dynamo_tasks.router.late`."""
    WHY = "why"
    """Why its worker took it, as JSON, where it was bound late."""
    BACKGROUND = "bg"
    PREEMPTIBLE = "pe"
    """Its worker may release it for others."""
    ABANDON_AFTER = "ab"
    RETENTION = "rt"
    """Of the log, without a reader."""
    READ_RETENTION = "rs"
    """Of the log, after the last reader saw the end."""
    IGNORE_RESULT = "ig"
    DOCUMENT = "doc"
    """Whether it has a document of its own key."""
    DIGEST = "dg"
    """Of the payload, where it is the only one that the id stands for."""
    OWNER = "own"
    """Lease of the instance that runs it, or its completion."""
    NONCE = "non"
    """Of the owner's claim."""
    EPOCH = "ep"
    PREVIOUS = "prev"
    """Id on top of the log before the claim."""
    ATTEMPTS = "att"
    IDLE_ATTEMPTS = "bar"
    """Attempts that ended with their worker and added no token."""
    PREEMPTIONS = "pc"
    """How often it was released for others."""
    RETRIES = "ret"
    """Celery's retry number."""
    TRACEPARENT = "tp"
    """Of the last attempt, while spans are recorded."""
    END_ID = "end"
    """Id of the end event."""
    FINISH_REASON = "fr"
    USAGE = "us"
    """Prompt, completion and cached tokens."""
    RESULT = "out"
    """As JSON."""
    ERROR = "err"
    """As JSON."""
    SETTLED = "set"
    PURGED = "pur"
    DEAD_MESSAGE = "dmsg"
    """The message of a request in the dead list."""


_CODES = {field.name.lower(): field.value for field in Field}
_IN_LUA = re.compile(r"\b([Fr])\.(\w+)\b")


def coded(lua: str) -> str:
    """A script with the names in Redis for ``F.state`` (a text) and ``r.state`` (of a record)."""

    def code(match: re.Match[str]) -> str:
        name = f"'{_CODES[match[2]]}'"
        return name if match[1] == "F" else f"r[{name}]"

    return _IN_LUA.sub(code, lua)
