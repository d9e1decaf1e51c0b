"""Start of a vLLM engine from its configuration. Everything here blocks: it runs in a thread."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynamo_tasks.config.host.gpus import PINNED
from dynamo_tasks.engines.parent_death_signal import end_children_with_parent
from dynamo_tasks.engines.text.fields import nearest
from dynamo_tasks.engines.vllm import progress as vllm_progress
from dynamo_tasks.engines.vllm.install import argument_names, check_model
from dynamo_tasks.engines.vllm.outputs import OutputBuffers
from dynamo_tasks.engines.vllm.stats import StatsCollector
from dynamo_tasks.errors import ConfigError, EngineError

__all__ = ["Started", "check_adapters", "check_arguments", "import_vllm", "set_environment", "start_vllm"]

_TOKENIZER_FILES = ["*.json", "*.jinja"]
Report = Callable[[str], None]
_DEFAULTS: dict[str, Any] = {"disable_log_stats": True}


@dataclasses.dataclass(frozen=True)
class Started:
    """A running engine.

    Attributes:
        api: The module :mod:`dynamo_tasks.engines.vllm.api`.
        llm: vLLM's ``AsyncLLM``.
        config: Its ``VllmConfig``.
        tokenizer: The folder of its tokenizer files.
        taps: Where its streams gather while they rest.
    """

    api: Any
    llm: Any
    config: Any
    tokenizer: Path
    taps: OutputBuffers


def check_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by vLLM's own names.

    Raises:
        ConfigError: vLLM has no such argument; names the nearest.
    """
    known = argument_names()
    named = {name.replace("-", "_"): value for name, value in given.items()}
    for name in named:
        if name not in known:
            raise ConfigError(
                f"engine 'vllm' has no argument {name!r}; nearest: {nearest(name, known)!r} "
                "(all are those of vLLM's AsyncEngineArgs)",
                param=name,
            )
    if not isinstance(named.get("model"), str):
        raise ConfigError(
            "engine 'vllm' needs a model: the path of a folder, or an id of a hub", param="model"
        )
    check_model(named["model"])
    return named


def check_adapters(given: object) -> dict[str, str]:
    """LoRA adapters: served name → folder.

    Raises:
        ConfigError: something else, or a folder without an adapter.
    """
    if not isinstance(given, Mapping):
        raise ConfigError("lora_modules must be a mapping of names to folders", param="lora_modules")
    for name, path in given.items():
        folder = Path(str(path)).expanduser()
        if not isinstance(name, str) or not name or not (folder / "adapter_config.json").is_file():
            raise ConfigError(
                f"lora_modules.{name}: {str(path)!r} is no folder with an adapter_config.json",
                param="lora_modules",
            )
    return {name: str(Path(path).expanduser()) for name, path in given.items()}


def import_vllm() -> Any:
    """Import vLLM; gives the module :mod:`dynamo_tasks.engines.vllm.api`.

    Apart from :func:`start_vllm`: some module keeps a traceback of its import for ever, and with it all that
    the functions below know, the engine too.
    """
    set_environment()
    from dynamo_tasks.engines.vllm import api

    return api


def start_vllm(api: Any, arguments: Mapping[str, Any], stats: StatsCollector, report: Report) -> Started:
    """Load the model, wait until it can serve.

    Args:
        api: What :func:`import_vllm` gave.
        arguments: See :func:`check_arguments`.
        stats: Gets what vLLM records.
        report: Called with each phase.

    Raises:
        ConfigError: an argument is not valid, or there is no such model.
        EngineError: vLLM could not start.
    """
    report("configure")
    end_children_with_parent(vllm_progress.__file__)
    tokenizer = _tokenizer_folder(arguments)
    try:
        made = api.AsyncEngineArgs(**_as_configs(api.AsyncEngineArgs, _with_defaults(arguments)))
        config = made.create_engine_config()
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"vLLM refuses its arguments: {_first_line(error)}", param="engine_args") from error
    report("load")
    try:
        llm = api.make_engine(config, stats, log_stats=not made.disable_log_stats)
    except (RuntimeError, ValueError, OSError) as error:
        raise EngineError(f"vLLM could not start with model {arguments['model']!r}: {error}") from error
    return Started(api, llm, config, tokenizer, OutputBuffers(llm))


def set_environment() -> None:
    """Set what vLLM reads from the environment; whatever the user has set stands."""
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # CUDA and our own threads do not survive a fork
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # It waits for that on the event loop, whose worker would be taken for dead after three seconds.
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", "1")
    level = logging.getLogger("dynamo_tasks").getEffectiveLevel()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", logging.getLevelName(max(level, logging.DEBUG)))


def _with_defaults(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ours, where the user says nothing: all GPUs that this process was given, as one tensor-parallel group."""
    devices = [device for device in os.environ.get(PINNED, "").split(",") if device]
    if len(devices) > 1 and not {"pipeline_parallel_size", "data_parallel_size"} & arguments.keys():
        return {"tensor_parallel_size": len(devices), **_DEFAULTS, **arguments}
    return {**_DEFAULTS, **arguments}


def _tokenizer_folder(arguments: Mapping[str, Any]) -> Path:
    name = arguments.get("tokenizer") or arguments["model"]
    folder = check_model(name)
    if folder is not None:
        return folder
    hub: Any = importlib.import_module("huggingface_hub")  # comes with vLLM; heeds HF_HUB_OFFLINE
    revision = arguments.get("tokenizer_revision") or arguments.get("revision")
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=_TOKENIZER_FILES))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model {name!r}: no such folder here, and the hub does not give it: {_first_line(error)}",
            param="model",
        ) from error


def _as_configs(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Objects of the configuration (``kv_events_config: {…}``) as the dataclasses that vLLM wants."""
    hints = {field.name: field.type for field in dataclasses.fields(kind)}
    return {name: _as_config(hints[name], value) for name, value in given.items()}


def _as_config(hint: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kinds = typing.get_args(hint) or (hint,)
    if any(one is dict or typing.get_origin(one) is dict for one in kinds):
        return value
    config = next((one for one in kinds if dataclasses.is_dataclass(one)), None)
    return value if config is None else typing.cast(Any, config)(**value)


def _first_line(error: BaseException) -> str:
    """An error as one line; of pydantic's several, all that they say."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors())
    return str(error).strip().partition("\n")[0] or type(error).__name__
