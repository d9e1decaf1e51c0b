"""A pipeline at work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from dynamo_tasks.pipelines.graph.operators import DeadLetter

__all__ = ["Job", "JobState", "JobStatus", "OperatorStatus"]


class JobState(StrEnum):
    """State of a job.

    ::

        RUNNING ─▶ SUCCEEDED   the last record is through
           │ ╰───▶ FAILED      an operator could not go on
           ╰─────▶ STOPPING ─▶ STOPPED
    """

    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"

    @property
    def is_over(self) -> bool:
        """``True`` once it does nothing any more."""
        return self in (JobState.SUCCEEDED, JobState.STOPPED, JobState.FAILED)


@dataclass(frozen=True)
class OperatorStatus:
    """One operator of a job.

    Attributes:
        name: Of the operator.
        kind: ``batch``, ``source``, ``map``, …
        parallelism: Tasks.
        records_in: Records that it took.
        records_out: Records that it gave.
        skipped: Records that it passed over.
        dead: Records that it put among the dead letters.
        lag: Records that wait for it.
        rate: Records that it takes per second, since it started.
    """

    name: str
    kind: str
    parallelism: int
    records_in: int
    records_out: int
    skipped: int
    dead: int
    lag: int
    rate: float


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment.

    Attributes:
        id: Of the job.
        name: Of its environment.
        backend: ``local``, ``celery`` or ``ray``.
        state: See :class:`JobState`.
        started: Unix time.
        error: What it failed with.
        operators: In the order of their declaration.
        services: Statistics of each service.
        unbegun: Tasks and services for which no worker has had a slot yet; on Celery.
    """

    id: str
    name: str
    backend: str
    state: JobState
    started: float
    error: str | None = None
    operators: list[OperatorStatus] = field(default_factory=list)
    services: list[dict[str, Any]] = field(default_factory=list)
    unbegun: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The status as a plain dict, for JSON."""
        return asdict(self)


class Job(ABC):
    """A submitted pipeline.

    Attributes:
        id: ``<environment>-<8 hex digits>``.
        name: Of its environment.
    """

    id: str
    name: str

    @abstractmethod
    def wait(self, timeout: float | None = None) -> JobStatus:
        """Wait until it is over and all that it started is gone.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: it is not over by then; it goes on.
            JobFailedError: it failed; the operator's error is the cause, where it came from this process.
        """

    @abstractmethod
    def stop(self, *, drain: bool = True, timeout: float | None = None) -> JobStatus:
        """End it: sources stop, and what is on its way goes through (without ``drain``, it is dropped).

        Args:
            drain: Whether to finish what is on its way.
            timeout: Seconds to wait for the end.

        Raises:
            TimeoutError: it has not ended by then.
        """

    @abstractmethod
    def status(self) -> JobStatus:
        """Report the status of the job."""

    @property
    def is_over(self) -> bool:
        """``True`` once it does nothing any more."""
        return self.status().state.is_over

    @abstractmethod
    def results(self) -> Iterator[Any]:
        """The records of ``collect()``, as they come, until the job is over; from the first on at each call.

        Only a job in this process (or on Ray) whose source never ends gives each of them once.
        """

    @abstractmethod
    def dead_letters(self) -> list[DeadLetter]:
        """Records that operators with policy ``dead_letter`` could not handle."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"
