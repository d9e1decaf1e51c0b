"""A release that is newer than this one: a copy of the package that really speaks another protocol version.

Everything that docs/upgrading.md allows a newer release to add is in it, so that processes of both can be run side by
side: a protocol version, fields of registrations, records, messages and end events, a kind of event, other scripts, and
requests that need a newer worker (those of priority 3).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.processes import ROOT

__all__ = ["NEWER_PRIORITY", "make_newer"]

NEWER_PRIORITY = 3
"""Requests of this priority need a newer worker, if a newer frontend submits them."""

# File, what it says (once), what it says in the newer release.
_EDITS: list[tuple[str, str, str]] = [
    ("protocol/versions.py", "PROTOCOL = 1", "PROTOCOL = 2"),
    (
        "protocol/instances.py",
        "    version: int = PROTOCOL",
        '    version: int = PROTOCOL\n    zone: str = "north"',
    ),
    (
        "protocol/instances.py",
        '    state: str = "Running"',
        '    state: str = "Running"\n    heat: float = 1.5',
    ),
    (
        "protocol/events.py",
        "    previous: str | None = None",
        "    previous: str | None = None\n    news: int = 0",
    ),
    (
        "queue/execution/call.py",
        "usage=self._usage, values=self._value)",
        "usage=self._usage, values=self._value, news=1)",
    ),
    (
        "queue/broker/envelope.py",
        '{"v": PROTOCOL},\n}  # fmt',
        '{"v": PROTOCOL, "news": 1}, "x-news": 1,\n}  # fmt',
    ),
    (
        "store/ledger/submission.py",
        "[Field.NEEDS, self.needs]",
        '[Field.NEEDS, self.needs, "news", "1"]',
    ),
    (
        "store/ledger/lua/lib/records.lua",
        "local function fields",
        "-- Another release.\nlocal function fields",
    ),
    ("store/ledger/lua/claim.lua", "    F.previous, previous,", "    'by', speaks, F.previous, previous,"),
    (
        "store/streams/open_stream.py",
        "        for kind, values in self._pending:\n            data =",
        "        if self._pending and self._seq == 0:\n            self._seq, self._waiting = 1, self._waiting + 1\n"
        '            self.frozen.append(Entry(1, "x", b"\\xc1"))\n'
        "        for kind, values in self._pending:\n            data =",
    ),
    (
        "services/gateway.py",
        "            owner_key=submission.owner_key,\n",
        "            owner_key=submission.owner_key,\n"
        f"            needs=2 if submission.options.priority == {NEWER_PRIORITY} else 1,\n",
    ),
]


def make_newer(folder: Path) -> Path:
    """Make it; returns the folder to run it from."""
    for name in ("dynamo_tasks", "workers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text, replacement in _EDITS:
        path = folder / "dynamo_tasks" / name
        source = path.read_text()
        assert source.count(text) == 1, f"{name} says {source.count(text)} times {text!r}"
        path.write_text(source.replace(text, replacement))
    return folder
