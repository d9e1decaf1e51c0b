"""The description of a supervised process, and the policy by which it is started again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dynamo_tasks.config import ResolvedConfig
from dynamo_tasks.planner import Policy
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.protocol.scale import Bounds

__all__ = ["Deployment", "Notice", "NoticeKind", "ProcessPlan", "ProcessSpec", "RestartPolicy"]


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """The policy by which a process that ended is started again.

    Attributes:
        max_quick_failures: After so many quick ends in a row it is given up.
        quick_s: A run shorter than this many seconds is a quick end, and so is any end before everything was
            ready for the first time; a longer run resets the count.
        base_s: Seconds before the first new start; doubled with each further quick end.
        max_s: Longest wait in seconds.
        jitter: Share by which a wait is varied, so that many workers don't come back at once.
        fatal_codes: Exit codes that no new start can mend (2 = bad configuration) as long as not everything
            was ready once. A process that has served is always given another chance.
    """

    max_quick_failures: int = 5
    quick_s: float = 10.0
    base_s: float = 0.5
    max_s: float = 15.0
    jitter: float = 0.2
    fatal_codes: frozenset[int] = frozenset({2, 127})

    def delay(self, failures: int) -> float:
        """Seconds to wait after the n-th quick end in a row (0 = the run was a long one)."""
        wait: float = min(self.max_s, self.base_s * 2.0 ** max(0, failures - 1))
        return jittered(wait, 1 - self.jitter, 1 + self.jitter)


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """One process to supervise.

    Attributes:
        name: Unique, shown before each of its log lines: ``Worker-0``.
        argv: Program and arguments.
        env: Variables on top of the supervisor's own environment.
        service: Name of the service that it serves; several processes may serve one.
        gpus: How many it needs; below 1 a share of one.
        port: What it serves HTTP on; 0 = a free port that it finds itself, ``None`` = no HTTP.
        system_port: Where it serves metrics and probes; 0 = a free port, ``None`` = nowhere.
        registers: Whether it enters the registry once it serves.
        elastic: Whether there may be none of its service: its end for good is told, and does not end all others.
        turn: Name of the device that it has by turns, with its namespace, and its component: those of other components
            get the same device under the same name; ``None`` = it has one of its own.
        restart: When it is started again.
        ready: Asked about ten times a second after a start, until it says True. ``None``: a process is ready
            as soon as it runs.
    """

    name: str
    argv: tuple[str, ...]
    service: str
    gpus: float = 0
    port: int | None = None
    system_port: int | None = None
    registers: bool = True
    elastic: bool = False
    turn: tuple[str, str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    restart: RestartPolicy = RestartPolicy()
    ready: Callable[[], Awaitable[bool]] | None = None


class NoticeKind(StrEnum):
    """The kind of an event in the life of a process."""

    STARTED = "started"
    READY = "ready"
    RESTARTING = "restarting"
    """It ended and will be started again."""
    FAILED = "failed"
    """It ended and is given up."""
    KILLED = "killed"
    """It did not stop in time when asked to."""


@dataclass(frozen=True)
class Notice:
    """One event in the life of a supervised process.

    Attributes:
        kind: What happened.
        spec: To whom.
        text: For people: pid, reason, next step.
    """

    kind: NoticeKind
    spec: ProcessSpec
    text: str


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A component whose number of processes may change.

    Attributes:
        service: Its name in the graph.
        namespace: Of the component.
        component: Its name there.
        bounds: What its ``scale`` says; ``None`` where it says nothing: somebody's hand may still change it.
        workers: Processes that it has while nobody has said how many.
        spec: Gives the n-th process, from 0.
        cards: Registrations of its models, as far as they are known before its first start.
        policy: Makes the policy that says how many are wanted; ``None`` = there is none.
    """

    service: str
    namespace: str
    component: str
    bounds: Bounds | None
    workers: int
    spec: Callable[[int], ProcessSpec]
    cards: tuple[InstanceInfo, ...] = ()
    policy: Callable[[], Policy] | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessPlan:
    """The processes to run.

    Attributes:
        processes: In the order of their start: components first, the HTTP process last.
        config: The resolved settings with their origins.
        http: Name of the service that serves HTTP; ``None`` when none is started.
        components: ``namespace.Component`` → number of instances to expect.
        graph: ``module:Class`` of the entry service.
        deployments: Those of its components that have processes of their own.
    """

    processes: tuple[ProcessSpec, ...]
    config: ResolvedConfig
    http: str | None = None
    components: Mapping[str, int] = field(default_factory=dict)
    graph: str = ""
    deployments: tuple[Deployment, ...] = ()
