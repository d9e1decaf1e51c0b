"""Images on their way into vLLM.

vLLM puts as many tokens into a prompt as each image needs, in place of its placeholder. That is done once, before the
answer: the tokens of an answer that was interrupted follow the whole prompt, and what looks like a placeholder among
them is text.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec

from dynamo_tasks.engines.text.prompts import check_length
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.engines.vllm.start import Started
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard

__all__ = ["ImageInputs", "learn_images"]

_AT_A_TIME = 2
"""Requests whose images are in memory without being in the engine: as many as there are threads that decode."""


def learn_images(vllm: Started) -> dict[str, Any]:
    """Fields of the model's card; none where it takes no images."""
    model = vllm.config.model_config
    if not (limit := vllm.api.image_limit(vllm.llm, model)):
        return {}
    first, second = (vllm.api.image_placeholder(model, number) for number in (1, 2))
    if first is not None and first != second:
        first = first.replace("1", "{n}")
    return {
        "images": limit,
        "image_placeholder": first,
        "chat_template": vllm.api.chat_template(vllm.llm, model),
    }


class ImageInputs:
    """Makes vLLM's inputs of requests with images."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def render(
        self, vllm: Started, request: GenerateRequest, card: ModelCard
    ) -> tuple[GenerateRequest, dict[str, Any]]:
        """Give the images of a request their tokens.

        Args:
            vllm: The engine.
            request: Its images were checked; not yet decoded.
            card: Of the model.

        Returns:
            The request with its whole prompt, and vLLM's input for it.

        Raises:
            InvalidRequestError: An image cannot be decoded, the model cannot use it, or the prompt is too long.
        """
        async with self._turns:
            read = [await self._read(vllm, request, place) for place in range(len(request.images))]
            images, names = [image for image, _ in read], [name for _, name in read]
            try:
                rendered = await vllm.api.render_images(vllm.llm, request.prompt_token_ids, images, names)
            except Exception as error:  # the processors of models raise anything over what they cannot use
                raise _refused(f"the model cannot use these images: {error}") from error
        ids = rendered["prompt_token_ids"]
        check_length(len(ids), request.max_tokens, card.max_model_len, {"messages": ids, "max_tokens": 0})
        return msgspec.structs.replace(request, prompt_token_ids=ids, images=[]), rendered

    async def _read(self, vllm: Started, request: GenerateRequest, place: int) -> tuple[Any, str]:
        """Decode an image and name it, in a thread."""
        data = request.images[place]

        def read() -> tuple[Any, str]:
            return vllm.api.decode_image(vllm.config.model_config, data), _name(data, request.cache_salt)

        try:
            return await offload(INLINE + 1, read)
        except Exception as error:  # decoders raise anything over a file that is broken
            raise _refused(f"image {place + 1} cannot be decoded: {error}") from error


def _name(data: bytes, salt: str | None) -> str:
    """Name an image to vLLM's caches: the same image of another salt is another one."""
    found = hashlib.blake2b(data, digest_size=32, key=hashlib.sha256((salt or "").encode()).digest())
    return found.hexdigest()


def _refused(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"images: {problem}", param="messages")
