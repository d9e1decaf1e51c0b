"""A job on Ray: the process that submits it moves the records, actors handle them.

Sources, ``collect()`` and ``print()`` run in that process; every other task of an operator is an actor. A chunk is one
call: an actor that is lost is started again and asked for the same chunk again, and nothing of a chunk goes on before
all of it was answered. So a lost actor loses and repeats no record after it.
Ray sees a process that has died, and not one that lives and does nothing any more: those are looked for here.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import msgspec

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.errors import EndpointError, InvalidRequestError, WorkerLostError
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.calls.context import ServiceContext
from dynamo_tasks.pipelines.calls.factory import ServiceFactory
from dynamo_tasks.pipelines.calls.queues import QueueDescriptor, RecordChannel
from dynamo_tasks.pipelines.datastream import print_record
from dynamo_tasks.pipelines.graph.functions import Bound
from dynamo_tasks.pipelines.graph.operators import SOURCES, Record, Stage
from dynamo_tasks.pipelines.job_services import JobServices, create_service_task
from dynamo_tasks.pipelines.local.job import LocalJob
from dynamo_tasks.pipelines.local.tasks import Edge, Task
from dynamo_tasks.pipelines.plans.plan import Plan, make_plan, plan_operator, plan_service
from dynamo_tasks.pipelines.ray.actors import Handled, OperatorActor
from dynamo_tasks.pipelines.ray.cluster import ActorWrapper
from dynamo_tasks.pipelines.ray.queue import RayQueueDescriptor
from dynamo_tasks.protocol.plain import NOT_PLAIN, encode_plain

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.environment import BaseEnvironment

__all__ = ["ActorWatch", "RayJob", "RayServices"]

_START = 60.0
"""Seconds until the first sign of life of a process that has just been started."""
_LOOKS = 5
"""How often it looks within the time-out."""


@dataclass
class _Sign:
    """A sign of life that an actor was asked for, and its deadline."""

    answer: Future[bool]
    until: float


class ActorWatch:
    """Asks actors for signs of life, and has those that give none killed and started again.

    An actor that is busy answers all the same: the user's code runs in threads of its own.

    Args:
        job_id: Of the actors' job.
        hang_timeout: Seconds that a process may be silent.
    """

    def __init__(self, job_id: str, hang_timeout: float):
        self._job_id = job_id
        self._timeout = hang_timeout
        self._signs: dict[ActorWrapper, _Sign] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, actor: ActorWrapper) -> None:
        """Watch an actor that was just started, until it is lost for good."""
        self._ask(actor, _START)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"{self._job_id}.watch")
            self._thread.start()

    def stop(self) -> None:
        """End; a second call does nothing."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._timeout / _LOOKS):
            for actor, sign in list(self._signs.items()):
                self._look(actor, sign)

    def _look(self, actor: ActorWrapper, sign: _Sign) -> None:
        if sign.answer.done():
            if isinstance(sign.answer.exception(), WorkerLostError):
                del self._signs[actor]
            else:
                self._ask(actor, self._timeout)
        elif time.monotonic() > sign.until:
            event("job.actor_hung", job=self._job_id, actor=actor.name, silent_s=self._timeout)
            actor.restart()
            self._ask(actor, _START)

    def _ask(self, actor: ActorWrapper, within: float) -> None:
        self._signs[actor] = _Sign(actor.call_async("alive"), time.monotonic() + within)


_CHUNK = 64
"""Most records of one call."""


class RayServices(JobServices):
    """All actors of one job.

    Raises:
        ConfigError: a service cannot travel to an actor; says what to do.
    """

    def __init__(self, environment: BaseEnvironment):
        super().__init__(environment)
        self._operators: list[ActorWrapper] = []
        settings = environment.config
        self._watch = ActorWatch(self.job_id, settings.hang_timeout)
        endpoints = environment.service_endpoints.values()
        if endpoints:
            settings = msgspec.structs.replace(settings, redis_url=settings.redis_url or resolve_redis_url())
        self.plan: Plan = make_plan(
            self.job_id, environment.name, settings, [], self._factories.values(), endpoints
        )

    def queue_of(self, name: str) -> QueueDescriptor:
        """See :meth:`JobServices.queue_of`."""
        return RayQueueDescriptor(self.job_id, plan_service(self._factories[name]))

    def make_task(self, factory: ServiceFactory, ctx: ServiceContext) -> BaseServiceTask:
        """See :meth:`JobServices.make_task`."""
        task = create_service_task(factory, ctx, plan=self.plan)
        self._watch.add(task.service)
        return task

    def start_operator(self, stage: Stage, index: int) -> ActorWrapper:
        """Start the actor of a task; it ends with the services."""
        actor = ActorWrapper.start(
            OperatorActor, self.plan.encode(), msgspec.json.encode(plan_operator(stage)), index,
            name=f"{self.job_id}.{stage.name}.{index}", max_restarts=self.plan.settings.max_restarts,
        )  # fmt: skip
        self._operators.append(actor)
        self._watch.add(actor)
        return actor

    def stop(self) -> None:
        """See :meth:`JobServices.stop`."""
        while self._operators:
            self._operators.pop().kill()
        super().stop()  # still watched: one that hangs is waited for
        self._watch.stop()


class _ActorTask:
    """Hands the records of a channel to an actor, chunk by chunk; its owner of hooks is itself."""

    def __init__(self, stage: Stage, actor: ActorWrapper, channel: RecordChannel[Record], job: RayJob):
        self.stage = stage
        self.function = Bound(self.run, self)
        self.counts = {"in": 0, "out": 0, "skipped": 0, "dead": 0}
        self._actor = actor
        self._channel = channel
        self._job = job

    def setup(self) -> None:
        """Wait until the actor is made."""
        _check(self._actor.ready())

    def close(self) -> None:
        """Run the function's ``close`` in the actor."""
        _check(self._actor.close())

    def run(self, edges: list[Edge]) -> None:
        while records := self._channel.take():
            for at in range(0, len(records), _CHUNK):
                self._handle(records[at : at + _CHUNK], edges)

    def _handle(self, records: list[Record], edges: list[Edge]) -> None:
        chunk = _encode(self.stage.name, records)
        handled = msgspec.json.decode(self._actor.handle(self.counts["in"], chunk), type=Handled)
        for key, more in handled.counts.items():
            self.counts[key] += more
        for record in handled.records:
            for edge in edges:
                edge.send(record)
        if handled.dead:
            self._job.add_dead_letters(handled.dead)
        _check(handled.error)


class RayJob(LocalJob):
    """See :class:`~dynamo_tasks.pipelines.graph.job.Job`; it ends with the process that submitted it."""

    backend: ClassVar[str] = "ray"
    services: RayServices

    def make_task(self, stage: Stage, index: int) -> Task:
        """See :meth:`LocalJob.make_task`."""
        if stage.kind in SOURCES or stage.kind == "collect" or stage.function.target is print_record:
            return super().make_task(stage, index)
        actor = self.services.start_operator(stage, index)
        return _ActorTask(stage, actor, self.channels[stage][index], self)


def _encode(name: str, records: list[Record]) -> bytes:
    try:
        return encode_plain(records)
    except NOT_PLAIN as exc:
        raise InvalidRequestError(f"records must be JSON to travel to {name}: {exc}") from exc


def _check(error: str | None) -> None:
    if error is not None:
        raise EndpointError(error)
