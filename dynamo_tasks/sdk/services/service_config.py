"""``ServiceConfig``: the settings of this process's services, as code written for the Dynamo SDK asks for them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

import msgspec

from dynamo_tasks.config import Layer, ResolvedConfig, ServiceSchema, env_layer, load_yaml, resolve, suggest
from dynamo_tasks.config.host.given import variable
from dynamo_tasks.config.schema import COMMON, RESERVED
from dynamo_tasks.errors import ConfigError

__all__ = ["ServiceConfig"]

_UNWRITTEN = "class attribute"


class ServiceConfig(dict[str, dict[str, Any]]):
    """Service name → its resolved section: attributes, ``ServiceArgs``, ``dynamo``; dashes as underscores.

    All sources have been merged already, ``Common`` among them. Keys that a class keeps in its
    ``config_extras`` attribute stand beside the attributes, as they were written.

    Example:
        >>> config = ServiceConfig({"Worker": {"model": "tiny"}})
        >>> config.require("Worker", "model")
        'tiny'
    """

    _instance: ClassVar[ServiceConfig | None] = None
    _others: ClassVar[set[str]] = set()

    def __init__(self, sections: Mapping[str, dict[str, Any]] | None = None) -> None:
        """Take sections as they are; all of their keys count as written by somebody."""
        super().__init__(sections or {})
        self._written = {name: set(section) for name, section in self.items()}

    @classmethod
    def get_instance(cls) -> ServiceConfig:
        """The process's settings; where no graph was configured, what the environment alone says.

        Raises:
            ConfigError: ``DYNAMO_SERVICE_CONFIG`` or the file of ``DYNAMO_CONFIG`` is not valid.
        """
        if ServiceConfig._instance is None:
            ServiceConfig._instance = cls._from_environ(os.environ)
        return ServiceConfig._instance

    @classmethod
    def get_parsed_config(cls, service_name: str) -> dict[str, Any]:
        """Attributes and extra keys of a service, without ``ServiceArgs`` and ``dynamo``; ``{}`` if unknown."""
        section = cls.get_instance().get(service_name, {})
        return {key: value for key, value in section.items() if key not in RESERVED}

    def require(self, service_name: str, key: str) -> Any:
        """A value that must be there; dashes in ``key`` count as underscores.

        Raises:
            ConfigError: nobody gave it; names the nearest key. (It is a ``ValueError``.)
        """
        section = self.get(service_name, {})
        value = section.get(key.replace("-", "_"))
        if value is None:
            near = suggest(key, section) if section else suggest(service_name, self)
            raise ConfigError(f"{service_name}.{key} must be specified in the configuration{near}")
        return value

    def as_args(self, service_name: str, prefix: str = "") -> list[str]:
        """Return the written settings of a service (no class defaults) as command line arguments.

        Args:
            service_name: The service.
            prefix: Take only keys that begin with it, and take it off.

        Returns:
            ``["--enable-prefix-caching", "--model", "tiny"]``: true values are flags, false ones are left
            out, lists become several values, mappings JSON.
        """
        return [
            argument for key, value in self._given(service_name, prefix) for argument in _flag(key, value)
        ]

    def _given(self, service_name: str, prefix: str) -> Iterator[tuple[str, Any]]:
        prefix = prefix.replace("-", "_")
        for key, value in self.get(service_name, {}).items():
            if key not in RESERVED and key in self._written[service_name] and key.startswith(prefix):
                yield key.removeprefix(prefix), value

    @classmethod
    def note(cls, resolved: ResolvedConfig, name: str, extras: str | None) -> None:
        """Take over what was resolved for one service of this process.

        Args:
            resolved: The settings.
            name: The service.
            extras: Its attribute that holds the keys which its class does not know.
        """
        instance = ServiceConfig._instance
        if instance is None:
            instance = ServiceConfig._instance = cls()
        section = resolved[name].section()
        written = _written(resolved, name)
        if extras is not None:
            below = section.pop(extras, {})
            written |= {key for key in below if f"{extras}.{key}" in written}
            section |= below
        instance[name] = section
        instance._written[name] = written

    @classmethod
    def _from_environ(cls, environ: Mapping[str, str]) -> Self:
        path = variable("DYNAMO_CONFIG", environ)
        layers = [*([load_yaml(path)] if path else []), env_layer(environ)]
        return cls(resolve(cls._free_schemas(layers), layers, allow_unknown_services=True).tree())

    @classmethod
    def note_others(cls, layers: Sequence[Layer], known: Collection[str]) -> None:
        """Take over what is said of services that this process has not, as it is written: a service may read another's.

        Args:
            layers: Sources, highest priority first.
            known: Services whose settings were noted.
        """
        for name, schema in cls._free_schemas(layers).items():
            if name not in known:
                with suppress(ConfigError):  # whose process that is says so
                    cls.note(resolve({name: schema}, layers, allow_unknown_services=True), name, None)
                    cls._others.add(name)

    @classmethod
    def note_alone(cls, resolved: ResolvedConfig, name: str, extras: str | None) -> None:
        """Take over what was resolved for a service that no graph has configured, unless more is known of it."""
        if name not in cls._others:
            cls.note(resolved, name, extras)

    @classmethod
    def _free_schemas(cls, layers: Sequence[Layer]) -> dict[str, ServiceSchema]:
        """Schemas of all sections, which take every key that is there."""
        sections = [(name, section) for layer in layers for name, section in layer.data.items()]
        keys: dict[str, dict[str, None]] = {}
        for name, section in sections:
            if name != COMMON and isinstance(section, dict):
                found = keys.setdefault(name, {})
                found |= {str(key).replace("-", "_"): None for key in section}
                found |= {key.replace("-", "_"): None for key in section.get("common-configs") or ()}
        return {name: ServiceSchema(name, annotations=found) for name, found in keys.items()}


def _written(resolved: ResolvedConfig, name: str) -> set[str]:
    """Keys of a section, two levels deep, that some source gave a value to."""
    found = set()
    for dotted, where in resolved.origins.items():
        service, *path = dotted.split(".")
        if service == name and where != _UNWRITTEN:
            found |= {path[0], ".".join(path[:2])}
    return found


def _flag(key: str, value: Any) -> list[str]:
    name = f"--{key.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [name]
    if isinstance(value, dict):
        return [name, msgspec.json.encode(value).decode()]
    if isinstance(value, list | tuple):
        return [name, *map(str, value)]
    return [name, str(value)]
