"""``Worker``: one engine per process, its requests from the queue."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any, ClassVar

import msgspec

from dynamo_tasks.config import DefaultName
from dynamo_tasks.engines import Engine, EngineStats, check_engine, create_engine
from dynamo_tasks.engines.parsers.tool_parsers import AnswerReader, Parsers, check_parsers
from dynamo_tasks.engines.text.payload import tokenized
from dynamo_tasks.engines.text.prompts import single_payloads, size_of
from dynamo_tasks.engines.text.several import generate_several
from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe.tracing import OFF, Span, span
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import (
    CompletionAggregate,
    TokenDelta,
    emitted_ids,
    finished,
    several_prompts,
)
from dynamo_tasks.sdk import async_on_start, dynamo_endpoint, get_resolver, liveness, on_shutdown, service
from dynamo_tasks.sdk.context import Context, current_context
from dynamo_tasks.sdk.services.own_class import owner_of
from dynamo_tasks.services.kv_events import KvReporter

__all__ = ["Worker", "traced"]

_DEFAULT_SLOTS = 256
_SETTINGS = ("engine", "model", "served_model_name", "tool_call_parser", "reasoning_parser", "engine_args")


@service(dynamo={"namespace": DefaultName("dynamo")})
class Worker:
    """Serves a model.

    Attributes:
        engine: ``echo``, ``mocker``, ``vllm``, ``module:Class``, or the path of a model; by default ``vllm``
            where a model is named, else ``echo``.
        model: Model that the engine loads; what it means is the engine's matter.
        served_model_name: Its name in the API; the engine's choice by default.
        tool_call_parser: What reads tool calls in answers: a name of vLLM's ``--tool-call-parser``.
        reasoning_parser: What reads reasoning in answers: a name of vLLM's ``--reasoning-parser``.
        engine_args: Arguments of the engine; keys of the configuration that are not known here go in, too.
    """

    engine: str | None = None
    model: str | None = None
    served_model_name: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    engine_args: ClassVar[dict[str, Any]] = {}
    config_extras = "engine_args"

    def __init__(self) -> None:
        self._engine: Engine = create_engine(self._engine_name(), **self._arguments())
        self._parsers: Parsers | None = None
        self._kv = KvReporter(self._engine)

    @classmethod
    def _engine_name(cls) -> str:
        return cls.engine or ("echo" if cls.model is None else "vllm")

    @classmethod
    def _arguments(cls) -> dict[str, Any]:
        names = {"model": cls.model, "served_model_name": cls.served_model_name}
        if cls._engine_name() == "vllm":
            # So that what constrains an answer does not constrain the reasoning in front of it.
            names["reasoning_parser"] = cls.reasoning_parser
        return {name: value for name, value in names.items() if value is not None} | cls.engine_args

    @classmethod
    def check_settings(cls) -> None:
        """Refuse settings that the engine would refuse, before any process starts.

        Raises:
            ConfigError: names the nearest known setting, of the engine or of this class.
        """
        try:
            check_engine(cls._engine_name(), **cls._arguments())
        except ConfigError as error:
            # A key that this class does not know went to the engine; it may have been meant for either.
            meant = get_close_matches(error.param or "", _SETTINGS, 1)
            if error.param in cls.engine_args and meant:
                raise ConfigError(
                    f"Worker has no setting {error.param!r}, nor has its engine; did you mean {meant[0]!r}?"
                ) from error
            raise
        check_parsers(tool_call_parser=cls.tool_call_parser, reasoning_parser=cls.reasoning_parser)

    @classmethod
    def known_card(cls) -> ModelCard | None:
        """Describe the model where that needs no engine that has loaded it; ``None`` where it does."""
        engine = create_engine(cls._engine_name(), **cls._arguments())
        if not engine.knows_card:
            return None
        return _with_parsers(cls, engine)

    @classmethod
    def slots(cls) -> int:
        """Requests that one process takes at a time: as many as the engine batches."""
        return int(cls.engine_args.get("max_num_seqs") or _DEFAULT_SLOTS)

    @async_on_start
    async def start_engine(self) -> None:
        """Load the model."""
        # That may take minutes: under `serve`, what the engine reports meanwhile is shown at every log level.
        if os.environ.get("DYNAMO_SHOW_PROGRESS"):
            logging.getLogger("dynamo_tasks.engine").setLevel(logging.INFO)
        await self._engine.start()
        if self.tool_call_parser or self.reasoning_parser:
            self._parsers = await asyncio.to_thread(Parsers.load, self.model_card())
        await self._report_cache()

    async def _report_cache(self) -> None:
        resolver: Any = get_resolver()
        runtime = getattr(resolver, "runtime", None)
        if runtime is not None:
            own = owner_of(type(self))  # a subclass may be a service of its own
            assert own is not None
            namespace, name = own.dynamo_address()
            context = getattr(getattr(resolver, "host", None), "worker_context", None)
            component = runtime.namespace(namespace).component(name)
            await self._kv.start(component, resolver.instance_id, context)

    @on_shutdown
    async def stop_engine(self) -> None:
        """Free the engine."""
        await self._kv.stop()
        await self._engine.stop()

    @liveness
    def engine_is_alive(self) -> bool:
        """Check that the engine can serve."""
        self._engine.check_health()
        return True

    def check_sleep(self, level: int) -> None:
        """Refuse what the engine cannot do."""
        self._engine.check_sleep(level)

    async def sleep(self, level: int) -> None:
        """Let the engine give its memory back; nothing runs."""
        await self._engine.sleep(level)

    async def wake_up(self) -> None:
        """Let it serve again."""
        await self._engine.wake_up()

    def model_card(self) -> ModelCard:
        """Describe the model, as frontends must know it."""
        return _with_parsers(type(self), self._engine)

    def engine_load(self) -> EngineStats:
        """The engine's own load."""
        return self._kv.stats()

    def _continues(self, request: Any) -> bool:
        payload = as_payload(request)
        return not isinstance(payload, dict) or self._engine.continues(payload)

    @dynamo_endpoint(aggregate=CompletionAggregate, policy="continue", can_continue=_continues)
    async def generate(self, request: Any) -> AsyncIterator[TokenDelta]:
        """Generate text.

        Args:
            request: ``{"prompt" | "messages" | "prompt_token_ids", "max_tokens", "stop", "temperature",
                "seed", "n", …}``; a string is a prompt; so is the ``text`` of another
                answer, as chains hand it on. Of several prompts, choice ``i`` of prompt ``p`` has the index
                ``p * n + i``.

        Yields:
            ``{"text", "token_ids", "index", "finish_reason"}``.
        """
        payload = as_payload(request)
        context = current_context() or Context("")
        done = finished(context.written)
        if (size := size_of(payload)) > INLINE:
            payload = await offload(size, tokenized, payload, self._engine.tokenizer, self._engine.card)
        payload, reader = self._reader(payload, context)
        counted = self._kv.request(context.id, payload) if self._kv.counts else nullcontext()
        with counted as tracked:
            source = self._source(payload, context)
            try:
                async for delta in traced(source, self._engine.card.name, self._engine_name()):
                    if tracked is not None:
                        tracked.got_token()
                    if delta.index in done:
                        # The engine repeats how a choice ended; only what it says of the whole request is new.
                        if delta.usage is None:
                            continue
                        delta = TokenDelta("", [], delta.index, usage=delta.usage)
                    yield delta if reader is None else reader.read(delta)
            finally:
                await source.aclose()

    def _source(self, payload: Any, context: Context) -> AsyncGenerator[TokenDelta, None]:
        """The engine's deltas, from where an earlier attempt ended."""
        emitted = emitted_ids(context.written)

        def generate(
            one: Any, place: int, known: dict[int, list[int]], name: str | None = None
        ) -> AsyncGenerator[TokenDelta, None]:
            return self._engine.generate(
                one, request_id=name or f"{context.id}-{place}", output_token_ids=known or None,
                is_read=lambda: context.is_read,
            )  # fmt: skip

        if isinstance(payload, dict) and several_prompts(payload):
            return generate_several(single_payloads(payload), emitted, generate)
        return generate(payload, 0, emitted, context.id or None)

    def _reader(self, payload: Any, context: Context) -> tuple[Any, AnswerReader | None]:
        """Open the reader of tool calls and reasoning in the answer; ``None`` where it is not a chat."""
        if self._parsers is None or not isinstance(payload, dict) or payload.get("chat") is None:
            return payload, None
        return self._parsers.open(payload, context.written)

    @dynamo_endpoint()
    async def embed(self, request: Any) -> dict[str, Any]:
        """Embed texts: ``{"input": text | texts | ids | lists of ids, "dimensions"?}`` →
        ``{"embeddings", "prompt_tokens"}``."""
        from dynamo_tasks.engines import parse_embed

        wanted = parse_embed(request if isinstance(request, dict) else {"input": request})
        result = await self._engine.embed(wanted.inputs, wanted.dimensions)
        return {"embeddings": result.vectors, "prompt_tokens": result.prompt_tokens}


