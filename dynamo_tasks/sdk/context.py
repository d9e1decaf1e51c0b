"""What an endpoint may ask about the request that it is serving."""

from __future__ import annotations

import asyncio
import uuid
from contextvars import ContextVar
from typing import Any, NoReturn

from dynamo_tasks.protocol.names import EndpointId

__all__ = ["Context", "ForwardRequested", "RetryRequested", "current_context"]


class RetryRequested(Exception):  # noqa: N818 - a request, not an error
    """The endpoint asks Celery to run it again later.

    Attributes:
        cause: The error that made it ask, if any.
        countdown: Seconds to wait; ``None`` = the task's ``default_retry_delay``.
        max_retries: Overrides the task's own limit.
    """

    def __init__(
        self,
        cause: BaseException | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
    ):
        super().__init__(f"retry requested: {cause}" if cause else "retry requested")
        self.cause = cause
        self.countdown = countdown
        self.max_retries = max_retries


class ForwardRequested(Exception):  # noqa: N818 - a request, not an error
    """The endpoint hands the request on to an instance of another endpoint.

    Attributes:
        endpoint: Who shall serve it; of the same namespace.
        instance_id: The lease of the chosen instance.
    """

    def __init__(self, endpoint: EndpointId, instance_id: int):
        super().__init__(f"forwarded to {endpoint}, instance {instance_id:x}")
        self.endpoint = endpoint
        self.instance_id = instance_id


class Context:
    """A request as its endpoint sees it.

    Attributes:
        id: Request id (= Celery task id).
        endpoint: Its address as text.
        attempt: 1 for the first claim.
        retries: Celery's retry number.
        deadline: Unix time by which it must have ended; 0 = none.
        headers: Headers of the message.
        logged: What earlier attempts have put out, for an endpoint with policy ``continue`` to go on behind.
    """

    def __init__(
        self, request_id: str, endpoint: str = "", *, attempt: int = 1, retries: int = 0, deadline: float = 0.0,
        headers: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.id = request_id
        self.endpoint = endpoint
        self.attempt = attempt
        self.retries = retries
        self.deadline = deadline
        self.headers = headers or {}
        self.logged: list[Any] = []
        self._stopped = asyncio.Event()
        self._calls = 0

    @property
    def is_stopped(self) -> bool:
        """Whether the request was cancelled; long-running plain functions should look at it."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Note that the request was cancelled."""
        self._stopped.set()

    async def stopped(self) -> None:
        """Wait until the request is cancelled."""
        await self._stopped.wait()

    def child_id(self) -> str:
        """Id of the next queued call that this request makes: the same when the request is run again."""
        self._calls += 1
        return str(uuid.uuid5(_as_uuid(self.id), str(self._calls)))

    def retry(
        self,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """Give up this run and ask Celery for another one.

        Raises:
            RetryRequested: always.
        """
        raise RetryRequested(exc, countdown, max_retries)

    def forward(self, endpoint: EndpointId, instance_id: int) -> NoReturn:
        """Hand the request on before anything was yielded: its id and its stream stay, and this run does not count.

        Args:
            endpoint: Who shall serve it; of the same namespace.
            instance_id: The lease of the chosen instance; if it is gone, any other one takes the request.

        Raises:
            ForwardRequested: always.
        """
        raise ForwardRequested(endpoint, instance_id)


def _as_uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, text)


_current: ContextVar[Context | None] = ContextVar("dynamo_context", default=None)


def current_context() -> Context | None:
    """The request that the calling endpoint serves; ``None`` outside of endpoints."""
    return _current.get()


def enter_context(context: Context | None) -> None:
    """Make ``context`` the current one for the running asyncio task (or thread)."""
    _current.set(context)
