"""An engine of one's own: the mocker, with the tokenizer of a folder that ``model`` names, and what it was asked."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
from celery.exceptions import Ignore

from dynamo_tasks.engines.args import EngineArgs
from dynamo_tasks.engines.mocker.engine import MockerArgs, MockerEngine
from dynamo_tasks.engines.text.output import UNSAMPLED
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["OwnEngine", "make_tokenizer"]


class OwnEngine(MockerEngine):
    """Notes each request, as JSON lines in the file that ``OWN_ENGINE_LOG`` names."""

    features = UNSAMPLED | {"tool_choice"}

    def __init__(self, args: EngineArgs) -> None:
        assert isinstance(args, MockerArgs)
        super().__init__(msgspec.structs.replace(args, model=None))
        if args.model is not None:
            self.card = msgspec.structs.replace(self.card, tokenizer=args.model)
            self.tokenizer = load_tokenizer(args.model)

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[TokenDelta, None]:
        _note({"priority": request.priority, "salt": request.cache_salt, **request.extra})
        if "[ignore]" in self.tokenizer.decode(request.prompt_token_ids):
            raise Ignore
        async for delta in super()._generate(request):
            yield delta


def _note(asked: dict[str, Any]) -> None:
    if path := os.environ.get("OWN_ENGINE_LOG"):
        with Path(path).open("a") as log:
            log.write(json.dumps(asked) + "\n")


def _note(asked: dict[str, Any]) -> None:
    if path := os.environ.get("OWN_ENGINE_LOG"):
        with Path(path).open("a") as log:
            log.write(json.dumps(asked) + "\n")


def make_tokenizer(folder: Path, text: str, *, size: int = 8000, normalizer: Any = None) -> None:
    """Train a byte-level BPE tokenizer."""
    import tokenizers

    rust = tokenizers.Tokenizer(tokenizers.models.BPE())
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = tokenizers.decoders.ByteLevel()
    rust.normalizer = normalizer
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"]
    )
    rust.train_from_iterator([text], trainer)
    rust.save(str(folder / "tokenizer.json"))
