"""The real engine: vLLM's ``AsyncLLM``.

This process keeps the tokenizer and makes text of ids itself, also where vLLM could: the text of an answer
that was interrupted and continued is then a function of its ids alone, as with every other engine. vLLM
itself is imported when the engine starts, not before.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Self

import msgspec

from dynamo_tasks.engines.args import EngineArgs
from dynamo_tasks.engines.base import EmbeddingResult, Engine, EngineStats
from dynamo_tasks.engines.coalescing import CoalescingWindow, gap
from dynamo_tasks.engines.embedding import encode_inputs
from dynamo_tasks.engines.text.output import echoed
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.several import merged
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.engines.vllm.choice import ChoiceRequest, known_before, usage_of
from dynamo_tasks.engines.vllm.failures import translated
from dynamo_tasks.engines.vllm.images import ImageInputs, learn_images
from dynamo_tasks.engines.vllm.install import check_installed
from dynamo_tasks.engines.vllm.kv_events import KvEvents, cache_blocks, learn_cache
from dynamo_tasks.engines.vllm.params import FEATURES, ModelLimits, check_request, may_be_replayed
from dynamo_tasks.engines.vllm.progress import Progress
from dynamo_tasks.engines.vllm.sleep_mode import Sleep
from dynamo_tasks.engines.vllm.start import Started, check_adapters, check_arguments, import_vllm, start_vllm
from dynamo_tasks.engines.vllm.stats import StatsCollector
from dynamo_tasks.errors import EngineDeadError, EngineError, InvalidRequestError, UnknownModelError
from dynamo_tasks.observe import event
from dynamo_tasks.protocol.http.bodies import resolve_aliases
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["VllmEngine"]

_SHUTDOWN_S = 2.0
"""Seconds that vLLM's processes get to end by themselves."""


