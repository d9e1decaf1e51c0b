"""All that is used of vLLM, and the only module that imports it. It takes some ten seconds to import.

The names below are the same in the supported releases. What differs between releases belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from vllm import __version__ as version
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GenerationError, GracefulHTTPError, RetryableRequestError, VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.model_executor.model_loader import get_model_cls
from vllm.multimodal.image import convert_image_mode, normalize_image, open_image
from vllm.pooling_params import PoolingParams
from vllm.renderers.hf import HfRenderer, resolve_chat_template
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import PrometheusStatLogger

from dynamo_tasks.engines.vllm.install import check_version
from dynamo_tasks.engines.vllm.outputs import Outputs
from dynamo_tasks.engines.vllm.stats import StatsCollector

__all__ = [
    "AsyncEngineArgs",
    "EngineDeadError",
    "EngineGenerateError",
    "GenerationError",
    "GracefulHTTPError",
    "RequestOutputKind",
    "RetryableRequestError",
    "SamplingParams",
    "StructuredOutputsParams",
    "VLLMClientError",
    "adapter",
    "chat_template",
    "decode_image",
    "embedding_params",
    "end_ids",
    "image_limit",
    "image_placeholder",
    "make_engine",
    "makes_embeddings",
    "read_outputs",
    "render_images",
    "sampling_params",
    "stop_outputs",
    "tokens_input",
]

check_version(str(version))


def make_engine(config: Any, stats: StatsCollector, *, log_stats: bool) -> AsyncLLM:
    """Load the model, wait until it can serve.

    Args:
        config: A ``VllmConfig``.
        stats: Gets what the scheduler reports after each step.
        log_stats: Whether vLLM logs statistics and keeps Prometheus metrics of its own, too. They are taken per
            request and step, which is a tenth of what a token costs in this process.
    """
    loggers = [stats if log_stats else _only(stats)]
    llm = AsyncLLM.from_vllm_config(config, stat_loggers=loggers, disable_log_stats=not log_stats)
    # The engine core has been asked to make statistics; from here on only its own are wanted.
    llm.log_stats = llm.output_processor.log_stats = log_stats
    return llm


def read_outputs(llm: AsyncLLM, gap: Callable[[], float]) -> None:
    """Read what the engine core makes in our way; before anything was asked of it.

    Args:
        llm: The engine.
        gap: See :class:`Outputs`.
    """
    Outputs(llm.engine_core.resources.output_socket, gap)


def _only(stats: StatsCollector) -> type[PrometheusStatLogger]:
    """A collector that takes the place of vLLM's Prometheus metrics."""

    class Only(PrometheusStatLogger):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None: ...

        def record(self, *args: Any, **kwargs: Any) -> None:
            stats.record(*args, **kwargs)

        def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None: ...

        def record_admission_rejection(self, reason: str) -> None: ...

        def log_engine_initialized(self) -> None: ...

    return Only


def tokens_input(ids: list[int], cache_salt: str | None = None) -> dict[str, Any]:
    """A prompt that needs neither tokenizing nor a thread of its own; its blocks are shared under its salt alone."""
    salted = {} if cache_salt is None else {"cache_salt": cache_salt}
    return {"type": "token", "prompt_token_ids": ids, **salted}


def image_limit(llm: AsyncLLM, model_config: Any) -> int:
    """Most images of one request; 0 = the model takes none, or not as images of their own."""
    if not model_config.supports_multimodal_inputs or model_config.runner_type == "pooling":
        return 0
    return int(llm.renderer.get_mm_processor().info.allowed_mm_limits.get("image") or 0)


def image_placeholder(model_config: Any, number: int) -> str | None:
    """The text that stands for an image; ``number``: which of the request, from 1. ``None`` = none is needed."""
    found: str | None = get_model_cls(model_config).get_placeholder_str("image", number)
    return found


def chat_template(llm: AsyncLLM, model_config: Any) -> str | None:
    """The template that vLLM takes for chats with images: often that of the processor, not of the tokenizer."""
    if not isinstance(llm.renderer, HfRenderer):
        return None
    tokenizer = llm.renderer.get_tokenizer()
    found: str | None = resolve_chat_template(tokenizer, None, None, model_config=model_config)
    return found


def decode_image(model_config: Any, data: bytes) -> Any:
    """An image as vLLM takes it; heeds the engine's ``media_io_kwargs``. Blocks for as long as decoding takes.

    Raises:
        OSError: It is broken. Others may come from the decoder, too.
    """
    options = model_config.get_multimodal_config().media_io_kwargs.get("image", {})
    image = open_image(BytesIO(data))
    image.load()  # before vLLM turns it upright: that passes over errors, and what is broken would be black
    image = normalize_image(image)
    mode = options.get("image_mode", "RGB") or image.mode
    return convert_image_mode(image, mode, tuple(options.get("rgba_background_color", (255, 255, 255))))


async def render_images(llm: AsyncLLM, ids: list[int], images: list[Any], names: list[str]) -> dict[str, Any]:
    """An input whose placeholders have become as many tokens as the images need.

    What was prepared of an image is kept under its name, for the next request. It is sent to the engine core with
    every request all the same: vLLM's other way, to send it once, fails where the two ends forget in another order.

    Args:
        llm: The engine.
        ids: Of the prompt, a placeholder for each image among them.
        images: See :func:`decode_image`.
        names: One for each: what has the same name is the same to every cache.

    Raises:
        ValueError: The model cannot use an image.
        RuntimeError: A placeholder is missing.
    """
    prompt = {
        "prompt_token_ids": ids,
        "multi_modal_data": {"image": images},
        "multi_modal_uuids": {"image": names},
    }
    (rendered,) = await llm.renderer.render_cmpl_async([prompt], skip_mm_cache=True)
    return dict(rendered)


def sampling_params(arguments: Mapping[str, Any]) -> SamplingParams:
    """Parameters of a request that is asked for once, whose ids we make text of."""
    given = dict(arguments)
    if structured := given.get("structured_outputs"):
        given["structured_outputs"] = StructuredOutputsParams(**structured)
    return SamplingParams(**given, detokenize=False, output_kind=RequestOutputKind.DELTA, skip_clone=True)


def adapter(name: str, number: int, path: str) -> LoRARequest:
    """A LoRA adapter; ``number``, from 1, is its id in the engine."""
    return LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)


def embedding_params(dimensions: int | None) -> PoolingParams:
    """Parameters of an embedding: a unit vector, where the model does not say otherwise."""
    return PoolingParams(task="embed", dimensions=dimensions)


def makes_embeddings(model_config: Any) -> bool:
    """Return whether the model gives vectors and no text."""
    return bool(model_config.runner_type == "pooling")


def stop_outputs(llm: AsyncLLM) -> None:
    """Stop reading outputs, before the engine core is ended: its end would look like a failure."""
    if llm.output_handler is not None:
        llm.output_handler.cancel()


def end_ids(llm: AsyncLLM, model_config: Any) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's, and those of ``generation_config.json``."""
    listed = model_config.try_get_generation_config().get("eos_token_id")
    found = [llm.renderer.get_eos_token_id(), *(listed if isinstance(listed, list) else [listed])]
    return frozenset(token for token in found if token is not None)
