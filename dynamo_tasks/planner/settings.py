"""Settings of the policies, as they stand under ``planner:`` of a component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.planner.limits import Limits

__all__ = ["FixedSettings", "LoadSettings", "PlannerSettings", "read_settings"]

Count = Annotated[int, Meta(ge=0, le=10_000)]
Some = Annotated[int, Meta(ge=1, le=10_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Pause = Annotated[float, Meta(ge=0, le=86_400)]
Share = Annotated[float, Meta(gt=0, le=1)]


class PlannerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that all policies know.

    Attributes:
        min: Fewest workers.
        max: Most workers.
        interval: Seconds from one look to the next.
    """

    policy: ClassVar[str]

    min: Count = 1
    max: Some = 8
    interval: Seconds = 5.0

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")


class FixedSettings(PlannerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``fixed``.

    Attributes:
        workers: How many, within ``min`` and ``max``.
    """

    policy = "fixed"

    workers: Count = 1


class LoadSettings(PlannerSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``load``.

    Attributes:
        ttft: Target of the time to the first token, seconds.
        itl: Target of the mean time between tokens, seconds.
        goal: Share of the requests that shall keep each target, as far as more workers help them.
        kv_usage: Share of the KV caches that may be in use.
        step: Most workers that one decision adds or takes away.
        cool_down: Seconds for which fewer workers must have been enough before one goes.
        start_up: Seconds that a worker takes from its start to its first request.
        busy: Share of the slots that may be in use; what holds where no times are measured.
    """

    policy = "load"

    ttft: Seconds = 0.5
    itl: Seconds = 0.05
    goal: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.95
    kv_usage: Share = 0.8
    step: Some = 2
    cool_down: Pause = 120.0
    start_up: Pause = 60.0
    busy: Share = 0.8

    @property
    def limits(self) -> Limits:
        """The bounds of every answer."""
        return Limits(min=self.min, max=self.max, step=self.step, cool_down=self.cool_down)


_Settings = TypeVar("_Settings", bound=PlannerSettings)


def read_settings(kind: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Read the settings of one policy.

    Args:
        kind: Its class of settings.
        given: Values by name; dashes in names count as underscores.

    Raises:
        ConfigError: an unknown name (names the nearest and all known ones), or a value that is not allowed.
    """
    named = {str(name).replace("-", "_"): value for name, value in given.items()}
    for name in named:
        if name not in kind.__struct_fields__:
            raise ConfigError(
                f"planner policy {kind.policy!r} has no setting {name!r}{suggest(name, kind.__struct_fields__)}"
            )
    try:
        return msgspec.convert(named, kind)
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$.")
        which = f"planner.{at.rstrip('`')}" if at else "planner"
        raise ConfigError(f"{which}: {problem}") from error
