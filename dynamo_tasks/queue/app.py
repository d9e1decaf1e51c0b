"""The Celery application."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import click
from celery import Celery, Task
from kombu import Queue
from kombu.utils.imports import symbol_by_name

from dynamo_tasks.config.host.redis_lanes import completed_lanes, join_lanes, split_lanes
from dynamo_tasks.config.host.tls import complete_url
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.broker.backend import ANSWER_TIMEOUT, CONNECT_TIMEOUT, KINDS, ours
from dynamo_tasks.queue.broker.broker_connection import BrokerConnection, limits
from dynamo_tasks.queue.broker.consumer_gate import ConsumerGate
from dynamo_tasks.queue.client.direct import CachedChannel, settings_are_plain
from dynamo_tasks.queue.client.eager import HandlerFactory
from dynamo_tasks.queue.client.lanes import LanePublisher
from dynamo_tasks.queue.flower import guard_flower
from dynamo_tasks.queue.task_names import NamedApp, Routes
from dynamo_tasks.queue.worker.beat import Beat
from dynamo_tasks.queue.worker.consuming import Queues, direct_queue
from dynamo_tasks.queue.worker.request import Events
from dynamo_tasks.queue.worker.worker import Host, LoopWorker, ServiceStep
from dynamo_tasks.store.lanes.lane import parse_lanes
from dynamo_tasks.store.queue_keys import PRIORITY_STEPS, WAIT_QUEUE_STEP
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.wire import notice_loss

__all__ = [
    "AMQP",
    "TRANSPORT_OPTIONS",
    "WORKER_SETTINGS",
    "DynamoApp",
    "HostFactory",
    "create_app",
]

_NEVER = 10**9
PLAIN_QUEUE = "dynamo-tasks"
"""The default queue of plain tasks (``@app.task``); every worker serves it beside its component's queues."""


WORKER_SETTINGS: dict[str, Any] = {
    "worker_pool": "dynamo_tasks.queue.worker.pool:TaskPool",
    "worker_consumer": "dynamo_tasks.queue.worker.consumer:Consumer",
    "worker_prefetch_multiplier": 1,
    "worker_enable_prefetch_count_reduction": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
}
"""Settings that a worker process of ours relies on."""
TRANSPORT_OPTIONS: dict[str, Any] = {
    # The ledger knows who owns what: a time-out would only run long tasks twice.
    "visibility_timeout": _NEVER,
    "socket_keepalive": True,
    "socket_keepalive_options": notice_loss(),
    # The kernel notices, by the options above; kombu's own check would ask, and reconnect, on the loop.
    "health_check_interval": 0,
    # For Flower, which adds the lengths of these lists up; our channels know the last one themselves.
    "priority_steps": [*PRIORITY_STEPS, WAIT_QUEUE_STEP],
}


class _CommandError(click.ClickException):
    """One line in place of a traceback, for Celery's own commands."""

    exit_code = 2


HostFactory = Callable[..., Host | None]


