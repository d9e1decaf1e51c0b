"""The number of instances of a component that is wanted, by whom, and what each ``serve`` has of them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dynamo_tasks.errors import ConfigError

__all__ = ["Bounds", "Fleet", "Scale", "ScaledBy"]


class ScaledBy(StrEnum):
    """The source of a wanted number."""

    HAND = "hand"
    """``dynamo-tasks scale COMPONENT N``: goes before all others, until ``scale COMPONENT auto``."""
    PLANNER = "planner"
    QUEUE = "queue"
    """None ran, and a request came."""
    IDLE = "idle"
    """No request came for as long as ``scale.idle`` says."""
    TURN = "turn"
    """Another model with the same ``scale.share`` was waited for, and its turn was over."""
    START = "start"
    """It was deployed, and nobody has said anything since."""


class Bounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """The bounds of a component, as its deployment gives them.

    Attributes:
        min: Fewest instances.
        max: Most; 0 = no limit.
        idle: Seconds without requests after which it goes to ``min``; 0 = it does not by itself.
        workers: Instances to begin with, and to start when a request comes while none runs.
        planned: Whether a planner says how many.
        share: Name of the device that it shares with other components by turns; empty = with none.
        turn: Seconds that it may serve while requests wait for another one of these.
        sleep: How deep its engines sleep where they can, while it is not its turn; 0 = their processes end.
        start: Seconds that a process may take until it serves, and then be silent at most; 0 = no limit.
    """

    min: int = 0
    max: int = 0
    idle: float = 0.0
    workers: int = 1
    planned: bool = False
    share: str = ""
    turn: float = 60.0
    sleep: int = 1
    start: float = 0.0

    @property
    def automatic(self) -> bool:
        """``True`` if the number changes without anybody's hand."""
        return self.planned or self.idle > 0 or self.min == 0

    def clamp(self, wanted: int) -> int:
        """The allowed number that is nearest."""
        least = max(self.min, wanted)
        return min(self.max, least) if self.max else least

    def check(self, component: str, wanted: int) -> None:
        """Refuse a number out of bounds.

        Raises:
            ConfigError: says what is allowed.
        """
        if wanted != self.clamp(wanted):
            allowed = f"{self.min} to {self.max}" if self.max else f"{self.min} or more"
            raise ConfigError(
                f"{component}: {wanted} instances are not allowed; its `scale` allows {allowed}"
            )


class Fleet(msgspec.Struct, omit_defaults=True):
    """The processes that one ``serve`` has for a component.

    Attributes:
        running: Those that are registered, and do not sleep.
        starting: Those that are not yet registered, or being woken.
        draining: Those that end what they run, and then themselves, or fall asleep.
        asleep: Those that sleep.
        most: As many as it could have, by its devices; ``None`` = any number.
        share: As many as it is to have.
        note: Why it has not as many as it should; for people.
        failed: Whether they were tried and do not start; tried again later.
        hung: Whether one was killed in its start because that took too long; others on its device go first.
        startup: Seconds that the last start took; 0 = none was seen.
        at: When this was said, Unix seconds by Redis's clock.
    """

    running: int = 0
    starting: int = 0
    draining: int = 0
    asleep: int = 0
    most: int | None = None
    share: int = 0
    note: str = ""
    failed: bool = False
    hung: bool = False
    startup: float = 0.0
    at: float = 0.0

    @property
    def size(self) -> int:
        """Processes that are to stay."""
        return self.running + self.starting + self.asleep

    @property
    def awake(self) -> int:
        """Processes that may hold memory of a device."""
        return self.running + self.starting + self.draining


class Scale(msgspec.Struct):
    """A component's number of instances.

    Attributes:
        component: Its name.
        wanted: As many as are wanted; ``None`` where nobody has said: each ``serve`` has as many as it is
            configured with.
        by: Who said so.
        since: When, Unix seconds; 0 = never.
        bounds: Of its deployment; ``None`` where it has none.
        fleets: What each ``serve`` has, by its name.
    """

    component: str
    wanted: int | None = None
    by: ScaledBy = ScaledBy.START
    since: float = 0.0
    bounds: Bounds | None = None
    fleets: dict[str, Fleet] = {}

    @property
    def off(self) -> bool:
        """``True`` while somebody has turned it off by hand: no request starts it."""
        return self.wanted == 0 and self.by is ScaledBy.HAND

    @property
    def rests(self) -> bool:
        """``True`` if requests are taken while no instance runs: one is started for them."""
        return not self.off and self.bounds is not None and self.bounds.min == 0

    @property
    def failed(self) -> str:
        """Why it cannot be started anywhere; empty while it can, or nobody has tried."""
        notes = [fleet.note for fleet in self.fleets.values() if fleet.failed]
        return notes[0] if notes and len(notes) == len(self.fleets) else ""

    @property
    def pauses(self) -> bool:
        """``True`` while nobody tries to start it, since the last start hung or several failed."""
        return bool(self.fleets) and all(fleet.failed or fleet.hung for fleet in self.fleets.values())

    @property
    def note(self) -> str:
        """The reason why there are not as many as are wanted, if somebody knows."""
        return next((fleet.note for fleet in self.fleets.values() if fleet.note), "")

    @property
    def starting(self) -> int:
        """Processes that are not registered yet."""
        return sum(fleet.starting for fleet in self.fleets.values())

    @property
    def draining(self) -> int:
        """Processes that end."""
        return sum(fleet.draining for fleet in self.fleets.values())

    @property
    def asleep(self) -> int:
        """Processes that sleep."""
        return sum(fleet.asleep for fleet in self.fleets.values())

    @property
    def awake(self) -> int:
        """Processes that may hold memory of a device."""
        return sum(fleet.awake for fleet in self.fleets.values())

    @property
    def share(self) -> str:
        """Name of the device that it shares by turns; empty where it has its own."""
        return self.bounds.share if self.bounds is not None else ""

    @property
    def startup(self) -> float:
        """Seconds that a start takes, as far as one was seen; else 0."""
        return max((fleet.startup for fleet in self.fleets.values()), default=0.0)
