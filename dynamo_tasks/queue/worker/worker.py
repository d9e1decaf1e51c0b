"""Celery's worker on the event loop, and the boot step that hosts a service in it."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import warnings
from typing import Any, NoReturn, Protocol

from celery import bootsteps, concurrency, signals
from celery.apps.worker import Worker as CeleryWorker
from celery.exceptions import SecurityWarning
from celery.worker import state
from celery.worker.state import maybe_shutdown

from dynamo_tasks.errors import ConfigError, DynamoError
from dynamo_tasks.observe.log import choose_format
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.hub import AsyncioHub
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.queue.worker.consuming import chosen
from dynamo_tasks.queue.worker.foreign import run_signals_aside
from dynamo_tasks.queue.worker.options import check_options, check_settings
from dynamo_tasks.queue.worker.pool import TaskPool
from dynamo_tasks.queue.worker.shutdown import Shutdown
from dynamo_tasks.store.bridge import loop_factory
from dynamo_tasks.store.queue_keys import consumer_name, unacked_index_key, unacked_key
from dynamo_tasks.store.redis.refusals import ReplyError

__all__ = ["Host", "LoopWorker", "ServiceStep", "refuse", "transport_options"]

CELERY_BEAT, BEAT = "celery.worker.components:Beat", "dynamo_tasks.queue.worker.beat:BeatStep"
EX_FAILURE = 1
EX_USAGE = 2
_LOOK = 0.25
"""Seconds between two looks for a signal while a service starts."""


class Host(Protocol):
    """The service that a worker process serves."""

    queues: list[str]
    lease: int

    @property
    def failed(self) -> bool:
        """``True`` if it ended the worker because it could not serve any more."""

    @property
    def capacity(self) -> int:
        """The number of requests that it takes at a time."""

    async def connect(self) -> WorkerContext:
        """Reach Redis, or say in one line why not."""

    async def start(self, pool: Any) -> None:
        """Run the start hooks; nobody finds it yet."""

    async def enter(self) -> None:
        """Register: messages are taken from now on."""

    async def announce(self) -> None:
        """Announce what can be called now: a queue is consumed from now on, or no more."""

    def facts(self) -> dict[str, Any]:
        """Facts about the instance, for ``inspect stats``."""

    async def deregister(self) -> None:
        """Leave the registry; what runs goes on."""

    async def stop(self) -> None:
        """Run the shutdown hooks, revoke the lease, close."""


class ServiceStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the service before the worker takes messages, and stops it after the last one is done."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any):
        super().__init__(worker, **kwargs)
        self.enabled = getattr(worker, "host", None) is not None

    def start(self, worker: Any) -> None:
        """Start hooks."""
        worker.app.worker = worker
        try:
            greenlets.await_(_started(worker))
        except (ConfigError, ReplyError) as exc:
            # No new start can mend it: one line and exit code 2, as for settings that are refused earlier.
            refuse(exc)
        maybe_shutdown()

    def info(self, worker: Any) -> dict[str, Any]:
        """Celery callback: what ``inspect stats`` and Flower show of the instance."""
        return {"dynamo": worker.host.facts()} if self.enabled else {}

    def stop(self, worker: Any) -> None:
        """Warm: leave the registry, finish what runs, stop the service."""
        greenlets.await_(worker.shutdown.warm())

    def terminate(self, worker: Any) -> None:
        """Cold: leave the registry, requeue what runs, stop the service."""
        greenlets.await_(worker.shutdown.cold())


class LoopWorker(CeleryWorker):  # type: ignore[misc]
    """A worker process: Celery in a greenlet of the loop that serves the requests.

    Args:
        service: ``module:Class`` of the service to host; the application's default graph otherwise.
        config: Path of a YAML file.
        set: ``Service.key=value`` settings.
        operators: Modules that jobs of pipelines may run, with commas between; hosts ``Operators``.
    """

    app: Any
    host: Host | None = None

    class Blueprint(CeleryWorker.Blueprint):  # type: ignore[misc]
        """Celery's steps, with our own beat in the place of its."""

        default_steps = (CeleryWorker.Blueprint.default_steps - {CELERY_BEAT}) | {BEAT}

    def __init__(
        self,
        app: Any = None,
        service: str | None = None,
        config: str | None = None,
        set: Any = (),
        operators: str | None = None,
        **kwargs: Any,
    ):
        self.app = app or self.app
        self.app.is_worker = True
        # It warns of pickle run as root; nothing is ever unpickled here.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        signals.after_setup_logger.connect(_choose_format, weak=False)
        signals.after_setup_task_logger.connect(_choose_format, weak=False)
        try:
            check_options(kwargs)
            check_settings(self.app.conf)
            self.host = self.app.make_host(
                service=service, config=config, settings=list(set or ()), operators=operators
            )
            if self.host is not None:
                kwargs = self._hosted(kwargs)
            super().__init__(app=self.app, **kwargs)
        except DynamoError as exc:
            refuse(exc)

    def setup_defaults(self, **kwargs: Any) -> None:
        """Celery callback: options.

        Raises:
            ConfigError: another pool than ours was asked for.
        """
        super().setup_defaults(**kwargs)
        self.prefetch_multiplier = 1  # a message is taken when a slot is free, and runs at once
        pool = concurrency.get_implementation(self.pool_cls)
        if not issubclass(pool, TaskPool):
            raise ConfigError(
                f"pool {pool.__module__}:{pool.__name__} cannot run endpoints; leave -P away: "
                "the asyncio pool runs them on the event loop, and plain tasks in threads"
            )

    def _hosted(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert self.host is not None
        self.app.conf.broker_transport_options = transport_options(self.app, self.host.lease)
        kwargs["queues"] = chosen(kwargs.get("queues"), self.host.queues, self.app.plain_queues)
        for name in kwargs["queues"]:
            self.app.amqp.queues.declare(name)
        if not kwargs.get("concurrency"):
            kwargs["concurrency"] = self.host.capacity
        # Both cost every worker a message of every other one, and mingle blocks for a second.
        kwargs["without_mingle"] = kwargs["without_gossip"] = True
        return kwargs

    def start(self) -> None:
        """Run until shut down; sets ``exitcode``."""
        signals.worker_shutting_down.connect(self._asked, weak=False)
        run_signals_aside()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            # Not Runner.run(), whose SIGINT handler would cancel the main task: see Shutdown.
            runner.get_loop().run_until_complete(self._connect())
            runner.get_loop().run_until_complete(greenlets.run_yielding(super().start))
            if self.host is not None and self.host.failed:
                self.exitcode = EX_FAILURE  # for the supervisor, which is to start the worker again
            if self.pool is not None and self.pool.stuck:
                _leave(self.exitcode)

    async def _connect(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self.host is not None:
            try:
                self.app.worker_context = await self.host.connect()
            except DynamoError as exc:
                refuse(exc)

    def install_platform_tweaks(self, worker: Any) -> None:
        """Celery callback: signals."""
        super().install_platform_tweaks(worker)
        self.shutdown = Shutdown(self)
        self.shutdown.install()

    def _asked(self, how: str = "", **_: Any) -> None:
        """A signal handler ran: let the loop act on it."""
        self._loop.call_soon_threadsafe(self._act, how)

    def _act(self, how: str) -> None:
        self.shutdown.asked(how)
        if isinstance(self.hub, AsyncioHub):
            self.hub.wake()


async def _started(worker: Any) -> None:
    """Start the service, unless the worker is asked to end first: a service waits for a server that refuses."""
    starting = asyncio.ensure_future(worker.host.start(worker.pool))
    while not starting.done():
        await asyncio.wait([starting], timeout=_LOOK)
        if not starting.done() and (state.should_stop is not None or state.should_terminate is not None):
            starting.cancel()
            await asyncio.wait([starting])
            return
    await starting


def _choose_format(logger: logging.Logger, **_: Any) -> None:
    choose_format(logger)


def transport_options(app: Any, lease: int) -> dict[str, Any]:
    """Options of an instance's broker connection, by which its unacknowledged messages differ from others'."""
    return {
        **app.conf.broker_transport_options,
        "client_name": consumer_name(lease),
        "unacked_key": unacked_key(lease),
        "unacked_index_key": unacked_index_key(lease),
        "unacked_mutex_key": f"dt:@unacked_mutex:{lease:x}",
    }


def _leave(exitcode: int | None) -> None:
    """End the process although plain tasks still run: their threads would be waited for."""
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exitcode or 0)


def refuse(exc: DynamoError) -> NoReturn:
    """Say in one line why this worker cannot start, and end with exit code 2."""
    print(f"dynamo-tasks: {exc.message}", file=sys.stderr, flush=True)
    raise SystemExit(EX_USAGE)
