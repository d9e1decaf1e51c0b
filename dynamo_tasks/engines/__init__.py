"""Engines, which produce tokens: one protocol, several of them (echo, mocker, vllm, or your own class)."""

from __future__ import annotations

import importlib
from typing import Any

from dynamo_tasks.engines.base import (
    EmbeddingResult,
    EmbedRequest,
    Engine,
    EngineStats,
    GenerateRequest,
    parse_embed,
    parse_generate,
)
from dynamo_tasks.engines.text.fields import nearest
from dynamo_tasks.errors import ConfigError

__all__ = [
    "EmbedRequest",
    "EmbeddingResult",
    "Engine",
    "EngineStats",
    "GenerateRequest",
    "check_engine",
    "create_engine",
    "parse_embed",
    "parse_generate",
]

_ENGINES = {
    "echo": "dynamo_tasks.engines.echo:EchoEngine",
    "mocker": "dynamo_tasks.engines.mocker.engine:MockerEngine",
    "vllm": "dynamo_tasks.engines.vllm.engine:VllmEngine",
}


def create_engine(name_or_path: str, **args: Any) -> Engine:
    """Make an engine; ``await create_engine(...)`` starts it as well.

    Args:
        name_or_path: ``"echo"``, ``"mocker"``, ``"vllm"``; ``"module:Class"`` of your own
            :class:`Engine`; or the path of a model (``/models/llama``, ``org/name``), which vllm runs.
        **args: Arguments of the engine; all know ``model``, ``served_model_name``, ``max_num_seqs``
            and ``max_model_len``.

    Raises:
        ConfigError: no such engine or argument (names the nearest), a value that is not allowed, or vLLM is
            not installed.
    """
    if not isinstance(name_or_path, str) or not name_or_path:
        raise ConfigError(f"the name of an engine must be a string, not {name_or_path!r}", param="engine")
    if name_or_path in _ENGINES:
        return _load(_ENGINES[name_or_path], name_or_path).from_args(args)
    if ":" in name_or_path:
        return _load(name_or_path, name_or_path).from_args(args)
    if "/" in name_or_path:
        return _load(_ENGINES["vllm"], "vllm").from_args({"model": name_or_path, **args})
    raise ConfigError(
        f"unknown engine {name_or_path!r}; nearest: {nearest(name_or_path, _ENGINES)!r}; "
        f"known: {', '.join(_ENGINES)}, module:Class, or the path of a model",
        param="engine",
    )


def check_engine(name_or_path: str, **args: Any) -> None:
    """Refuse what :func:`create_engine` would refuse, as far as that is known without importing vllm.

    Args:
        name_or_path: See :func:`create_engine`.
        **args: Arguments of the engine.

    Raises:
        ConfigError: see :func:`create_engine`.
    """
    create_engine(name_or_path, **args)


def _load(where: str, engine: str) -> type[Engine]:
    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(f"engine {engine!r}: cannot import {module!r}: {error}", param="engine") from error
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise ConfigError(f"engine {engine!r}: {module!r} has no Engine class {name!r}", param="engine")
    return found
