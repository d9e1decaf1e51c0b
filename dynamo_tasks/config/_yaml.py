"""YAML with the line of every key. Imported only when there is YAML to read."""

from __future__ import annotations

import re
from typing import Any

import yaml

from dynamo_tasks.errors import ConfigError

__all__ = ["parse_document", "parse_scalar"]

Path = tuple[Any, ...]

_MOST_VALUES = 100_000
_TEXT = "tag:yaml.org,2002:str"
_KINDS = {"SequenceNode": "a list", "ScalarNode": "a single value"}


class _Loader(yaml.SafeLoader):
    """The safe loader that also reads ``1e-3`` as a number, which YAML 1.1 does not, and says where a date is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as exc:
            raise yaml.constructor.ConstructorError(None, None, str(exc), node.start_mark) from exc


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_scalar(text: str) -> Any:
    """The value of a flag or an environment variable: a YAML scalar, or flow list or mapping.

    Anything else stays the text that it is, as typed: what is no YAML, dates, ``a: b``, ``- a``, and text that is not
    quoted, with what YAML takes for a comment.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return text.strip() or None
        value = _constructed(loader, node, "a setting")
    except (yaml.YAMLError, RecursionError):
        return text
    if isinstance(node, yaml.ScalarNode) and isinstance(value, str):
        return text if node.style is None and node.tag == _TEXT else value
    block = isinstance(node, yaml.CollectionNode) and not node.flow_style
    return value if not block and isinstance(value, bool | int | float | list | dict | None) else text


def parse_document(text: str, source: str) -> tuple[dict[Any, Any], dict[Path, int]]:
    """Read one document whose top level is a mapping.

    Args:
        text: YAML.
        source: How errors call it, e.g. the file's name.

    Returns:
        The data, and the line (1-based) of the key at each path.

    Raises:
        ConfigError: not YAML (with its line), a key twice, a loop of aliases or one that multiplies, or no mapping on
            top.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            kind = _KINDS[type(node).__name__]
            raise ConfigError(f"{source}: the top level must be a mapping of service names, not {kind}")
        data: dict[Any, Any] = _constructed(loader, node, source)
    except yaml.YAMLError as exc:
        raise ConfigError(_describe(exc, source)) from exc
    except RecursionError as exc:
        raise ConfigError(f"{source}: nested too deeply") from exc
    lines: dict[Path, int] = {}
    _walk(node, data, (), lines)
    return data, lines


def _describe(exc: yaml.YAMLError, source: str) -> str:
    mark = getattr(exc, "problem_mark", None)
    where = f"{source}:{mark.line + 1}" if mark is not None else source
    problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
    return f"{where}: not valid YAML: {problem}"


def _constructed(loader: _Loader, node: yaml.Node, source: str) -> Any:
    _Check(source).values(node)
    return loader.construct_document(node)


class _Check:
    """Refuses keys that stand twice in one mapping, aliases that contain themselves, and those that multiply."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._values: dict[int, int] = {}
        """Of each node that was counted; 0 while it is being counted."""

    def values(self, node: yaml.Node) -> int:
        """Values that a node stands for, with all aliases in their places."""
        found = self._values.get(id(node))
        if found is None:
            self._values[id(node)] = 0
            found = self._values[id(node)] = 1 + sum(map(self.values, self._children(node)))
        elif found == 0:
            raise self._refused(node, "an alias contains itself")
        if found > _MOST_VALUES:
            raise self._refused(node, f"aliases make more than {_MOST_VALUES} values of it")
        return found

    def _children(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if not isinstance(node, yaml.MappingNode):
            return []
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise self._refused(key, f"{key.value!r} stands here twice")
                seen.add(key.value)
        return [value for _, value in node.value]

    def _refused(self, node: yaml.Node, why: str) -> ConfigError:
        return ConfigError(f"{self._source}:{node.start_mark.line + 1}: {why}")


def _walk(node: yaml.Node, data: Any, path: Path, lines: dict[Path, int]) -> None:
    """Note the line of each key; ``node`` is read after merge keys were resolved."""
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        return
    by_text = {str(key): key for key in data}
    for key_node, value_node in node.value:
        key = by_text.get(key_node.value, key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            continue
        lines[(*path, key)] = key_node.start_mark.line + 1
        _walk(value_node, data.get(key), (*path, key), lines)