class VllmEngine(Engine):
    """Serves a model with vLLM; one engine per process.

    Its arguments are those of vLLM's ``AsyncEngineArgs``, ``served_model_name``, and ``lora_modules``: LoRA
    adapters that are served under names of their own.
    """

    features = FEATURES

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Prepare; the model is loaded by :meth:`start`.

        Args:
            arguments: By vLLM's names, checked.
        """
        named = dict(arguments)
        name = named.pop("served_model_name", None) or named["model"]
        self._adapters: dict[str, str] = named.pop("lora_modules", {})
        if self._adapters:
            named.setdefault("enable_lora", True)
        slots = int(named.setdefault("max_num_seqs", EngineArgs().max_num_seqs))
        super().__init__("vllm", ModelCard(name=name, adapters=list(self._adapters)), slots)
        self._arguments = named
        self._sleep = Sleep(named)
        self._kv_events: KvEvents | None = None
        self._blocks = 0
        self._stats = StatsCollector()
        self._vllm: Started | None = None
        self._death: EngineDeadError | None = None
        self._limits = ModelLimits(vocab_size=0)
        self._end_ids: frozenset[int] = frozenset()
        self._began = 0.0
        self._live = 0
        self._pace = CoalescingWindow()
        self._images = ImageInputs()
        self._tokens = 0
        self._numbers = itertools.count()

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Make the engine from configuration; vLLM is not imported for that.

        Raises:
            ConfigError: vLLM is not installed or not supported, an unknown argument, no such model.
        """
        check_installed()
        given = dict(args)
        adapters = check_adapters(given.pop("lora_modules", {}))
        return cls({**check_arguments(given), "lora_modules": adapters})

    async def start(self) -> None:
        """Load the model and wait until vLLM can serve.

        Raises:
            ConfigError: an argument that vLLM refuses, or no such model.
            EngineError: vLLM could not start.
        """
        if self._vllm is None:
            self._began, self._pace = time.monotonic(), CoalescingWindow()
            self._report("import")
            api = await asyncio.to_thread(import_vllm)
            with Progress(self._report):
                started = await asyncio.to_thread(start_vllm, api, self._listen(), self._stats, self._report)
            self._learn(started)
            api.read_outputs(started.llm, lambda: gap(self._live))
            self._vllm, self._death = started, None
            self._report("ready")
            elapsed = time.monotonic() - self._began
            event("engine.start", engine=self.name, model=self.card.name, startup_s=elapsed)
        await super().start()

    def _listen(self) -> dict[str, Any]:
        """Listen to KV events where they are wanted; gives the arguments with the place where."""
        self._kv_events = KvEvents.of(self._arguments)
        if self._kv_events is None:
            return self._arguments
        self._kv_events.open()
        return {**self._arguments, "kv_events_config": self._kv_events.config}

    def kv_events(self) -> AsyncGenerator[dict[str, Any], None] | None:
        """vLLM's, with ``kv_events_config.enable_kv_cache_events``."""
        return None if self._kv_events is None else self._kv_events.batches()

    def _report(self, phase: str) -> None:
        elapsed = time.monotonic() - self._began
        event("engine.progress", engine=self.name, model=self.card.name, phase=phase, elapsed_s=elapsed)

    def _learn(self, vllm: Started) -> None:
        """Take the card, the tokenizer and the limits from the model that was loaded."""
        model = vllm.config.model_config
        self.card = msgspec.structs.replace(
            self.card,
            kind="embeddings" if vllm.api.makes_embeddings(model) else "chat",
            tokenizer=str(vllm.tokenizer.absolute()),
            max_model_len=model.max_model_len,
            kv_events=self._kv_events is not None,
            **learn_cache(vllm.config),
            **learn_images(vllm),
        )
        self._blocks = cache_blocks(vllm.config)
        self.tokenizer = load_tokenizer(self.card.tokenizer)
        self._limits = ModelLimits(
            vocab_size=model.get_vocab_size(),
            max_logprobs=model.max_logprobs,
            defaults=model.get_diff_sampling_param(),
            priorities=vllm.config.scheduler_config.policy == "priority",
        )
        self._end_ids = vllm.api.end_ids(vllm.llm, model)

    async def stop(self) -> None:
        """Abort what runs, end vLLM's processes."""
        await super().stop()
        vllm, self._vllm = self._vllm, None
        if vllm is not None:
            vllm.api.stop_outputs(vllm.llm)
            await asyncio.to_thread(vllm.llm.shutdown, _SHUTDOWN_S)
            del vllm
            gc.collect()  # it is full of reference cycles, and must not be collected when the interpreter ends
            event("engine.stop", engine=self.name, model=self.card.name)
        if self._kv_events is not None:
            self._kv_events.close()
            self._kv_events = None

    def check_health(self) -> None:
        """Do nothing if it can serve."""
        if self._vllm is not None and self._vllm.llm.errored:
            raise self._died("its process ended")
        super().check_health()

    def _died(self, reason: str) -> EngineDeadError:
        if self._death is None:
            self._death = EngineDeadError(f"engine 'vllm' died: {reason}")
            event("engine.died", engine=self.name, model=self.card.name, error=reason)
        return self._death

    def check_sleep(self, level: int) -> None:
        """Do nothing if it can sleep: with ``enable_sleep_mode``, on a GPU."""
        self._sleep.check(level)

    async def sleep(self, level: int) -> None:
        """Give the GPU's memory back."""
        self.check_health()
        await self._sleep.begin(self._running().llm, level)

    async def wake_up(self) -> None:
        """Take the GPU's memory again."""
        self.check_health()
        await self._sleep.end(self._running().llm)

    def _running(self) -> Started:
        assert self._vllm is not None
        return self._vllm

    def stats(self) -> EngineStats:
        """Report the load."""
        # vLLM's numbers are of its last step: what has ended since does not wait.
        waiting = min(self._stats.waiting, self._live)
        return EngineStats(
            running=self._live - waiting,
            waiting=waiting,
            kv_usage=self._stats.kv_usage if self._live else 0.0,
            prefix_hit_rate=self._stats.prefix_hit_rate,
            tokens=self._tokens,
            kv_active_blocks=round(self._blocks * self._stats.kv_usage) if self._live else 0,
            kv_total_blocks=self._blocks,
        )

    async def embed(self, inputs: list[str | list[int]], dimensions: int | None = None) -> EmbeddingResult:
        """One vector per input, all of them in vLLM's batch at once."""
        self.check_health()
        if self.card.kind != "embeddings":
            return await super().embed(inputs, dimensions)
        prompts = await encode_inputs(inputs, self.tokenizer, self.card.max_model_len)
        vectors = await asyncio.gather(*[self._vector(prompt, dimensions) for prompt in prompts])
        return EmbeddingResult(vectors, sum(map(len, prompts)))

    async def _vector(self, prompt: list[int], dimensions: int | None) -> list[float]:
        vllm = self._running()
        params = vllm.api.embedding_params(dimensions)
        with self._at_work(vllm):
            source = vllm.llm.encode(vllm.api.tokens_input(prompt), params, uuid.uuid4().hex)
            async with aclosing(source):
                async for result in source:
                    return [float(number) for number in result.outputs.data.tolist()]
        raise EngineError("vLLM gave no vector")

    def continues(self, payload: Mapping[str, Any]) -> bool:
        """Return whether vLLM goes on after the tokens of such an answer; else it computes them again."""
        return not may_be_replayed(resolve_aliases(payload), self._limits)

    def _check_features(self, request: GenerateRequest) -> None:
        if self._sleep.level:
            raise EngineError("engine 'vllm' sleeps")
        if self.card.kind == "embeddings":
            raise InvalidRequestError(f"model {self.card.name!r} makes embeddings, not text", param="model")
        if request.model not in (None, self.card.name, *self._adapters):
            # It came by a queue that workers of another model share: an answer of this one would be wrong.
            raise UnknownModelError(
                f"model {request.model!r} is not served here; served: "
                f"{', '.join((self.card.name, *self._adapters))}",
                param="model",
            )
        super()._check_features(request)
        check_request(request, self._limits)

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        rendered = None
        if request.images:
            with translated(self._running().api, self._died):
                request, rendered = await self._images.render(self._running(), request, self.card)
        choices = self._choices(request)
        live = [choice for choice in choices if not choice.finished]
        for delta in known_before(request, choices, await echoed(request, self.tokenizer)):
            if not live and delta.index == request.n - 1:
                delta.usage = usage_of(request, choices)
            yield delta
        left = len(live)
        source = merged([self._run(request, choice, rendered) for choice in live])
        try:
            async for delta in source:
                left -= delta.finish_reason is not None
                if not left:
                    delta.usage = usage_of(request, choices)
                self._tokens += len(delta.token_ids)
                yield delta
        finally:
            await source.aclose()

    def _choices(self, request: GenerateRequest) -> list[ChoiceRequest]:
        room = self.card.max_model_len - len(request.prompt_token_ids)
        limit = self._max_tokens(request, self._limits.defaults.get("max_tokens") or room)
        return [
            ChoiceRequest(
                request, index, tokenizer=self.tokenizer, limits=self._limits, max_tokens=limit,
                end_ids=self._end_ids,
            )
            for index in range(request.n)
        ]  # fmt: skip

    async def _run(
        self, request: GenerateRequest, choice: ChoiceRequest, rendered: dict[str, Any] | None
    ) -> AsyncGenerator[TokenDelta, None]:
        vllm = self._running()
        with self._at_work(vllm):
            # Two attempts at one request may be here for a moment.
            name = f"{request.request_id}-{choice.output.index}-{next(self._numbers)}"
            async with aclosing(self._ask(vllm, request, choice, name, rendered)) as source:
                async for result in source:
                    delta = choice.take(result)
                    if delta is not None:
                        yield delta
                    tap = vllm.taps.tap(name)
                    while tap is not None and not (choice.finished or choice.compares or tap.passed):
                        ids = await tap.gather(self._pace.rest(self._live, request.is_read))
                        if not ids:
                            break
                        yield choice.output.push(ids)
                    if choice.finished:
                        return

    @contextmanager
    def _at_work(self, vllm: Started) -> Iterator[None]:
        """Count one sequence; say vLLM's errors as ours."""
        self._live += 1
        try:
            with translated(vllm.api, self._died):
                yield
        finally:
            self._live -= 1

    def _ask(
        self,
        vllm: Started,
        request: GenerateRequest,
        choice: ChoiceRequest,
        name: str,
        rendered: dict[str, Any] | None,
    ) -> Any:
        tokens = vllm.api.tokens_input(choice.prompt, request.cache_salt)
        return vllm.llm.generate(
            tokens if rendered is None else {**rendered, **tokens, "type": rendered["type"]},
            vllm.api.sampling_params(choice.arguments),
            name,
            priority=request.priority if self._limits.priorities else 0,
            lora_request=self._adapter(vllm, request.model),
        )

    def _adapter(self, vllm: Started, name: str | None) -> Any:
        """vLLM's request for a LoRA adapter; ``None`` for the model itself."""
        if name not in self._adapters:
            return None
        # vLLM knows adapters by numbers from 1 on.
        number = list(self._adapters).index(name) + 1
        return vllm.api.adapter(name, number, self._adapters[name])
