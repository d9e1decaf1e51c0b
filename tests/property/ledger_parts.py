"""The clock of the ledger's state machine, and the processes that it simulates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.store.ledger import submission
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.scripts import Script, script

__all__ = ["CLOCK", "START", "Held", "Instance", "clock", "simulated_clock"]

CLOCK = "dt:@test_clock"
START = 1_000_000
_NOW = """local function now_ms()
  if not asked_at then
    local t = redis.call('TIME')
    asked_at = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
  end
  return asked_at
end"""
_SIMULATED = f"local function now_ms() return tonumber(redis.call('GET', '{CLOCK}')) end"


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
    """The scripts take the time from a key; one of them may be mutated: ``(script, text, its replacement)``."""
    originals = {name: (script(name).source, script(name).sha) for name in names}
    real, submission._clock = submission._clock, lambda: clock.now / 1000
    try:
        mutated = sum([_simulate(name, mutant) for name in names])
        assert mutant is None or mutated, f"{mutant[0]} does not say {mutant[1]!r}"
        yield
    finally:
        submission._clock = real
        for name, (source, sha) in originals.items():
            script(name).source, script(name).sha = source, sha


def _simulate(name: str, mutant: tuple[str, str, str] | None) -> bool:
    """Change one script; whether it is the mutated one."""
    made, mutated = script(name), False
    assert ("now_ms" in made.source) == (_NOW in made.source)
    made.source = made.source.replace(_NOW, _SIMULATED)
    if mutant is not None and mutant[0] in (name, "_lib"):
        mutated = mutant[1] in made.source
        made.source = made.source.replace(mutant[1], mutant[2])
    made.sha = Script.digest(made.source)
    return mutated


@dataclass
class Held:
    """An attempt that a process believes to own."""

    attempt: Attempt
    top: EventId
    values: int
    retries: int
    tail: bool


@dataclass
class Instance:
    """A process: dead once it is replaced; a zombie while others take it for dead."""

    endpoint: EndpointId
    lease: int
    hand: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    tails: set[str] = field(default_factory=set)
    unaccounted: set[str] = field(default_factory=set)
    counter: int = 0

    @property
    def info(self) -> InstanceInfo:
        """Its registration."""
        return InstanceInfo(
            component=self.endpoint.component, endpoint=self.endpoint.name, namespace=self.endpoint.namespace,
            lease_id=self.lease, transport={}, host="h", pid=self.lease % 1000, started=1.0,
        )  # fmt: skip
