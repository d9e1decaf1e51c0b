"""Finds for every written key the place it belongs to, in one service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo_tasks.config.layers import Layer, Origin, Path
from dynamo_tasks.config.schema import COMMON_CONFIGS, FIXED, RESERVED, SHORT, ServiceSchema
from dynamo_tasks.config.suggest import is_slip, suggest
from dynamo_tasks.config.tree import Leaf, Node, leaves_of, put
from dynamo_tasks.errors import ConfigError

__all__ = ["add_layer", "add_section", "underscored"]


def underscored(key: Any) -> Any:
    """``enable-prefix-caching`` → ``enable_prefix_caching``."""
    return key.replace("-", "_") if isinstance(key, str) else key


def _match(key: Any, known: Iterable[str], *, loose: bool) -> str | None:
    """The known name that ``key`` means; ``loose``: in any case."""
    name = underscored(key)
    if not loose:
        return name if name in known else None
    return next((word for word in known if word.lower() == str(name).lower()), None)


def _place(schema: ServiceSchema, path: Path, origin: Origin, *, loose: bool) -> Path:
    """The canonical path of a key.

    Raises:
        ConfigError: the service has no such key; names the nearest.
    """
    short = [name for name in SHORT if name not in (*schema.names, *schema.taken)]
    known = (*RESERVED, *schema.names, *short)
    first = _match(path[0], known, loose=loose)
    if first in short:
        return _place_fixed(schema.name, (*SHORT[str(first)], *path[1:]), origin, loose=loose)
    if first in RESERVED:
        return _place_fixed(schema.name, (first, *path[1:]), origin, loose=loose)
    if first is None and schema.is_open and (own := _new_name(schema, path[0], known, loose=loose)):
        return (own, *(str(key).lower() if loose else key for key in path[1:]))
    if first is None and (schema.extras is None or is_slip(str(path[0]), known)):
        shown = [COMMON_CONFIGS.replace("_", "-") if word == COMMON_CONFIGS else word for word in known]
        hint = "; a key of its own is declared in the class" if schema.is_open else ""
        raise ConfigError(
            f"{origin.where}: {schema.name} has no key {path[0]!r}{suggest(str(path[0]), shown)}{hint}"
        )
    rest = path[1:] if first is not None else path
    first = first if first is not None else schema.extras
    return (first, *_place_inside(schema, str(first), rest, loose=loose))


def _new_name(schema: ServiceSchema, key: Any, known: Iterable[str], *, loose: bool) -> str:
    """The attribute that a key makes which the class does not declare; empty where it cannot be meant so."""
    name = str(underscored(key))
    name = name.lower() if loose else name
    usable = isinstance(key, str) and name.isidentifier() and name[0] != "_" and name not in schema.taken
    return name if usable and not is_slip(name, known) else ""


def _place_fixed(service: str, path: Path, origin: Origin, *, loose: bool) -> Path:
    """Check the keys of ``dynamo``, ``ServiceArgs``, and of the mappings in it."""
    done: Path = path[:1]
    for key in path[1:]:
        if done not in FIXED:
            done = (*done, key)
            continue
        name = _match(key, FIXED[done], loose=loose)
        if name is None:
            where = ".".join((service, *done))
            raise ConfigError(f"{origin.where}: {where} has no key {key!r}{suggest(str(key), FIXED[done])}")
        done = (*done, name)
    return done


def _place_inside(schema: ServiceSchema, name: str, rest: Path, *, loose: bool) -> Path:
    """Keys inside a ``dict`` attribute: dashes of the extras' own keys, case of environment variables."""
    if not rest:
        return rest
    head = underscored(rest[0]) if name == schema.extras else rest[0]
    if not loose:
        return (head, *rest[1:])
    default = schema.attributes.get(name)
    known = default if isinstance(default, dict) else {}
    return (_match(head, known, loose=True) or str(head).lower(), *(str(key).lower() for key in rest[1:]))


def add_section(
    node: Node, schema: ServiceSchema, section: Any, layer: Layer, prefix: Path, *, loose: bool = False
) -> None:
    """Put a section of a layer into ``node`` under canonical keys.

    Args:
        node: The service's tree.
        schema: The service.
        section: What stands under the service's name; ``None`` is an empty section.
        layer: Gives the origins.
        prefix: Path of the section in the layer.
        loose: Match names in any case.

    Raises:
        ConfigError: the section is no mapping, or has a key that the service does not know.
    """
    if section is None:
        return
    if not isinstance(section, dict):
        where = layer.origin(prefix).where
        raise ConfigError(f"{where}: {schema.name} must be a mapping of settings, not {section!r}")
    for key, item in section.items():
        for path, value in leaves_of(_typed(schema, (key,), item, layer.origin((*prefix, key))), (key,)):
            _add(node, schema, path, Leaf(value, layer.origin((*prefix, *path))), loose=loose)


def _typed(schema: ServiceSchema, path: Path, value: Any, origin: Origin) -> Any:
    """Return the text as typed for an attribute of type ``str`` that looks like a mapping: ``{question}``."""
    if not isinstance(value, dict) or origin.text is None or len(path) != 1:
        return value
    name = _match(path[0], schema.names, loose=True) or ""
    expected = schema.annotations.get(name) or type(schema.attributes.get(name))
    return origin.text if expected in (str, str | None) else value


def _add(node: Node, schema: ServiceSchema, path: Path, leaf: Leaf, *, loose: bool) -> None:
    place = _place(schema, path, leaf.origin, loose=loose)
    if place == ("ServiceArgs", "envs") and isinstance(leaf.value, list):
        for name, value in _env_pairs(schema.name, leaf):
            put(node, (*place, name), Leaf(value, leaf.origin))
        return
    if place in FIXED and leaf.value not in (None, {}):
        keys = ", ".join(FIXED[place])
        shown = ".".join((schema.name, *place))
        raise ConfigError(f"{leaf.origin.where}: {shown} must be a mapping of {keys}, not {leaf.value!r}")
    if place not in FIXED:
        put(node, place, leaf)


def _env_pairs(service: str, leaf: Leaf) -> list[tuple[str, Any]]:
    """BentoML's form of envs: a list of ``{"name": …, "value": …}``."""
    pairs = []
    for item in leaf.value:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ConfigError(
                f"{leaf.origin.where}: {service}.ServiceArgs.envs must be a mapping, or a list of "
                "{name: …, value: …}"
            )
        pairs.append((item["name"], item.get("value", "")))
    return pairs


def add_layer(node: Node, schema: ServiceSchema, layer: Layer, name: str | None) -> None:
    """Put what a layer says about one service into ``node``, its loose values last.

    Args:
        node: The service's tree.
        schema: The service.
        layer: The layer.
        name: The service's name in the layer's data.
    """
    if name in layer.data:
        add_section(node, schema, layer.data[name], layer, (name,))
    for path, value, origin in layer.loose:
        if str(underscored(path[0])).lower() == schema.name.lower():
            for below, item in leaves_of(_typed(schema, path[1:], value, origin), path[1:]):
                _add(node, schema, below, Leaf(item, origin), loose=True)
