"""Puts the layers over each other and turns the result into typed settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamo_tasks.config.layers import Layer, Origin
from dynamo_tasks.config.records import as_mapping
from dynamo_tasks.config.schema import COMMON, COMMON_CONFIGS, DefaultName, ServiceSchema, ServiceSettings
from dynamo_tasks.config.sections import add_layer, add_section, underscored
from dynamo_tasks.config.settings import read_settings
from dynamo_tasks.config.suggest import suggest
from dynamo_tasks.config.table import Row, rows
from dynamo_tasks.config.tree import Leaf, Node, find, leaves, merge, put
from dynamo_tasks.errors import ConfigError

__all__ = ["ResolvedConfig", "resolve"]


@dataclass(frozen=True)
class ResolvedConfig:
    """The outcome of :func:`resolve`.

    Attributes:
        services: Service name → its settings.
        origins: Dotted key (``Worker.engine_args.seed``) → where the value was written.
    """

    services: dict[str, ServiceSettings]
    origins: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ServiceSettings:
        return self.services[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.services)

    def tree(self) -> dict[str, dict[str, Any]]:
        """Service name → section, in the shape of a file; as JSON it fits ``DYNAMO_SERVICE_CONFIG``."""
        return {name: settings.section() for name, settings in self.services.items()}

    def rows(self) -> list[Row]:
        """One row per value with its origin, secrets masked."""
        return rows(self.tree(), self.origins)


def resolve(
    schemas: Mapping[str, ServiceSchema], layers: Sequence[Layer], *, allow_unknown_services: bool = False
) -> ResolvedConfig:
    """Resolve the settings of all services.

    Args:
        schemas: Service name → what it declares.
        layers: Sources, highest priority first: command line, YAML, environment.
        allow_unknown_services: Leave out sections of services that are not in ``schemas`` instead of
            refusing them; for a process that serves one service of a file's graph.

    Raises:
        ConfigError: names the file and line, flag or variable, the key, and what is allowed.
    """
    if not allow_unknown_services:
        for layer in layers:
            _check_services(schemas, layer)
    common = _common(layers)
    services: dict[str, ServiceSettings] = {}
    origins: dict[str, str] = {}
    for name, schema in schemas.items():
        tree = _service_tree(schema, layers, common)
        services[name], found = read_settings(schema, tree)
        origins |= {f"{name}.{key}": where for key, where in found.items()}
    return ResolvedConfig(services, origins)


def _check_services(schemas: Mapping[str, ServiceSchema], layer: Layer) -> None:
    known = [COMMON, *schemas]
    for name in layer.data:
        if name not in known:
            where = layer.origin((name,)).where
            raise ConfigError(f"{where}: no service {name!r} in this graph{suggest(str(name), known)}")
    lower = {name.lower() for name in known}
    for path, _value, origin in layer.loose:
        if underscored(path[0]).lower() not in lower:
            raise ConfigError(
                f"{origin.where}: no service {path[0]!r} in this graph{suggest(path[0], known)}"
            )


def _common(layers: Sequence[Layer]) -> Node:
    """The ``Common`` section, merged over all layers; its keys are any service's keys."""
    node: Node = {}
    for layer in reversed(layers):
        section = layer.data.get(COMMON)
        if section is not None and not isinstance(section, dict):
            where = layer.origin((COMMON,)).where
            raise ConfigError(f"{where}: {COMMON} must be a mapping of settings, not {section!r}")
        if section:
            # which service takes a key is open yet, so every key is fine here
            free = ServiceSchema(COMMON, annotations={underscored(key): None for key in section})
            add_section(node, free, section, layer, (COMMON,))
        for path, value, origin in layer.loose:
            if path[0].lower() == COMMON.lower():
                put(node, tuple(part.lower() for part in path[1:]), Leaf(value, origin))
    return node


def _service_tree(schema: ServiceSchema, layers: Sequence[Layer], common: Node) -> Node:
    """Class attributes, ``@service`` arguments, listed ``Common`` keys, then the layers."""
    given: Node = {}
    for layer in reversed(layers):
        add_layer(given, schema, layer, schema.name)
    tree: Node = {}
    declared = Layer(f"@service of {schema.name}", dict(schema.arguments))
    defaults = {name: as_mapping(value) for name, value in schema.attributes.items()}
    add_section(tree, schema, defaults, Layer("class attribute", {}), ())
    add_section(tree, schema, declared.data, declared, ())
    enabled = find(given, "dynamo", "enabled")
    if schema.is_component or (isinstance(enabled, Leaf) and enabled.value is True):
        _put_default_namespace(tree, layers)
    merge(tree, _taken(schema, given, common))
    merge(tree, given)
    tree.pop(COMMON_CONFIGS, None)
    return tree


def _put_default_namespace(tree: Node, layers: Sequence[Layer]) -> None:
    """The environment's namespace, for a component whose ``@service`` names none; also one that a layer makes."""
    named = find(tree, "dynamo", "namespace")
    if isinstance(named, Leaf) and named.value is not None and not isinstance(named.value, DefaultName):
        return
    origin = Origin("environment DYNAMO_NAMESPACE")
    for layer in reversed(layers):
        if layer.namespace is not None:
            put(tree, ("dynamo", "namespace"), Leaf(layer.namespace, origin))


def _taken(schema: ServiceSchema, given: Node, common: Node) -> Node:
    """The ``Common`` keys that the service lists."""
    listed = given.get(COMMON_CONFIGS)
    if listed is None:
        return {}
    names, where = (listed.value, listed.origin.where) if isinstance(listed, Leaf) else (listed, schema.name)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: {schema.name}.common-configs must be a list of keys of {COMMON}")
    node: Node = {}
    for name in names:
        key = underscored(name)
        if key not in common:
            known = [str(word) for word in common]
            raise ConfigError(f"{where}: {COMMON} has no key {name!r}{suggest(name, known)}")
        for path, leaf in leaves({key: common[key]}):
            one = Layer(leaf.origin.where, {}, {path: leaf.origin})
            add_section(node, schema, _nest(path, leaf.value), one, ())
    return node


def _nest(path: Sequence[Any], value: Any) -> Any:
    """``("a", "b"), 1`` → ``{"a": {"b": 1}}``."""
    for key in reversed(path):
        value = {key: value}
    return value
