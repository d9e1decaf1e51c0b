"""The root of all errors, those of the configuration, and those that stay inside of the system."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BY_CODE",
    "ConfigError",
    "DynamoError",
    "FencedError",
    "InstanceDeadError",
    "InvalidNameError",
    "LeaseLostError",
    "ProtocolError",
]

BY_CODE: dict[str, type[DynamoError]] = {}
"""The class of each code; of the first one where several share it."""


class DynamoError(Exception):
    """Something went wrong inside dynamo-tasks."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str | None = None, *, param: str | None = None, retry_after: float | None = None
    ):
        """Make the error.

        Args:
            message: What happened and what to do; the class docstring by default.
            param: The field of the request that is at fault, e.g. ``messages[0].role``.
            retry_after: Seconds after which a retry makes sense.
        """
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])
        self.param = param
        self.retry_after = retry_after

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        BY_CODE.setdefault(cls.code, cls)

    @property
    def message(self) -> str:
        """The text of the error."""
        return str(self.args[0]) if self.args else ""


class ConfigError(DynamoError, ValueError):
    """The configuration is not valid."""

    code = "invalid_config"
    http_status = 400


class InvalidNameError(ConfigError):
    """A namespace, component or endpoint name has a character that is not allowed."""

    code = "invalid_name"


class ProtocolError(DynamoError):
    """Something was read from Redis that neither this release nor a peer of it writes."""

    code = "protocol_error"


class FencedError(DynamoError):
    """Another attempt owns the request now."""

    code = "fenced"


class InstanceDeadError(DynamoError):
    """A liveness probe of what this process serves said no."""

    code = "instance_dead"


class LeaseLostError(DynamoError):
    """The lease of this instance is gone."""

    code = "lease_lost"
