"""Somebody else's Celery application that has our endpoints, too.

``convert`` changes the class of the application object: its tasks, settings, routes and workers stay as they
are. What is new:

* calls of endpoints are published through the ledger, on the application's own broker, under its prefix;
* ``worker --service MODULE:Class`` is one of our workers; ``worker`` without it is Celery's own as before, with
  its own pool, connection and event loop;
* where the application keeps no results, those of endpoints are kept in the broker's database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.concurrency import get_implementation
from celery.local import PromiseProxy
from kombu import Connection as StockConnection
from kombu.utils.imports import symbol_by_name

from dynamo_tasks.config.host.tls import complete_url, with_options
from dynamo_tasks.errors import ConfigError, DynamoError
from dynamo_tasks.queue.app import (
    AMQP,
    TRANSPORT_OPTIONS,
    WORKER_SETTINGS,
    DynamoApp,
    HostFactory,
)
from dynamo_tasks.queue.broker.backend import KINDS, ResultBackend, SentinelResultBackend, ours
from dynamo_tasks.queue.plain_pickle import read_plain_only
from dynamo_tasks.queue.worker import worker as hosting
from dynamo_tasks.queue.worker.control import JsonControl
from dynamo_tasks.queue.worker.request import Events
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS, WAIT_QUEUE_STEP
from dynamo_tasks.store.redis.address import Address

__all__ = ["InstalledApp", "check_settings", "convert"]

_SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")
_MADE_BEFORE = ("_pool", "amqp", "control", "events", "Beat", "Worker", "WorkController")
_OURS = ("service", "operators", "config", "set")


class InstalledApp(DynamoApp):
    """The class that :func:`convert` puts before the application's own; never instantiated by itself."""

    _checked: str = ""
    _kind: type[Celery]
    _theirs: dict[str, Any]
    control_cls: Any

    def _equip(self, make_host: HostFactory) -> None:
        """Add the parts of :class:`DynamoApp`, and drop those that the application has made by now.

        These would go on to publish without a ledger, and to write results in a way of their own.
        """
        super()._equip(make_host)
        self._theirs = {"amqp": self.amqp_cls, "events": self.events_cls, "control": self.control_cls}
        self.amqp_cls = _before(AMQP, self.amqp_cls, Celery.amqp_cls)
        self.events_cls = _before(Events, self.events_cls, Celery.events_cls)
        self.control_cls = _before(JsonControl, self.control_cls, Celery.control_cls)
        for name in _MADE_BEFORE:
            self.__dict__.pop(name, None)
        self._backend_cache = None
        self._local.__dict__.pop("backend", None)

    def __reduce__(self) -> Any:
        """As the application that it was, to be converted again."""
        return _converted, (self._kind, {**self.__reduce_keys__(), **self._theirs}, self.host_factory)

    def add_later(self, make: Callable[[], Any]) -> None:
        """Make a task once the application's own are made, as its decorator does.

        To make one reads the settings, and code that wants to be called before that may not have said so yet.
        """
        if self.finalized:
            make()
        else:
            self._pending.append(PromiseProxy(make))

    @property
    def server_url(self) -> str:
        """URL of the application's broker.

        Raises:
            ConfigError: it is none that can hold streams, or a setting is in the way.
        """
        url = _broker(self.conf.broker_write_url or self.conf.broker_url or "amqp://")
        if url != self._checked:
            check_settings(self.main or "celery", url, self.conf)
            self._checked = url
        complete = complete_url(with_options(url, self.conf.broker_use_ssl))
        return Address.parse(complete, self.conf.broker_transport_options).url

    @property
    def server_urls(self) -> str:
        """The same: an application of somebody else's has one lane, its broker."""
        return self.server_url

    lanes = None

    def _get_backend(self) -> Any:
        backend = super(DynamoApp, self)._get_backend()
        own = self.is_worker and _is_at(backend, self.server_url)
        return ours(backend, waits=self.is_worker, link=self.results_link if own else None)

    @property
    def _own_results(self) -> Any:
        # Per thread, as Celery keeps its own.
        made = getattr(self._local, "endpoint_results", None)
        if made is None:
            address = Address.parse(self.server_url)
            kind = ResultBackend if address.sentinels is None else SentinelResultBackend
            made = self._local.endpoint_results = kind(
                app=self, url=address.backend_url, waits=self.is_worker, prefix=self.key_prefix,
                transport_options=address.broker_options, tls=address.tls, link=self.results_link,
            )  # fmt: skip
        return made

    @property
    def endpoint_backend(self) -> Any:
        """The backend of endpoints: the application's; where it keeps no results, the broker's database."""
        return self._own_results if isinstance(self.backend, DisabledBackend) else self.backend

    @property
    def plain_queues(self) -> list[str]:
        """Queues of plain tasks that our workers serve: none, the application has workers of its own for them."""
        return []

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to consume from: Celery's own, but in our workers."""
        if self.is_worker:
            return super().connection_for_read(url, **kwargs)
        made = super(DynamoApp, self).connection_for_read(url, **kwargs)
        info = dict(made._info(resolve=False))
        info["transport_options"] = dict(self.conf.broker_transport_options)
        return StockConnection(**info)

    def connection_for_write(self, url: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """A connection to publish on."""
        return super(DynamoApp, self).connection_for_write(url, *args, **kwargs)

    def Worker(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
        """A worker: ours if it hosts a service, else Celery's own."""
        ours = {name: kwargs.pop(name, None) for name in _OURS}
        if ours["service"] is not None or ours["operators"] is not None:
            return self._our_worker(*args, **kwargs, **ours)
        if any(ours.values()):
            hosting.refuse(
                ConfigError(
                    "--config and --set are for a hosted service: say which with --service MODULE:Class"
                )
            )
        return self.subclass_with_self("celery.apps.worker:Worker")(*args, **kwargs)

    def _our_worker(self, *args: Any, pool: Any = None, pool_cls: Any = None, **kwargs: Any) -> Any:
        try:
            self.server_url  # noqa: B018 - refused in one line, before anything starts
        except DynamoError as exc:
            hosting.refuse(exc)
        options = {**self.conf.broker_transport_options, **TRANSPORT_OPTIONS}
        # Celery fills in its default, or the setting that is meant for the application's own workers.
        asked = get_implementation(pool or pool_cls or "prefork")
        if asked in map(get_implementation, ("prefork", self.conf.worker_pool or "prefork")):
            asked = WORKER_SETTINGS["worker_pool"]
        results = self.conf.result_accept_content or self.conf.accept_content
        read_plain_only()
        self.conf.update(
            # JSON alone, whatever its own workers accept: anybody may push anything onto a Redis list.
            {**WORKER_SETTINGS, "accept_content": ["json"], "broker_transport_options": options},
            # Those of a chord's parts are read as they are written.
            result_accept_content=[*results, self.conf.result_serializer],
            task_create_missing_queues=True,
            # For its own workers, which have children.
            worker_max_tasks_per_child=None,
            worker_max_memory_per_child=None,
        )
        return self.subclass_with_self(hosting.LoopWorker)(*args, pool_cls=asked, **kwargs)


def check_settings(name: str, url: str, conf: Any) -> None:
    """Refuse what cannot work.

    Args:
        name: The application's name.
        url: Of its broker.
        conf: Its settings.

    Raises:
        ConfigError: says what is needed.
    """
    scheme = urlsplit(url).scheme or "amqp"
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"the broker of Celery application {name!r} is {scheme}://, which cannot hold streams: dynamo-tasks needs "
            "Redis or Valkey 7.0 or newer as broker, broker_url = 'redis://host:6379/0' (or task_always_eager in tests)"
        )
    if (tls := conf.get("broker_use_ssl")) and not isinstance(tls, Mapping):
        raise ConfigError(
            f"broker_use_ssl: {tls!r} alone means no TLS with Redis; say how, as in {{'ssl_cert_reqs': 'required'}}"
        )
    options = conf.get("broker_transport_options") or {}
    if options.get("sep", PRIORITY_SEPARATOR) != PRIORITY_SEPARATOR:
        raise ConfigError("broker_transport_options: dynamo-tasks needs the default 'sep'")
    steps = tuple(options.get("priority_steps", PRIORITY_STEPS))
    if steps not in (PRIORITY_STEPS, (*PRIORITY_STEPS, WAIT_QUEUE_STEP)):
        raise ConfigError(
            f"broker_transport_options: dynamo-tasks needs priority_steps {list(PRIORITY_STEPS)}"
        )
    if conf.get("task_protocol", 2) != 2:
        raise ConfigError("dynamo-tasks needs task_protocol = 2, Celery's default")


def convert(app: Celery, make_host: HostFactory) -> InstalledApp:
    """Make an application an :class:`InstalledApp`; a second time, nothing happens.

    Args:
        app: Any Celery application, configured or not yet.
        make_host: Makes the service host of a worker process.

    Raises:
        ConfigError: its broker is known already, and it cannot work.
    """
    if isinstance(app, InstalledApp):
        return app
    if isinstance(app, DynamoApp):
        raise ConfigError("this application is dynamo-tasks' own already: there is nothing to install")
    _check_known(app)
    kind = type(app)
    bases = (InstalledApp,) if kind is Celery else (InstalledApp, kind)
    installed: Any = app
    installed.__class__ = type(
        f"Installed{kind.__name__}", bases, {"__module__": kind.__module__, "_kind": kind}
    )
    installed._equip(make_host)
    made: InstalledApp = installed
    return made


def _is_at(backend: Any, server_url: str) -> bool:
    """Return whether results are kept in the broker's database, so that its connections will do."""
    kept = Address.parse(server_url)
    return type(backend) in KINDS and getattr(backend, "url", None) in (kept.backend_url, kept.url)


def _converted(kind: type[Celery], settings: dict[str, Any], make_host: HostFactory) -> InstalledApp:
    return convert(kind(set_as_current=False, **settings), make_host)


def _before(ours: type, theirs: Any, stock: str) -> Any:
    """Our kind of a part of an application, before its own kind, if it has one."""
    if theirs == stock:
        return ours
    kind = symbol_by_name(theirs)
    return (
        ours if issubclass(ours, kind) else type(kind.__name__, (ours, kind), {"__module__": kind.__module__})
    )


def _check_known(app: Celery) -> None:
    """Refuse at once, where the settings were given to the application itself or are loaded already."""
    conf = app.conf if app.configured else app._preconf
    url = conf.get("broker_write_url") or conf.get("broker_url")
    if url and not conf.get("task_always_eager"):
        check_settings(app.main or "celery", _broker(url), conf)


def _broker(url: Any) -> str:
    """Return the first of several brokers, as a list or in one text; Sentinels are one broker together."""
    urls = list(url) if isinstance(url, list | tuple) else str(url).split(";")
    return ";".join(urls) if urls[0].startswith("sentinel://") else str(urls[0])
