"""The BentoML side of a service: ``@bentoml.api`` methods beside its endpoints, and a real ``bentoml.Service``.

BentoML is an extra (``pip install 'dynamo-tasks[bentoml]'``) and only loaded by those whose classes use it.
Here a service *has* a ``bentoml.Service``; in Dynamo's first SDK it *was* one.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk.hooks import run_hooks
from dynamo_tasks.sdk.services.own_class import import_path
from dynamo_tasks.wiring import process_services

if TYPE_CHECKING:
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["MountedBento", "bento_apis", "make_bento"]

_METHODS = "_bentoml_sdk.method"
_TO_SERVICE = ("description", "path_prefix", "labels", "cmd")
_TO_CONFIG = frozenset({"backlog", "endpoints", "extra_ports", "grpc", "http", "logging", "max_runner_connections"}) | {
    *("metrics", "monitoring", "runner_probe", "ssl", "threads", "tracing"),
}  # fmt: skip


def bento_apis(cls: type) -> dict[str, Any]:
    """The ``@bentoml.api`` methods of a class by attribute; loads nothing where there can be none."""
    module = sys.modules.get(_METHODS)
    if module is None:
        return {}
    found = {name: inspect.getattr_static(cls, name, None) for name in dir(cls)}
    return {name: item for name, item in found.items() if isinstance(item, module.APIMethod)}


def make_bento(service: DynamoService[Any]) -> Any:
    """A ``bentoml.Service`` of the same class, with the settings in force.

    Raises:
        ConfigError: BentoML is not installed.
    """
    try:
        bentoml: Any = importlib.import_module("bentoml")
    except ModuleNotFoundError as exc:
        raise ConfigError("this needs BentoML: pip install 'dynamo-tasks[bentoml]'") from exc
    _add_hooks(service)
    given = {key: service.config[key] for key in _TO_SERVICE if key in service.config}
    made = bentoml.service(
        name=service.name,
        image=_image(bentoml, service.image),
        envs=[{"name": name, "value": value} for name, value in service.envs.items()],
        service_class=_service_class(),
        **given,
        **_config(service),
    )(service.inner)
    # Else it would look for itself as a variable of the module that called it.
    module, name = import_path(service) or (service.inner.__module__, service.inner.__name__)
    made._import_str = f"{module}:{name}.bento"
    return made


_OURS = ("max_queue", "max_stream_bytes")


def _config(service: DynamoService[Any]) -> dict[str, Any]:
    config = {key: value for key, value in service.config.items() if key in _TO_CONFIG}
    traffic = {key: value for key, value in service.settings.traffic.items() if key not in _OURS}
    if "concurrency" in traffic:
        traffic.setdefault("max_concurrency", traffic["concurrency"])
    resources = {key: value for key, value in service.settings.resources.items() if value}
    config |= {key: value for key, value in (("traffic", traffic), ("resources", resources)) if value}
    return {**config, "workers": service.settings.workers}


def _image(bentoml: Any, image: Any) -> Any:
    return bentoml.images.Image(base_image=image) if isinstance(image, str) else image


@cache
def _service_class() -> Any:
    """``bentoml.Service`` that takes a live instance where there is one."""
    base: Any = importlib.import_module("bentoml").Service

    class BentoService(base):  # type: ignore[misc]
        """The ``bentoml.Service`` of a :class:`~dynamo_tasks.sdk.DynamoService`."""

        live: Any = None

        def __call__(self) -> Any:
            if self.live is None:
                return super().__call__()
            self.live.bento_service = self
            return self.live

    return BentoService


def _add_hooks(service: DynamoService[Any]) -> None:
    """Let BentoML run the hooks of instances that it makes itself, and connect their dependencies."""
    around: dict[int, Any] = {}

    async def start(self: Any) -> None:
        if _is_hosted(self):
            return
        if service.dependencies:
            services = around[id(self)] = process_services(service, self)
            await services.connect()
            await services.start()
        await run_hooks(self, "start")

    async def shutdown(self: Any) -> None:
        if _is_hosted(self):
            return
        await run_hooks(self, "shutdown")
        if services := around.pop(id(self), None):
            await services.stop()
            await services.close()

    start.__bentoml_startup_hook__ = True  # type: ignore[attr-defined]
    shutdown.__bentoml_shutdown_hook__ = True  # type: ignore[attr-defined]
    cls: Any = service.inner
    cls._dynamo_start, cls._dynamo_shutdown = start, shutdown


def _is_hosted(instance: Any) -> bool:
    return instance.bento_service.live is instance


def _make_task_store(bento: Any) -> None:
    """Make the table of ``@bentoml.task``'s results, which ``bentoml serve`` makes before it starts its processes."""
    if bento.needs_task_db():
        containers: Any = importlib.import_module("bentoml._internal.configuration.containers")
        store: Any = importlib.import_module("_bentoml_impl.tasks").Sqlite3Store
        store.init_db(containers.BentoMLContainer.result_store_file.get())


class MountedBento:
    """BentoML's own ASGI application on a live instance of ours.

    Args:
        service: The service.
        instance: Its instance; its start hooks have run.

    Attributes:
        app: The application; it serves once :meth:`start` has returned.
    """

    def __init__(self, service: DynamoService[Any], instance: Any) -> None:
        bento = service.bento
        bento.live = instance
        # The process has its own /metrics.
        bento.config.setdefault("metrics", {})["enabled"] = False
        _make_task_store(bento)
        self.app: Any = bento.to_asgi()
        self._lifespan: Any = self.app.router.lifespan_context(self.app)

    async def start(self) -> None:
        """Run BentoML's own start-up: its hooks, its batchers."""
        await self._lifespan.__aenter__()

    async def stop(self) -> None:
        """Run its shutdown."""
        await self._lifespan.__aexit__(None, None, None)
