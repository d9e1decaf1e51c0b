"""The prompt of a request as routers see it: how long it is, and the hashes of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dynamo_tasks.engines.text.prompts import prompt_ids, size_of
from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.kv.block_hashes import sequence_hashes

__all__ = ["Prompt", "read_prompt"]


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        tokens: How many it has; of several prompts, all of them.
        hashes: Of its blocks; none where these cannot be known here. Of several prompts, those of the first.
    """

    tokens: int = 0
    hashes: Sequence[int] = ()


async def read_prompt(payload: Any, card: ModelCard | None) -> Prompt:
    """The prompt of a payload of ``Worker.generate``; a text is made tokens here, a long one beside the loop.

    Args:
        payload: Any; what has no prompt has none here.
        card: The model that shall answer.
    """
    if isinstance(payload, str):
        payload = {"prompt": payload}
    if not isinstance(payload, Mapping) or card is None:
        return Prompt()
    return await offload(size_of(payload), _read, payload, card)


def _read(payload: Mapping[str, Any], card: ModelCard) -> Prompt:
    ids = payload.get("prompt_token_ids")
    if isinstance(ids, list) and ids and isinstance(ids[0], list):
        return Prompt(sum(map(len, ids)), _hashes(ids[0], payload, card))
    if not isinstance(ids, list):
        try:
            ids = prompt_ids(payload, load_tokenizer(card.tokenizer), card)
        except InvalidRequestError:  # the worker says what is wrong with it
            return Prompt()
    return Prompt(len(ids), _hashes(ids, payload, card))


def _hashes(ids: list[int], payload: Mapping[str, Any], card: ModelCard) -> list[int]:
    """Hashes of a prompt's blocks; none with images, whose tokens the engine alone knows."""
    if not card.kv_block_size or payload.get("images"):
        return []
    model = payload.get("model")
    lora = str(model) if model in card.adapters else ""
    try:
        return sequence_hashes(ids, card.kv_block_size, lora, str(payload.get("cache_salt") or ""))
    except (OverflowError, TypeError):  # no token ids: the worker refuses them
        return []
