"""``Processor``: OpenAI requests become engine requests: chat template, tokens, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, ClassVar

from dynamo_tasks.engines.embedding import check_input
from dynamo_tasks.engines.images.fetch import FetchSettings, ImageFetcher
from dynamo_tasks.engines.images.hosts import allowed_hosts, networks
from dynamo_tasks.engines.images.image_limits import MOST, TOTAL_BYTES, ImageLimits
from dynamo_tasks.engines.images.messages import mark_images, remote_images, take_images, with_fetched
from dynamo_tasks.engines.text.chats.tools import allowed_tools, chat_of
from dynamo_tasks.engines.text.fields import token_ids
from dynamo_tasks.engines.text.payload import parse_embed, tokenized
from dynamo_tasks.engines.text.prompts import prompt_ids, size_of
from dynamo_tasks.engines.text.shorten import SHORTEN, fitting
from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.engines.text.tokenizer import Tokenizer, load_tokenizer
from dynamo_tasks.errors import ConfigError, InvalidRequestError, UnknownModelError
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.sdk import depends, dynamo_endpoint, get_resolver, service
from dynamo_tasks.services.worker import Worker

__all__ = ["Processor"]

_CONSUMED = frozenset({"documents", "chat_template_kwargs", "add_generation_prompt"})
"""Fields that are in the prompt by then."""
_TOOLS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
"""Fields that are in ``chat``, where a parser reads the answer."""


@service()
class Processor:
    """Prepares requests for the Worker.

    By default it lives in the Frontend's process and is called directly. With
    ``dynamo: {enabled: true}`` it is a component of its own, and its endpoints take the bodies of the OpenAI API.

    Attributes:
        max_images: Most images of one request.
        max_image_bytes: Most bytes of each.
        max_image_pixels: Most pixels of each: width × height.
        image_hosts: From where images are fetched: ``images.example``, ``*.example``, ``*``, with a port or
            ``http://`` if need be; none = images come in ``data:`` URLs alone.
        image_networks: Private networks that these hosts may be in: ``10.0.0.0/8``.
        image_timeout: Seconds that the images of one request may take.
    """

    worker = depends(Worker)
    max_images: int = ImageLimits().count
    max_image_bytes: int = ImageLimits().size
    max_image_pixels: int = ImageLimits().pixels
    image_hosts: ClassVar[list[str]] = []
    image_networks: ClassVar[list[str]] = []
    image_timeout: float = FetchSettings().timeout
    config_extras = None  # a key that is not known is a mistake

    def __init__(self) -> None:
        # Slow to import (Jinja): before the first chat, which would wait for it on the loop.
        from dynamo_tasks.engines.text.chats import template  # noqa: F401

        self._tokenizers: dict[str, Tokenizer] = {}
        self._limits = self._image_limits()
        self._fetcher = ImageFetcher(self._fetch_settings())

    @classmethod
    def check_settings(cls) -> None:
        """Refuse what cannot be kept, before any process starts.

        Raises:
            ConfigError: says which setting.
        """
        cls._image_limits()
        cls._fetch_settings()

    @classmethod
    def _image_limits(cls) -> ImageLimits:
        limits = ImageLimits(count=cls.max_images, size=cls.max_image_bytes, pixels=cls.max_image_pixels)
        names = {"max_images": "count", "max_image_bytes": "size", "max_image_pixels": "pixels"}
        for setting, name in names.items():
            given, most = getattr(limits, name), getattr(MOST, name)
            if not 0 <= given <= most:
                raise ConfigError(f"{setting} must be from 0 to {most}, not {given}", param=setting)
        return limits

    @classmethod
    def _fetch_settings(cls) -> FetchSettings:
        if not 0 < cls.image_timeout <= 600:
            raise ConfigError(
                f"image_timeout must be more than 0 and at most 600 seconds, not {cls.image_timeout}",
                param="image_timeout",
            )
        return FetchSettings(
            hosts=allowed_hosts(cls.image_hosts),
            private=networks(cls.image_networks),
            timeout=float(cls.image_timeout),
        )

    async def fetch_images(self, body: dict[str, Any], card: ModelCard) -> dict[str, bytes]:
        """Fetch what is behind the http(s) URLs of a chat's images: URL → bytes.

        Args:
            body: Engine fields of the request.
            card: The model that it names.

        Raises:
            InvalidRequestError: An image cannot be had; ``param`` is its field.
        """
        wanted = remote_images(body.get("messages")) if card.images else {}
        if len(wanted) > min(self._limits.count, card.images):
            return {}  # too many: refused where all are counted
        return await self._fetcher.fetch(wanted, self._limits.size, TOTAL_BYTES) if wanted else {}

    def prepare(self, api: str, body: dict[str, Any], card: ModelCard) -> dict[str, Any]:
        """The payload of the Worker's endpoint.

        Args:
            api: ``chat``, ``completions`` or ``embeddings``.
            body: Engine fields of the request.
            card: The model that it names.

        Raises:
            InvalidRequestError: a bad field, or a prompt that is too long; gives both lengths.
        """
        prepared = partial(self._prepared, api, card)
        return fitting(body, prepared) if SHORTEN in body else prepared(body)

    def _prepared(self, api: str, card: ModelCard, body: dict[str, Any]) -> dict[str, Any]:
        tokenizer = self._tokenizer(card.tokenizer)
        if api == "embeddings":
            for place, item in enumerate(parse_embed(body).inputs):
                check_input(item, f"input[{place}]", tokenizer, card.max_model_len)
            return body
        try:
            given = allowed_tools(body) if api == "chat" else body
            if card.images and api == "chat":
                given = take_images(given, self._limits)
            chat = chat_of(given, card) if api == "chat" else None
            payload = tokenized(given, tokenizer, card)
        except InvalidRequestError as error:
            error.param = _as_written(error.param, api)
            raise
        if chat is not None:
            payload["chat"] = chat
        done = _CONSUMED if chat is None else _CONSUMED | _TOOLS
        return {name: value for name, value in payload.items() if name not in done}

    def tokenize(self, body: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
        """The tokens of a prompt or a chat, as vLLM's ``/tokenize`` gives them.

        Args:
            body: ``{"prompt" | "messages", "add_special_tokens", "return_token_strs", …}``, where an image is its
                placeholder; or ``{"tokens"}``, which become ``{"prompt"}``, as vLLM's ``/detokenize`` gives it.
            card: The model whose tokens they are.

        Raises:
            InvalidRequestError: a bad field, or a text that surely has more tokens than the model can hold.
        """
        tokenizer = self._tokenizer(card.tokenizer)
        if "tokens" in body:
            return {"prompt": tokenizer.decode(token_ids(body["tokens"], "tokens", tokenizer.vocab_size))}
        ids = prompt_ids(mark_images(body) if card.images else body, tokenizer, card)
        names = tokenizer.names(ids) if body.get("return_token_strs") else None
        return {"count": len(ids), "max_model_len": card.max_model_len, "tokens": ids, "token_strs": names}

    def _tokenizer(self, name: str) -> Tokenizer:
        found = self._tokenizers.get(name)
        if found is None:
            found = self._tokenizers[name] = load_tokenizer(name)
        return found

    @dynamo_endpoint(name="chat/completions", aggregate=CompletionAggregate, policy="replay")
    async def chat(self, request: dict[str, Any]) -> AsyncIterator[TokenDelta]:
        """Answer a body of ``/v1/chat/completions`` with the Worker's chunks."""
        async for delta in self._answer("chat", request):
            yield delta

    @dynamo_endpoint(name="completions", aggregate=CompletionAggregate, policy="replay")
    async def complete(self, request: dict[str, Any]) -> AsyncIterator[TokenDelta]:
        """Answer a body of ``/v1/completions`` with the Worker's chunks."""
        async for delta in self._answer("completions", request):
            yield delta

    @dynamo_endpoint(name="tokenize")
    async def tokens(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a body of ``/tokenize`` or ``/detokenize``."""
        card = self._card(request.get("model"))
        return await offload(INLINE + 1, self.tokenize, request, card)

    async def _answer(self, api: str, body: dict[str, Any]) -> AsyncIterator[TokenDelta]:
        card = self._card(body.get("model"))
        if fetched := await self.fetch_images(body, card):
            body = {**body, "messages": with_fetched(body["messages"], fetched)}
        payload = await offload(size_of(body), self.prepare, api, body, card)
        async for chunk in self.worker.generate(payload):
            yield TokenDelta.from_dict(chunk)

    def _card(self, model: str | None) -> ModelCard:
        """The card of a model that a live Worker serves."""
        runtime = getattr(get_resolver(), "runtime", None)
        assert runtime is not None
        service: Any = Worker  # under @service: more than its class
        namespace, component = service.dynamo_address()
        watcher = runtime.watcher(namespace)
        infos = [i for i in (*watcher.instances, *watcher.resting) if i.component == component and i.model]
        cards = {info.model.name: info.model for info in infos}
        if model is None and len(cards) == 1:
            return next(iter(cards.values()))  # type: ignore[no-any-return]
        if model not in cards:
            raise UnknownModelError(
                f"model {model!r} is not served; served: {', '.join(sorted(cards)) or 'none'}"
            )
        return cards[model]  # type: ignore[no-any-return]


def _as_written(param: str | None, api: str) -> str | None:
    """The field at fault as the client knows it: it sent no token ids, or in another field."""
    if param is None or not param.startswith("prompt_token_ids"):
        return param
    return "messages" if api == "chat" else param.replace("prompt_token_ids", "prompt", 1)
