"""The mocker: behaves like vLLM, computes nothing.

Time, batches, KV blocks and the prefix cache are those of a simulated scheduler. The text is a pure
function of the prompt, the seed, the choice and the position, so that an answer which was interrupted
and continued somewhere else can be compared with one that was not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dynamo_tasks.engines.base import EmbeddingResult, Engine, EngineStats, usage
from dynamo_tasks.engines.embedding import embed_all
from dynamo_tasks.engines.images.image_limits import MOST
from dynamo_tasks.engines.images.stand_in import expand_images
from dynamo_tasks.engines.mocker.compose import FEATURES, compose, is_composed
from dynamo_tasks.engines.mocker.device import Device
from dynamo_tasks.engines.mocker.logprobs import Logprobs
from dynamo_tasks.engines.mocker.reply import Reply, ReplyOutput
from dynamo_tasks.engines.mocker.scheduler import Scheduler, SchedulerArgs
from dynamo_tasks.engines.mocker.sequence import Run, Sequence
from dynamo_tasks.engines.mocker.text import pseudo_text, text_keys
from dynamo_tasks.engines.text.output import UNSAMPLED, ChoiceOutput, echoed
from dynamo_tasks.engines.text.prompts import check_length
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.threads import INLINE, offload
from dynamo_tasks.errors import ConfigError, EngineDeadError, EngineError, InvalidRequestError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["MockerArgs", "MockerEngine"]

_DEFAULT_MAX_TOKENS = 128
_PLACEHOLDER = "<image>"


class MockerArgs(SchedulerArgs, kw_only=True, frozen=True):
    """Arguments of the mocker.

    Attributes:
        seed: Of the text, for requests that bring none.
        max_model_len: As of every engine; by default, and at most, what the KV blocks hold.
        tokenizer: ``bytes``, or a path to tokenizer files: prompts are counted, and the text is made, with it; its
            chat template is used.
        tool_calls: When tools are called under ``tool_choice: auto``: where the user's last message names them,
            always, or never.
        images: Whether it takes images. It looks at none: their tokens, and so the text, follow from their bytes.
        startup_s: Seconds that its start takes, as the loading of weights does.
        sleep_s: Seconds that it takes to fall asleep, and to wake, as the moving of weights does.
        device: Path of a file that stands for the memory of a device: two mockers with the same one cannot both be
            awake.
        kv_events_config: ``{enable_kv_cache_events: true}``, as of vLLM: it reports what is in its prefix cache.
    """

    tokenizer: str = "bytes"
    tool_calls: Literal["named", "always", "never"] = "named"
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] = 0
    images: bool = False
    startup_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    sleep_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    device: str = ""
    kv_events_config: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def publishes(self) -> bool:
        """``True`` if it is to report the changes of its prefix cache."""
        return bool(self.kv_events_config.get("enable_kv_cache_events")) and self.enable_prefix_caching


class MockerEngine(Engine):
    """Simulates vLLM; ends only at ``max_tokens`` (128 by default) or at a stop."""

    args_type = MockerArgs
    knows_card = True
    features = UNSAMPLED | FEATURES

    def __init__(self, args: MockerArgs | None = None) -> None:
        """Make the engine.

        Raises:
            ConfigError: two arguments contradict each other.
        """
        args = args or MockerArgs()
        longest = _max_model_len(args)
        card = ModelCard(
            name=args.name("mocker"), tokenizer=args.tokenizer, max_model_len=longest, heeds_tool_choice=True,
            kv_block_size=args.block_size if args.enable_prefix_caching else 0, kv_events=args.publishes,
            step_tokens=args.max_num_batched_tokens,
        )  # fmt: skip
        if args.images:
            card = msgspec.structs.replace(card, images=MOST.count, image_placeholder=_PLACEHOLDER)
        super().__init__("mocker", card, args.max_num_seqs)
        self._args = args
        self._scheduler = Scheduler(args)
        self._task: asyncio.Task[None] | None = None
        self._death: EngineDeadError | None = None
        self._asleep = False
        self._device = Device(args.device)

    async def start(self) -> None:
        """Start the scheduler's task."""
        if self._task is None:
            self._device.take()
            await asyncio.sleep(self._args.startup_s)
            self._death = None
            self._scheduler = Scheduler(self._args)
            if self._args.publishes:
                self._scheduler.cache.changes = []
            self._task = asyncio.create_task(self._scheduler.run(), name="mocker-scheduler")
            self._task.add_done_callback(self._ended)
            event("engine.start", engine=self.name, model=self.card.name)
        await super().start()

    async def stop(self) -> None:
        """Stop; requests that run end with ``EngineDeadError``."""
        await super().stop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._device.release()
            event("engine.stop", engine=self.name, model=self.card.name)

    def _ended(self, task: asyncio.Task[None]) -> None:
        cause = None if task.cancelled() else task.exception()
        message = f"engine 'mocker' died: {cause!r}" if cause else "engine 'mocker' was stopped"
        error = EngineDeadError(message)
        error.__cause__ = cause
        if cause is not None:
            self._death = error
            event("engine.died", engine=self.name, model=self.card.name, error=message)
        self._scheduler.fail(error)

    def check_sleep(self, level: int) -> None:
        """Do nothing: it has no memory to give back, and forgets its prefix cache, as real engines do."""

    async def sleep(self, level: int) -> None:
        """Forget the prefix cache, and serve nothing."""
        self._asleep = True
        await asyncio.sleep(self._args.sleep_s)
        self._scheduler.forget()
        self._device.release()

    async def wake_up(self) -> None:
        """Serve again."""
        self._device.take()
        await asyncio.sleep(self._args.sleep_s)
        self._asleep = False

    def check_health(self) -> None:
        """Do nothing if it can serve."""
        if self._death is not None:
            raise self._death
        super().check_health()

    def _check_features(self, request: GenerateRequest) -> None:
        super()._check_features(request)
        if request.logprobs is not None and request.extra.get("echo"):
            raise InvalidRequestError("echo: not allowed together with logprobs", param="echo")

    def stats(self) -> EngineStats:
        """Report the load."""
        scheduler = self._scheduler
        return EngineStats(
            running=scheduler.running,
            waiting=scheduler.waiting,
            kv_usage=scheduler.cache.usage,
            prefix_hit_rate=scheduler.prefix_hit_rate,
            tokens=scheduler.tokens,
            prefill_tokens=scheduler.prefill_tokens,
            kv_active_blocks=scheduler.cache.used,
            kv_total_blocks=scheduler.cache.num_blocks,
        )

    def kv_events(self) -> AsyncGenerator[dict[str, Any], None] | None:
        """With ``kv_events_config.enable_kv_cache_events``: in vLLM's words, but without the tokens."""
        return self._scheduler.batches() if self._args.publishes else None

    async def embed(self, inputs: list[str | list[int]], dimensions: int | None = None) -> EmbeddingResult:
        """Hash embeddings."""
        self.check_health()
        return await embed_all(inputs, dimensions, self.tokenizer, self.card.max_model_len)

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        if self._asleep:
            raise EngineError("engine 'mocker' sleeps")
        if request.images:
            request = self._with_images(request)
        run, scheduler = Run(), self._scheduler
        choices = await self._choices(request, run)
        if prompt := await echoed(request, self.tokenizer):
            for index in range(request.n):
                if index not in request.output_token_ids:
                    yield TokenDelta(prompt, [], index)
        try:
            for sequence, choice in choices:
                if choice.finish_reason is None:
                    scheduler.submit(sequence)
            live = choices
            while live:
                moved = False
                for sequence, choice in live:
                    delta = self._next(sequence, choice)
                    if delta is None:
                        continue
                    moved = True
                    if delta.finish_reason is not None:
                        scheduler.abort(sequence)
                        live = [pair for pair in live if pair[1] is not choice]
                        if not live:
                            delta.usage = self._usage(request, run, choices)
                    yield delta
                if not moved:
                    await run.wait()
        finally:
            for sequence, _ in choices:
                scheduler.abort(sequence)

    def _with_images(self, request: GenerateRequest) -> GenerateRequest:
        """A request whose prompt has the tokens of its images."""
        mark = self.tokenizer.encode(_PLACEHOLDER, add_special_tokens=False)
        ids = expand_images(request.prompt_token_ids, mark, request.images)
        check_length(
            len(ids), request.max_tokens, self.card.max_model_len, {"messages": ids, "max_tokens": 0}
        )
        return msgspec.structs.replace(request, prompt_token_ids=ids, images=[])

    async def _choices(self, request: GenerateRequest, run: Run) -> list[tuple[Sequence, ChoiceOutput]]:
        seed = self._args.seed if request.seed is None else request.seed
        prompt = request.prompt_token_ids
        keys = text_keys(prompt, seed, request.n)
        choices: list[tuple[Sequence, ChoiceOutput]] = []
        replies: list[Reply | None] = [None] * request.n
        if request.extra and is_composed(request):  # in a thread: a schema of a client may take a while
            replies = await offload(INLINE + 1, self._composed, request, keys)
        for index, (key, reply) in enumerate(zip(keys, replies, strict=True)):
            limit = self._max_tokens(request, _DEFAULT_MAX_TOKENS if reply is None else len(reply.token_ids))
            choice = self._output(request, index, key, reply, limit)
            text = pseudo_text(key, self.card.tokenizer) if reply is None else reply
            sequence = Sequence(
                run, prompt, text, choice.count, choice.limit, request.priority, request.cache_salt
            )
            choices.append((sequence, choice))
        run.sequences = [sequence for sequence, _ in choices]
        return choices

    def _composed(self, request: GenerateRequest, keys: list[bytes]) -> list[Reply | None]:
        return [compose(request, key, self.tokenizer, self._args.tool_calls) for key in keys]

    def _output(
        self, request: GenerateRequest, index: int, key: bytes, reply: Reply | None, limit: int
    ) -> ChoiceOutput:
        if reply is None and request.logprobs is None:
            return ChoiceOutput(request, index, self.tokenizer, limit)
        if reply is not None:
            limit = min(limit, len(reply.token_ids))
        logprobs = None if request.logprobs is None else Logprobs(key, request.logprobs, self.card.tokenizer)
        return ReplyOutput(request, index, self.tokenizer, limit, reply=reply, logprobs=logprobs)

    @staticmethod
    def _next(sequence: Sequence, choice: ChoiceOutput) -> TokenDelta | None:
        """Take what was produced since the last call, if anything."""
        taken, produced = sequence.taken, sequence.produced
        if produced > taken:
            sequence.taken = produced
            return choice.push(sequence.text.ids(taken, produced))
        if choice.finish_reason is not None:  # an interrupted attempt had got to the end
            return choice.ended()
        return None

    @staticmethod
    def _usage(
        request: GenerateRequest, run: Run, choices: list[tuple[Sequence, ChoiceOutput]]
    ) -> dict[str, int]:
        produced = sum(choice.count for _, choice in choices)
        return usage(len(request.prompt_token_ids), produced, run.cached_tokens)


def _max_model_len(args: MockerArgs) -> int:
    capacity = args.num_blocks * args.block_size
    if args.max_model_len is not None and args.max_model_len > capacity:
        raise ConfigError(
            f"max_model_len {args.max_model_len} is more than num_blocks x block_size = {capacity} tokens",
            param="max_model_len",
        )
    if args.max_num_batched_tokens < args.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens {args.max_num_batched_tokens} is less than max_num_seqs "
            f"{args.max_num_seqs}: a step could not decode all of them",
            param="max_num_batched_tokens",
        )
    return args.max_model_len or capacity
