"""The protocol between a worker and an engine, which produces tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, ClassVar, Self

import msgspec

from dynamo_tasks.engines.args import EngineArgs, read_args
from dynamo_tasks.engines.text.output import only_prompt, usage
from dynamo_tasks.engines.text.payload import parse_embed, parse_generate
from dynamo_tasks.engines.text.prompts import too_long
from dynamo_tasks.engines.text.request import EmbedRequest, GenerateRequest
from dynamo_tasks.engines.text.tokenizer import Tokenizer, load_tokenizer
from dynamo_tasks.errors import EngineError, InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = [
    "EmbedRequest",
    "EmbeddingResult",
    "Engine",
    "EngineStats",
    "GenerateRequest",
    "parse_embed",
    "parse_generate",
    "usage",
]

_TEMPLATED = ("last_message", "parallel_tool_calls", "reasoning_effort", "tool_choice", "tools")
"""The chat template puts them into the prompt, or parsers heed them: there is nothing left that an engine must do."""


class EngineStats(msgspec.Struct, frozen=True):
    """A snapshot of an engine.

    Attributes:
        running: Sequences that produce tokens now.
        waiting: Sequences that wait for their turn.
        kv_usage: Used share of the KV cache, 0..1; blocks that only the prefix cache holds are free.
        prefix_hit_rate: Share of prompt tokens that the prefix cache had, 0..1, since the start.
        tokens: Tokens produced since the start.
        prefill_tokens: Tokens of prompts that it has yet to compute; -1 = it does not know.
        kv_active_blocks: KV blocks that its requests need; of an engine, those that they hold.
        kv_total_blocks: KV blocks that it has; 0 = unknown.
    """

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prefix_hit_rate: float = 0.0
    tokens: int = 0
    prefill_tokens: int = -1
    kv_active_blocks: int = 0
    kv_total_blocks: int = 0


class EmbeddingResult(msgspec.Struct, frozen=True):
    """Vectors in the order of the inputs, and how many tokens the inputs had."""

    vectors: list[list[float]]
    prompt_tokens: int


class Engine(ABC):
    """Produces tokens. Belongs to one event loop.

    ``engine = await create_engine("mocker")`` is the same as ``create_engine`` and ``start()``.

    Attributes:
        name: Name of the engine, e.g. ``"mocker"``.
        card: The model that it serves.
        max_num_seqs: Sequences that it runs at the same time.
        features: Names of optional request fields (:data:`~dynamo_tasks.engines.text.payload.EXTRAS`
            and ``"logprobs"``) that it honours; others are refused.
        args_type: Declares its arguments; :meth:`from_args` calls the class with one.
        knows_card: Whether ``card`` is whole before :meth:`start`: then a model can be listed that never ran.
    """

    knows_card: ClassVar[bool] = False
    features: ClassVar[frozenset[str]] = frozenset()
    args_type: ClassVar[type[EngineArgs]] = EngineArgs

    def __init__(self, name: str, card: ModelCard, max_num_seqs: int) -> None:
        """Prepare; nothing runs before :meth:`start`."""
        self.name = name
        self.card = card
        self.max_num_seqs = max_num_seqs
        self.tokenizer: Tokenizer = load_tokenizer(card.tokenizer)
        self._started = False

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Make the engine from configuration.

        Raises:
            ConfigError: an unknown argument, or a value that is not allowed.
        """
        make: Callable[[EngineArgs], Self] = cls  # subclasses take their arguments
        return make(read_args(cls.args_type, cls.__name__.removesuffix("Engine").lower(), args))

    def __await__(self) -> Generator[Any, None, Self]:
        """Start it."""
        yield from self.start().__await__()
        return self

    async def start(self) -> None:
        """Get ready to serve; a second call does nothing."""
        self._started = True

    async def stop(self) -> None:
        """Abort what runs and free everything; a second call does nothing."""
        self._started = False

    def generate(
        self,
        request: GenerateRequest | Mapping[str, Any],
        *,
        request_id: str | None = None,
        output_token_ids: Mapping[int, list[int]] | None = None,
        is_read: Callable[[], bool] | None = None,
    ) -> AsyncGenerator[TokenDelta, None]:
        """Generate; ``aclose()`` of the generator, or cancelling its consumer, aborts the request.

        The last delta of a choice has its ``finish_reason`` (``stop`` or ``length``), the last of the
        request its ``usage``. Of a continued request only what is new is yielded; a choice that had
        ended already gives one more delta, without text or ids, that repeats its finish reason.

        Args:
            request: A request, or a public payload.
            request_id: For a payload: id of the request; a new one by default.
            output_token_ids: For a payload: what an interrupted attempt emitted, per choice.
            is_read: For a payload: whether somebody reads the answer now; asked again and again. What nobody
                reads may come in larger pieces.

        Raises:
            InvalidRequestError: a field is not valid, or asks for what this engine cannot do.
            EngineError: the engine was not started; ``EngineDeadError`` while iterating: it died.
        """
        self.check_health()
        if not isinstance(request, GenerateRequest):
            request = parse_generate(
                request, self.tokenizer, self.card, request_id=request_id, output_token_ids=output_token_ids
            )
            request.is_read = is_read
        self._check_features(request)
        return only_prompt(request, self.tokenizer) if request.max_tokens == 0 else self._generate(request)

    @abstractmethod
    def _generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        """Generate what was checked."""

    async def embed(self, inputs: list[str | list[int]], dimensions: int | None = None) -> EmbeddingResult:
        """One unit vector per input.

        Args:
            inputs: Texts, or token ids.
            dimensions: Length of the vectors; ``None`` = the engine's default.

        Raises:
            InvalidRequestError: the engine cannot embed, or not with so many dimensions.
        """
        raise InvalidRequestError(f"engine {self.name!r} does not make embeddings", param="model")

    def continues(self, payload: Mapping[str, Any]) -> bool:
        """Return whether an interrupted answer to this public payload goes on after its tokens.

        Where not (it is computed again from the prompt), the request is not interrupted for others.
        """
        return True

    @abstractmethod
    def stats(self) -> EngineStats:
        """Report the current load."""

    def kv_events(self) -> AsyncGenerator[dict[str, Any], None] | None:
        """Return the stream of changes of the prefix cache; ``None`` where the engine does not report them.

        Yields:
            ``{"seq", "ts", "dp_rank", "events": [{"type", "block_hashes", …}]}``.
        """
        return None

    def check_sleep(self, level: int) -> None:
        """Do nothing if it can sleep.

        Raises:
            InvalidRequestError: it cannot, or not like that; says what would be needed.
        """
        raise InvalidRequestError(f"engine {self.name!r} cannot sleep")

    async def sleep(self, level: int) -> None:
        """Give memory back until :meth:`wake_up`; nothing runs.

        Args:
            level: 1 = weights go to the host's memory, 2 = they are dropped; see :meth:`check_sleep`.
        """
        self.check_sleep(level)

    async def wake_up(self) -> None:
        """Be able to serve again."""
        raise EngineError(f"engine {self.name!r} does not sleep")

    def check_health(self) -> None:
        """Do nothing if it can serve.

        Raises:
            EngineError: it was not started, or was stopped.
            EngineDeadError: it died.
        """
        if not self._started:
            raise EngineError(f"engine {self.name!r} is not started")

    def _check_features(self, request: GenerateRequest) -> None:
        if request.images and not self.card.images:
            raise InvalidRequestError(f"model {self.card.name!r} takes text alone", param="images")
        asked = [*request.extra] if request.logprobs is None else [*request.extra, "logprobs"]
        for name in asked:
            if name not in self.features and name not in _TEMPLATED:
                raise InvalidRequestError(f"engine {self.name!r} does not support {name}", param=name)

    def _max_tokens(self, request: GenerateRequest, default: int) -> int:
        """Most tokens of a choice: what was asked for, or ``default``, within the context length."""
        limit = default if request.max_tokens is None else request.max_tokens
        longest = self.card.max_model_len
        room = longest - len(request.prompt_token_ids) if longest else limit
        if room < 1:
            raise too_long(longest, len(request.prompt_token_ids), param="prompt_token_ids")
        return min(limit, room)
