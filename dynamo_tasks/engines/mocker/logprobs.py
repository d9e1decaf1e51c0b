"""Log probabilities of tokens that nothing computed: plausible, and the same each time."""

from __future__ import annotations

import math
import string
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from dynamo_tasks.engines.mocker.text import WORDS
from dynamo_tasks.engines.text.tokenizer import load_tokenizer

__all__ = ["Logprobs"]


class Logprobs:
    """The log probabilities of one choice. The chosen token is the likeliest; all together are below 1."""

    def __init__(self, key: bytes, top: int, tokenizer: str) -> None:
        """Begin at the first token.

        Args:
            key: Of the choice: what decides them, with a token's position.
            top: Alternatives of each token, the chosen one included.
            tokenizer: As the model's card names it.
        """
        self._key = key
        self._top = top
        self._tokenizer = load_tokenizer(tokenizer)
        self._others = _alternatives(tokenizer) if top else ()
        self._offset = 0

    def skip(self, ids: list[int]) -> None:
        """Pass over what was emitted before."""
        self._offset += sum(len(self._text(token)) for token in ids)

    def entries(self, ids: list[int], position: int) -> list[dict[str, Any]]:
        """An entry of OpenAI's chat ``logprobs.content`` for each of the tokens from ``position`` on."""
        return [self._entry(token, position + at) for at, token in enumerate(ids)]

    def _entry(self, token: int, position: int) -> dict[str, Any]:
        digest = blake2b(position.to_bytes(8, "big"), key=self._key, digest_size=8).digest()
        chosen = 0.5 + digest[0] / 512
        text, offset = self._text(token), self._offset
        self._offset += len(text)
        first = _shown(text, chosen)
        rest = [other for other in self._others if other != text]
        start, top = digest[1], []
        for place in range(min(self._top - 1, len(rest))):
            chance = (1 - chosen) / 2 ** (place + 1)
            top.append(_shown(rest[(start + place) % len(rest)], chance))
        ranked = [first, *top] if self._top else []
        return {**first, "top_logprobs": ranked, "text_offset": offset}

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)


def _shown(text: str, chance: float) -> dict[str, Any]:
    return {"token": text, "logprob": math.log(chance), "bytes": list(text.encode())}


@lru_cache(maxsize=16)
def _alternatives(name: str) -> tuple[str, ...]:
    """Texts of some tokens, each another one and none a part of a character."""
    tokenizer = load_tokenizer(name)
    ids = tokenizer.encode(
        " ".join(WORDS[:64]) + string.digits + string.ascii_letters, add_special_tokens=False
    )
    texts = dict.fromkeys(tokenizer.decode([token]) for token in dict.fromkeys(ids))
    return tuple(text for text in texts if text and "\ufffd" not in text)