class AMQP(Routes):
    """Celery's AMQP façade with our connection."""

    Connection = BrokerConnection
    BrokerConnection = BrokerConnection
    queues_cls = Queues

    @cached_property
    def plain(self) -> bool:
        """``True`` if the settings leave messages at Celery's defaults; read once, as in Celery's sender."""
        return settings_are_plain(self.app.conf)

    def _handle_conf_update(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.pop("plain", None)
        super()._handle_conf_update(*args, **kwargs)


class DynamoApp(NamedApp):
    """A Celery application whose tasks may be endpoints.

    Args:
        server_url: URL of the Redis server, or a function that finds it when it is first needed.
        make_host: Makes the service host of a worker process.

    Attributes:
        worker_context: The :class:`~dynamo_tasks.queue.execution.context.WorkerContext` in which this process runs
            requests; ``None`` where it is no worker.
    """

    amqp_cls = AMQP
    events_cls = Events
    _lanes: Sequence[tuple[Address, bool]] = ()
    _further_urls: Sequence[str] = ()
    _redis_backend: tuple[Any, Any] | None = None

    def __init__(
        self, *args: Any, server_url: str | Callable[[], str], make_host: HostFactory, **kwargs: Any
    ):
        self._server_url = server_url
        super().__init__(*args, **kwargs)
        self._equip(make_host)

    def _equip(self, make_host: HostFactory) -> None:
        """Give the application what it has besides Celery's parts.

        The one list of it: for an application that is made, and for one of somebody else's that becomes one.
        """
        self.host_factory = make_host
        self.worker_context: Any = None
        self.consumer_gate = ConsumerGate()
        self.ways: deque[CachedChannel] = deque()
        self.is_worker = False
        self.worker: Any = None
        self.eager_handler: HandlerFactory | None = None
        self.steps["worker"].add(ServiceStep)
        self.user_options["worker"] |= {
            click.Option(["--service"], help="MODULE:Class of the service to host."),
            click.Option(
                ["--operators"],
                metavar="MODULES",
                help="Run jobs of pipelines, of these modules (with commas between).",
            ),
            click.Option(["--config"], type=click.Path(dir_okay=False), help="YAML file with the settings."),
            click.Option(
                ["--set"], multiple=True, metavar="SERVICE.KEY=VALUE", help="One setting; repeatable."
            ),
        }

    @cached_property
    def server_url(self) -> str:
        """URL of Redis.

        Raises:
            DynamoError: none is configured, and none runs.
        """
        try:
            text = self._server_url if isinstance(self._server_url, str) else self._server_url()
            text = completed_lanes(text, complete_url)
            first, *others = split_lanes(text)
            self._lanes = parse_lanes(text) if others or "#" in first else ()
            self._further_urls = others
        except DynamoError as exc:
            if click.get_current_context(silent=True) is not None:
                raise _CommandError(exc.message) from None
            raise
        address = Address.parse(first, self.conf.broker_transport_options)
        options, tls = address.broker_options, address.tls.settings() if address.tls else None
        self.conf.update(
            broker_url=address.broker_url,
            result_backend=address.broker_url,
            broker_use_ssl=tls,
            redis_backend_use_ssl=tls,
            broker_transport_options={**self.conf.broker_transport_options, **options},
            result_backend_transport_options={**self.conf.result_backend_transport_options, **options},
        )
        return address.url

    @property
    def server_urls(self) -> str:
        """URLs of Redis: of all lanes, with blanks between; of the only server, where there is one."""
        first = self.server_url
        return join_lanes([first, *self._further_urls])

    @cached_property
    def lanes(self) -> LanePublisher | None:
        """Publishes over several lanes; ``None`` where there is one."""
        self.server_url  # noqa: B018 - finds them
        if not self._lanes:
            return None
        return LanePublisher(self._lanes, self.key_prefix, self._connection_to)

    def _connection_to(self, address: Address) -> Any:
        """A connection to a further lane."""
        options = {**self.conf.broker_transport_options, **address.broker_options}
        return self._connection(
            address.broker_url, ssl=address.tls.settings() if address.tls else False, transport_options=options,
            lanes=False,
        )  # fmt: skip

    def _get_backend(self) -> Any:
        address = Address.parse(self.server_url)
        backend = self._celerys_backend()
        # CELERY_RESULT_BACKEND may name another server.
        own = getattr(backend, "url", None) == address.backend_url
        return ours(
            backend, waits=self.is_worker, prefix=self.key_prefix, link=self.results_link if own else None
        )

    def _celerys_backend(self) -> Any:
        """Make the backend that the settings name; one of Redis for all threads, as only kind and URL count.

        Celery reads a file each time it makes one, which a process that has no descriptor left cannot.
        """
        named = self.backend_cls or self.conf.result_backend
        if self._redis_backend is None or self._redis_backend[0] != named:
            backend = super()._get_backend()
            if type(backend) not in KINDS:
                return backend
            self._redis_backend = named, backend
        return self._redis_backend[1]

    @property
    def results_link(self) -> Callable[[], Link] | None:
        """The connection that a worker writes results of endpoints on; see ``ResultBackend``."""
        return (lambda: self.worker_context.store.commands) if self.is_worker else None

    @property
    def key_prefix(self) -> str:
        """The prefix of all keys: kombu's ``global_keyprefix``."""
        return str(self.conf.broker_transport_options.get("global_keyprefix", ""))

    endpoint_backend = Celery.backend
    """The result backend of endpoints: the application's own."""

    @cached_property
    def has_own_task_class(self) -> bool:
        """``True`` if tasks of this application have a class other than Celery's: Django's, or its own."""
        return symbol_by_name(self.task_cls) is not Task

    def queue_for(self, endpoint: EndpointId) -> Queue:
        """Return the queue of an endpoint's calls.

        An object, since the application may refuse names that it does not list
        (``task_create_missing_queues``).
        """
        return direct_queue(endpoint.queue)

    @property
    def plain_queues(self) -> list[str]:
        """Queues of plain tasks that every worker serves: those of ``task_queues``, or the default one."""
        return list(self.amqp.queues.consume_from)

    def serves(self, name: str) -> bool:
        """Return whether this process is a worker that hosts an endpoint."""
        return self.worker_context is not None and name in self.worker_context.handlers

    def make_host(self, **options: Any) -> Host | None:
        """The service host of a worker process."""
        return self.host_factory(self, **options)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The worker class."""
        return self.subclass_with_self(LoopWorker)

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - Celery's name
        """The scheduler of ``celery beat``."""
        return self.subclass_with_self(Beat)

    def _connection(
        self, url: str, *args: Any, transport_options: Any = None, lanes: bool = True, **kwargs: Any
    ) -> Any:
        """Make Celery's connection, with time limits for its operations."""
        # What kombu does on a worker's loop stops its streams, whatever the settings say.
        given = {} if self.is_worker else self.conf.broker_transport_options
        seconds = CONNECT_TIMEOUT if self.is_worker else ANSWER_TIMEOUT
        own = limits(given, seconds, sentinels=str(url).startswith("sentinel"))
        made = super()._connection(
            url, *args, transport_options={**own, **(transport_options or {})}, **kwargs
        )
        made.lanes = self.lanes if lanes else None
        return made

    def connection_for_write(self, url: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """A connection to publish on."""
        self.server_url  # noqa: B018 - as in _get_backend
        return super().connection_for_write(url, *args, **kwargs)

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to consume from."""
        self.server_url  # noqa: B018 - as in _get_backend
        return super().connection_for_read(url, **kwargs)


def create_app(
    name: str = "dynamo_tasks",
    *,
    server_url: str | Callable[[], str],
    make_host: HostFactory,
    key_prefix: str = "",
    **conf: Any,
) -> DynamoApp:
    """Make an application with the settings that the runtime relies on.

    Args:
        name: Its name.
        server_url: See :class:`DynamoApp`.
        make_host: See :class:`DynamoApp`.
        key_prefix: What all keys start with, results among them.
        **conf: Celery settings.
    """
    app = DynamoApp(name, server_url=server_url, make_host=make_host, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        result_expires=24 * 3600,
        # Not Celery's "celery": another application's workers may share Redis.
        task_default_queue=PLAIN_QUEUE,
        task_acks_late=True,
        # The ledger shows STARTED, without a write to the result backend.
        task_track_started=False,
        worker_hijack_root_logger=True,
        broker_transport_options=TRANSPORT_OPTIONS | ({"global_keyprefix": key_prefix} if key_prefix else {}),
        **WORKER_SETTINGS,
        # Celery would turn each piece of a `print` into a warning of its own.
        worker_redirect_stdouts=False,
        **conf,
    )
    guard_flower(app)
    return app
