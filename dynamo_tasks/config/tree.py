"""Nested values that remember where each was written, and their deep merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from dynamo_tasks.config.layers import Origin, Path

__all__ = ["Leaf", "Node", "find", "leaves", "leaves_of", "merge", "plain", "put"]


class Leaf(NamedTuple):
    """A value that is not merged any deeper, and where it was written."""

    value: Any
    origin: Origin


Node: TypeAlias = "dict[Any, Node | Leaf]"


def leaves_of(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Flatten plain data; an empty mapping counts as a value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves_of(item, (*path, key))
    else:
        yield path, value


def put(node: Node, path: Path, leaf: Leaf) -> None:
    """Set one value; an empty mapping adds nothing to one that is there."""
    for key in path[:-1]:
        below = node.get(key)
        if not isinstance(below, dict):
            below = node[key] = {}
        node = below
    if leaf.value == {} and isinstance(node.get(path[-1]), dict):
        return
    node[path[-1]] = leaf


def merge(low: Node, high: Node) -> None:
    """Put everything in ``high`` over ``low``: mappings key by key, all else as a whole."""
    for path, leaf in leaves(high):
        put(low, path, leaf)


def leaves(node: Node, path: Path = ()) -> Iterator[tuple[Path, Leaf]]:
    """All values with their paths."""
    for key, item in node.items():
        if isinstance(item, dict):
            yield from leaves(item, (*path, key))
        else:
            yield (*path, key), item


def find(node: Node, *path: Any) -> Node | Leaf | None:
    """Find the node or leaf at ``path``, if there is one."""
    item: Node | Leaf | None = node
    for key in path:
        item = item.get(key) if isinstance(item, dict) else None
    return item


def plain(item: Node | Leaf) -> Any:
    """The bare values; containers are copies."""
    if isinstance(item, dict):
        return {key: plain(below) for key, below in item.items()}
    return _copy(item.value)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
