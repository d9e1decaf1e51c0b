"""The clock of the ledger's state machine, and the processes that it simulates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.store.ledger import submission
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.scripts import SOURCES, Script, assembled, script

__all__ = ["CLOCK", "START", "Held", "Instance", "clock", "simulated_clock"]

CLOCK = "dt:@test_clock"
START = 1_000_000
_SIMULATED = f"local function now_ms() return tonumber(redis.call('GET', '{CLOCK}')) end\n"


class _Clock:
    """The clock of the simulated processes: the scripts'."""

    def __init__(self) -> None:
        self.client: Any = None

    @property
    def now(self) -> int:
        """Milliseconds."""
        return int(self.client.get(CLOCK) or 0)


clock = _Clock()


@contextlib.contextmanager
def simulated_clock(names: list[str], mutant: tuple[str, str, str] | None = None) -> Iterator[None]:
    """The scripts take the time from a key; a file of theirs may be mutated: ``(file, text, its replacement)``."""
    sources = {**SOURCES, "lib/clock": _SIMULATED}
    if mutant is not None:
        file, text, replacement = mutant
        assert text in sources[file], f"{file} does not say {text!r}"
        sources[file] = sources[file].replace(text, replacement)
    originals = {name: script(name).source for name in names}
    patch = pytest.MonkeyPatch()
    patch.setattr(submission, "_clock", lambda: clock.now / 1000)
    try:
        for name in names:
            _say(name, assembled(name, sources))
        yield
    finally:
        patch.undo()
        for name, source in originals.items():
            _say(name, source)


def _say(name: str, source: str) -> None:
    script(name).source, script(name).sha = source, Script.digest(source)


@dataclass
class Held:
    """An attempt that a process believes to own."""

    attempt: Attempt
    top: EventId
    values: int
    retries: int
    completion: bool


@dataclass
class Instance:
    """A process: dead once it is replaced; a zombie while others take it for dead."""

    endpoint: EndpointId
    lease: int
    hand: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    completing: set[str] = field(default_factory=set)
    unaccounted: set[str] = field(default_factory=set)
    counter: int = 0

    @property
    def info(self) -> InstanceInfo:
        """Its registration."""
        return InstanceInfo(
            component=self.endpoint.component, endpoint=self.endpoint.name, namespace=self.endpoint.namespace,
            lease_id=self.lease, transport={}, host="h", pid=self.lease % 1000, started=1.0,
        )  # fmt: skip
