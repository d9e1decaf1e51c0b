"""Log probabilities in the shapes of OpenAI's two APIs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["logprobs_of"]


def logprobs_of(api: str, entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The ``logprobs`` object of a choice.

    Args:
        api: ``chat`` or ``completions``.
        entries: One per token, as in :class:`~dynamo_tasks.protocol.tokens.TokenDelta`.
    """
    return _chat(entries) if api == "chat" else _completions(entries)


def _chat(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    content = [{name: entry[name] for name in entry if name != "text_offset"} for entry in entries]
    return {"content": content, "refusal": None}


def _completions(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for entry in entries:
        out["tokens"].append(entry["token"])
        out["token_logprobs"].append(entry["logprob"])
        # The chosen token is among them, however unlikely it was.
        top = {other["token"]: other["logprob"] for other in entry.get("top_logprobs", ())}
        out["top_logprobs"].append({**top, entry["token"]: entry["logprob"]})
        out["text_offset"].append(entry.get("text_offset", 0))
    return out