def _with_parsers(settings: Any, engine: Engine) -> ModelCard:
    return msgspec.structs.replace(
        engine.card,
        tool_call_parser=settings.tool_call_parser,
        reasoning_parser=settings.reasoning_parser,
        heeds_tool_choice="tool_choice" in engine.features,
    )


def as_payload(request: Any) -> Any:
    """The mapping that an engine understands."""
    if isinstance(request, str):
        return {"prompt": request}
    if isinstance(request, dict) and not request.keys() & {"prompt", "messages", "prompt_token_ids"}:
        text = request.get("text")
        if isinstance(text, str):
            rest = {
                k: v for k, v in request.items() if k not in ("text", "token_ids", "finish_reason", "usage")
            }
            return {**rest, "prompt": text}
    return request


def traced(source: AsyncIterator[TokenDelta], model: str, engine: str) -> AsyncIterator[TokenDelta]:
    """Record a ``dynamo.generate`` span over the deltas; gives the source itself where none is recorded."""
    known = {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": engine}
    made = span("dynamo.generate", attributes={**known, "gen_ai.request.model": model})
    return source if made is OFF else _watched(source, made)


async def _watched(source: AsyncIterator[TokenDelta], made: Span) -> AsyncIterator[TokenDelta]:
    reasons: list[str] = []
    with made:
        async for delta in source:
            if delta.finish_reason is not None:
                reasons.append(delta.finish_reason)
            if delta.usage is not None:
                made.set("gen_ai.usage.input_tokens", delta.usage["prompt_tokens"])
                made.set("gen_ai.usage.output_tokens", delta.usage["completion_tokens"])
                made.set("gen_ai.usage.cache_read.input_tokens", delta.usage.get("cached_tokens"))
                made.set("gen_ai.response.finish_reasons", reasons)
            yield delta
