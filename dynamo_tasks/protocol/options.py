"""The options of one request: one name, unit and default for each, the same on every way into the queue."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["LAST_PRIORITY", "Priority", "RequestOptions", "Seconds", "Weight"]

LAST_PRIORITY = 9
"""The priority of what uses spare capacity alone, unless a caller names another."""
Priority = Annotated[int, Meta(ge=0, le=9)]
Seconds = Annotated[float, Meta(ge=0, le=10**9)]
Weight = Annotated[float, Meta(ge=0.001, le=1000)]


class RequestOptions(Struct, kw_only=True, omit_defaults=True, gc=False):
    """The options of one request, whichever way it comes: HTTP, Celery, an endpoint that calls another, a job.

    Spans are seconds. Moments (``deadline``, ``expires``, ``not_before``) are Unix times by the clock of this process,
    0 = none; what goes to Redis is the time left until then, so that no two machines compare clocks. Callers that
    name a span instead (``timeout`` of HTTP, ``deadline`` of ``apply_async``) have it added to the time that is now.

    Attributes:
        priority: 0 (first) to 9.
        not_before: No worker may start it earlier.
        deadline: It must have ended by then.
        expires: A worker must have started it by then.
        background: It runs on when nobody reads it.
        abandon_after: Seconds without any reader after which it is cancelled.
        retention: Seconds for which its finished stream is kept; ``None`` = 60 s after the last reader saw the end, an
            hour where nobody did.
        ignore_result: Celery's result backend keeps nothing of it.
        idempotency_key: The same key of the same tenant gives the same request; empty = none.
        tenant: Whose request it is: whose turns it takes, and the scope of its idempotency key.
        weight: The tenant's share of a component that is not enough for all.
        max_queue: Most requests that may wait for the component; 0 = only what its workers have told Redis.
        preemptible: It uses spare capacity: its worker may release it for others, and it goes on later where it was.
    """

    priority: Priority = 0
    not_before: float = 0.0
    deadline: float = 0.0
    expires: float = 0.0
    background: bool = False
    abandon_after: Seconds = 5.0
    retention: Seconds | None = None
    ignore_result: bool = False
    idempotency_key: str = ""
    tenant: str = ""
    weight: Weight = 1.0
    max_queue: int = 0
    preemptible: bool = False
