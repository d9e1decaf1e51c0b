"""Settings of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.calls.service_caller import ASYNC_TIMEOUT, MAX_IN_FLIGHT, SYNC_TIMEOUT

__all__ = ["Settings"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings that ``config=`` of an environment may hold.

    Attributes:
        namespace: Where a remote job runs; its workers are the component ``Operators`` of that namespace.
        redis_url: Of the Redis server, for a remote job; ``DYNAMO_REDIS_URL``, else the embedded server, by default.
        queue_size: Records that may wait for a task of an operator; a producer with more waits.
        on_error: Error policy of operators that name none.
        dead_letter_limit: Dead letters that a job keeps; one more fails it.
        timeout: Seconds that ``call_service`` waits by default.
        async_timeout: Seconds after which the future of ``call_service_async`` fails by default.
        max_in_flight: Asynchronous calls that may wait for their response at once.
        ray_address: Of the Ray cluster; ``RAY_ADDRESS`` by default, else one is started within this process's life.
        max_restarts: How often Ray starts a lost actor again.
        hang_timeout: Seconds that the process of an actor may be silent: then it counts as lost. More than a process
            takes to start.
    """

    namespace: str = "pipelines"
    redis_url: str | None = None
    queue_size: Positive = 256
    on_error: Literal["fail", "skip", "dead_letter"] = "fail"
    dead_letter_limit: Positive = 10_000
    timeout: Seconds = SYNC_TIMEOUT
    async_timeout: Seconds = ASYNC_TIMEOUT
    max_in_flight: Positive = MAX_IN_FLIGHT
    ray_address: str | None = None
    max_restarts: Annotated[int, msgspec.Meta(ge=0)] = 3
    hang_timeout: Seconds = 30.0

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Settings:
        """Read a mapping.

        Raises:
            ConfigError: an unknown key, or a value that is not allowed; names it.
        """
        given = dict(config or {})
        for key in given:
            if key not in cls.__struct_fields__:
                raise ConfigError(f"environment setting {key!r}{suggest(str(key), cls.__struct_fields__)}")
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as exc:
            raise ConfigError(f"environment setting: {exc}") from None
