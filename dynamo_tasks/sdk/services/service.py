"""A service: the declared class, and all that is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from dynamo_tasks.config import ServiceSchema, ServiceSettings, resolve, suggest
from dynamo_tasks.errors import ConfigError, UnknownEndpointError
from dynamo_tasks.observe import event
from dynamo_tasks.protocol.names import EndpointId, check_component, check_namespace
from dynamo_tasks.sdk.bento import bento_apis, make_bento
from dynamo_tasks.sdk.depends import DynamoDependency, collect_dependencies
from dynamo_tasks.sdk.endpoints.api import ApiMethod
from dynamo_tasks.sdk.endpoints.declared import collect
from dynamo_tasks.sdk.endpoints.endpoint import DynamoEndpoint
from dynamo_tasks.sdk.hooks import run_hooks
from dynamo_tasks.sdk.resolver import get_resolver
from dynamo_tasks.sdk.services.attributes import (
    collect_annotations,
    collect_attributes,
    config_extras,
    is_open,
    taken_names,
)
from dynamo_tasks.sdk.services.dynamo_config import DynamoConfig
from dynamo_tasks.sdk.services.known import note
from dynamo_tasks.sdk.services.lifecycle import ServiceState, check_step
from dynamo_tasks.sdk.services.own_class import ActsAsClass, make_own_class

__all__ = ["DynamoService"]

T = TypeVar("T")


_ARGS = ("workers", "resources", "envs", "concurrency", "traffic", "scale", "planner")


class DynamoService(ActsAsClass[T]):
    """A service: the declared class and all that is known about it.

    Calling it makes an instance of the class. Attributes that it does not have itself are the class's, to be read
    and to be set: ``Worker.generate`` is the endpoint, ``Worker.model`` the class attribute. It can be subclassed,
    and pickled by its name. One class may be several services: each has a subclass of its own.

    Attributes:
        inner: The service's own subclass of the class as written; its instances serve.
        written: The class as written.
        name: The service's name: its section in a configuration file.
        config: ``resources``, ``workers``, ``traffic``, ``labels``, … as given to ``@service`` or configured.
        image: Container image, for deployment tools.
        apis: HTTP methods by name, those of ``@bentoml.api`` too.
        dependencies: ``depends()`` attributes by name.
        state: See :mod:`dynamo_tasks.sdk.services.lifecycle`.
    """

    written: type[T]
    name: str
    config: dict[str, Any]
    image: Any
    apis: dict[str, Any]
    dependencies: dict[str, DynamoDependency]
    state: ServiceState
    _given: dict[str, Any]
    _linked: bool
    _links: list[DynamoService[Any]]
    _bento: Any
    _settings: ServiceSettings
    _configured: set[str]
    _dynamo_config: DynamoConfig
    _dynamo_endpoints: dict[str, DynamoEndpoint]

    def __init__(
        self,
        config: Mapping[str, Any] | None,
        inner: type[T],
        image: Any = None,
        envs: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        dynamo_config: DynamoConfig | None = None,
    ) -> None:
        """Wrap ``inner``.

        Raises:
            InvalidNameError: a namespace, component or endpoint name with a character that is not allowed.
            ConfigError: an argument of the wrong type or out of range, or two endpoints of one name.
        """
        self.inner = self.written = inner
        self._given = dict(config or {})
        self.name = self._given.get("name") or inner.__name__
        self.image = image
        self.state = ServiceState.CREATED
        self._linked, self._links, self._bento, self._configured = False, [], None, set()
        self._schema = self._make_schema(envs, dynamo_config)
        self._apply(resolve({self.name: self._schema}, [])[self.name])
        self.apis = {**bento_apis(inner), **collect(inner, ApiMethod)}
        self.dependencies = collect_dependencies(inner)
        self._dynamo_endpoints = self._bind_endpoints()
        members = {item.attribute: item for item in self._dynamo_endpoints.values()}
        self.inner = make_own_class(self, inner, members)
        self.__doc__, self.__module__ = inner.__doc__, inner.__module__
        self.__name__, self.__qualname__ = inner.__name__, inner.__qualname__
        vars(self)["__init__"] = self.inner.__init__  # `Worker.__init__(self)` in a subclass is the class's

    def _make_schema(self, envs: Any, dynamo: DynamoConfig | None) -> ServiceSchema:
        args = {key: self._given[key] for key in _ARGS if self._given.get(key) is not None}
        if port := (self._given.get("http") or {}).get("port"):
            args["http"] = {"port": port}
        if envs:
            args["envs"] = list(envs) if isinstance(envs, Sequence) else dict(envs)
        arguments: dict[str, Any] = {"ServiceArgs": args} if args else {}
        if dynamo is not None:
            arguments["dynamo"] = {key: value for key, value in asdict(dynamo).items() if value is not None}
        return ServiceSchema(
            self.name,
            collect_attributes(self.inner),
            collect_annotations(self.inner),
            config_extras(self.inner),
            arguments,
            is_open(self.inner),
            taken_names(self.inner),
        )

    def _bind_endpoints(self) -> dict[str, DynamoEndpoint]:
        """The endpoints of the whole MRO as this service's own."""
        found = {}
        for name, declared in collect(self.inner, DynamoEndpoint).items():
            if hasattr(type(self), declared.attribute) or declared.attribute in vars(self):
                raise ConfigError(
                    f"{self.name}: a service has an attribute {declared.attribute!r} of its own; rename the "
                    f"method and write @dynamo_endpoint({name!r})"
                )
            found[name] = declared.of(self)
        return found

    # -- configuration ------------------------------------------------------------------------------

    def schema(self) -> ServiceSchema:
        """Return its settings as declared, with the defaults of the class, or those set on the service."""
        return self._schema

    @property
    def settings(self) -> ServiceSettings:
        """The settings in force."""
        return self._settings

    def configure(self, settings: ServiceSettings) -> None:
        """Apply resolved settings: names, arguments, and class attributes on ``inner``.

        Raises:
            InvalidNameError: a name with a character that is not allowed.
        """
        self._apply(settings)
        self._bento = None  # it has the settings that were in force
        for name in self._configured - set(settings.attributes):
            delattr(self.inner, name)
        for name, value in settings.attributes.items():
            setattr(self.inner, name, value)
        self._configured = set(settings.attributes)
        if self.state is ServiceState.CREATED:
            self.advance(ServiceState.CONFIGURED)

    def _apply(self, settings: ServiceSettings) -> None:
        if settings.enabled:
            check_namespace(settings.namespace)
            check_component(settings.component)
        self._settings = settings
        self._dynamo_config = DynamoConfig(settings.namespace, settings.component, settings.enabled)
        given = {key: getattr(settings, key) for key in ("workers", "resources", "traffic")}
        self.config = {**self._given, **{key: value for key, value in given.items() if value}}
        note(self)

    @property
    def envs(self) -> dict[str, str]:
        """Environment variables of its processes."""
        return self._settings.envs

    # -- identity -----------------------------------------------------------------------------------

    @property
    def dynamo_config(self) -> DynamoConfig:
        """Namespace, name and enabled, as configured."""
        return self._dynamo_config

    def is_dynamo_component(self) -> bool:
        """Return whether it is a distributed component."""
        return self._dynamo_config.enabled

    @property
    def is_beside(self) -> bool:
        """``True`` if requests are served without it: its class says ``__beside__ = True``."""
        return bool(getattr(self.inner, "__beside__", False))

    @property
    def component_name(self) -> str:
        """Name of the component."""
        return self._settings.component

    @property
    def namespace_name(self) -> str:
        """Its namespace, ``default`` where none is given."""
        return self._settings.namespace

    @property
    def class_path(self) -> str:
        """``module:Class`` as written, under which workers and callers know it whatever it is configured with."""
        return f"{self.inner.__module__}:{self.inner.__qualname__}"

    def dynamo_address(self) -> tuple[str, str]:
        """``(namespace, component)``.

        Raises:
            ConfigError: it is no component.
        """
        if not self.is_dynamo_component():
            raise ConfigError(f"{self.name} is no component; give @service(dynamo={{...}})")
        return self.namespace_name, self.component_name

    def endpoint_id(self, name: str) -> EndpointId:
        """Address of one of its endpoints.

        Raises:
            UnknownEndpointError: it has none of that name.
        """
        return EndpointId(self.namespace_name, self.component_name, self.find_endpoint(name).name)

    # -- endpoints ----------------------------------------------------------------------------------

    def get_dynamo_endpoints(self) -> dict[str, DynamoEndpoint]:
        """All endpoints by name."""
        return self._dynamo_endpoints

    def get_endpoint(self, name: str) -> DynamoEndpoint | None:
        """The endpoint of that name, or ``None``."""
        return self._dynamo_endpoints.get(name)

    def has_endpoint(self, name: str) -> bool:
        """Return whether there is an endpoint of that name."""
        return name in self._dynamo_endpoints

    def find_endpoint(self, name: str) -> DynamoEndpoint:
        """The endpoint of that name, or whose method has it.

        Raises:
            UnknownEndpointError: there is none; names the nearest and lists those available.
        """
        if name in self._dynamo_endpoints:
            return self._dynamo_endpoints[name]
        for declared in self._dynamo_endpoints.values():
            if declared.attribute == name:
                return declared
        raise UnknownEndpointError(
            f"{self.name} has no endpoint {name!r}{suggest(name, self._dynamo_endpoints, label='available')}"
        )

    # -- linking and lifecycle ----------------------------------------------------------------------

    def is_linked(self) -> bool:
        """Return whether its dependencies are bound."""
        return self._linked

    @property
    def links(self) -> tuple[DynamoService[Any], ...]:
        """Services that ``link(other)`` tied to it."""
        return tuple(self._links)

    def link(self, other: DynamoService[Any] | None = None) -> DynamoService[Any]:
        """Bind the dependencies, once; or, with ``other``, build a graph.

        Args:
            other: A dependency of this service that belongs to the graph; dependencies that are not
                linked are left out then.

        Returns:
            ``other``, so that links chain: ``Frontend.link(Processor).link(Worker)``; else itself.

        Raises:
            ConfigError: it does not depend on ``other``.
        """
        if other is not None:
            known = [d.service for d in self.dependencies.values() if d.service is not None]
            if other not in known:
                name = getattr(other, "name", repr(other))
                names = [service.name for service in known]
                raise ConfigError(f"{self.name} does not depend on {name}{suggest(name, names)}")
            if other not in self._links:
                self._links.append(other)
            return other
        if not self._linked:
            for dependency in self.dependencies.values():
                dependency.get()
            self._linked = True
            if self.state in (ServiceState.CREATED, ServiceState.CONFIGURED):
                self.advance(ServiceState.LINKED)
        return self

    def advance(self, state: ServiceState) -> None:
        """Note that the service has reached ``state``.

        Raises:
            ConfigError: it is past it.
        """
        check_step(self.name, self.state, state)
        if state is not self.state:
            event("service.state", service=self.name, before=str(self.state), state=str(state))
            self.state = state

    async def on_startup(self, instance: object | None = None) -> None:
        """Run the start hooks of an instance, by default of the one that lives in this process."""
        await run_hooks(self._live(instance), "start")
        if self.state is not ServiceState.RUNNING:  # a second instance beside one that runs
            self.advance(ServiceState.INITIALIZED)

    async def on_shutdown(self, instance: object | None = None) -> None:
        """Run the shutdown hooks of an instance, by default of the one that lives in this process."""
        instance = self._live(instance)
        self.advance(ServiceState.STOPPING)
        await run_hooks(instance, "shutdown")

    def _live(self, instance: object | None) -> object:
        found = instance if instance is not None else get_resolver().local(self)
        if found is None:
            raise ConfigError(f"no instance of {self.name} lives in this process")
        return found

    @property
    def bento(self) -> Any:
        """A real ``bentoml.Service`` of the same class, for ``bentoml serve`` and ``bentoml build``.

        Raises:
            ConfigError: BentoML is not installed.
        """
        if self._bento is None:
            self._bento = make_bento(self)
        return self._bento

    def __repr__(self) -> str:
        where = f" {self.namespace_name}.{self.component_name}" if self.is_dynamo_component() else ""
        return f"<DynamoService {self.name}{where}>"
