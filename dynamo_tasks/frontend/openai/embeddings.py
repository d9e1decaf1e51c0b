"""The answer of the embeddings API."""

from __future__ import annotations

import array
import base64
import sys
from typing import Any

from dynamo_tasks.errors import EndpointError
from dynamo_tasks.frontend.openai.collect import ValueCollector
from dynamo_tasks.frontend.openai.render import usage_of
from dynamo_tasks.protocol.events import End

__all__ = ["EmbeddingCollector"]


class EmbeddingCollector(ValueCollector):
    """The ``list`` object of an embeddings answer.

    The endpoint gives its vectors as a list, or ``{"embeddings": [...], "prompt_tokens": 3}``.
    """

    def __init__(self, model: str, base64_floats: bool):
        """Make it.

        Args:
            model: As the client named it.
            base64_floats: Whether vectors are sent as base64 of little-endian float32.
        """
        super().__init__()
        self._model = model
        self._base64 = base64_floats

    def size(self, end: End) -> int:
        """The numbers of all vectors."""
        found = [value.get("embeddings") if isinstance(value, dict) else value for value in self.values(end)]
        rows = [row for value in found if isinstance(value, list) for row in value]
        return sum(len(row) if isinstance(row, list) else 1 for row in rows)

    def body(self, end: End) -> dict[str, Any]:
        """The vectors, in the order of the inputs."""
        usage, vectors = end.usage, []
        for value in self.values(end):
            if isinstance(value, dict):
                usage = usage or value.get("usage") or {"prompt_tokens": value.get("prompt_tokens") or 0}
                value = value.get("embeddings")
            vectors += _vectors(value)
        self.usage = usage
        rows = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(vectors)
        ]
        counts = usage_of(usage)
        short = {name: counts[name] for name in ("prompt_tokens", "total_tokens")}
        return {"object": "list", "data": rows, "model": self._model, "usage": short}

    def _encoded(self, vector: list[float]) -> list[float] | str:
        if not self._base64:
            return vector
        floats = array.array("f", vector)
        if sys.byteorder == "big":
            floats.byteswap()
        return base64.b64encode(floats.tobytes()).decode()


def _vectors(value: Any) -> list[list[float]]:
    if not isinstance(value, list) or not value:
        raise EndpointError("the endpoint returned no list of vectors")
    return value if isinstance(value[0], list) else [value]
