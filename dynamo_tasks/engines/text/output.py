"""Text deltas from token ids: detokenizing, stop strings, the limit of tokens, the prompt in front (``echo``).

Nothing here depends on how the ids are cut into batches: one at a time, all at once, or continued by
another process from the ids that were emitted, the text is the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection

from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["UNSAMPLED", "ChoiceOutput", "StopScanner", "echoed", "only_prompt", "usage"]


class StopScanner:
    """Finds stop strings in a text that comes in pieces.

    Text that may be the beginning of a stop string is held back. The stop that is complete first
    wins; among those that are complete at the same place, the longest.
    """

    __slots__ = ("_ends", "_held", "_include", "_longest", "_stops", "stopped")

    def __init__(self, stops: list[str], *, include: bool = False) -> None:
        """Look for ``stops``; none of them is empty. ``include``: the text ends with the stop, not before it."""
        self._stops = stops
        self._include = include
        self._longest = max(map(len, stops))
        self._ends = frozenset(char for stop in stops for char in stop[:-1])
        self._held = ""
        self.stopped: str | None = None
        """The stop that was found."""

    def push(self, text: str, *, enabled: bool = True) -> str:
        """Take more text and give what is surely not part of a stop.

        Args:
            text: The next piece.
            enabled: False: a stop that is complete within this piece does not count.
        """
        known = len(self._held)
        text = self._held + text
        found = self._match(text, known) if enabled else None
        if found is not None:
            end, start = found
            self.stopped, self._held = text[start:end], ""
            return text[: end if self._include else start]
        cut = len(text) - self._open(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Give what is held back; the text is over."""
        text, self._held = self._held, ""
        return text

    def _match(self, text: str, known: int) -> tuple[int, int] | None:
        """End and start of the winning stop, which must end in what follows the first ``known`` chars."""
        found: list[tuple[int, int]] = []
        for stop in self._stops:
            start = text.find(stop, max(0, known - len(stop) + 1))
            if start >= 0:
                found.append((start + len(stop), start))
        return min(found, default=None)

    def _open(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop."""
        # Hardly any text ends with a character that is inside of a stop: no search for all others.
        if not text or text[-1] not in self._ends:
            return 0
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-size:]
            if any(len(stop) > size and stop.startswith(end) for stop in self._stops):
                return size
        return 0


class ChoiceOutput:
    """The output of one choice of a request, as its ids come.

    Attributes:
        index: Which choice.
        count: Tokens so far, those of an interrupted attempt included.
        finish_reason: Set once the choice is over; later ids are ignored.
        stop: The stop string that ended it.
    """

    __slots__ = (
        "_include_stop",
        "_min_tokens",
        "_scanner",
        "_stop_ids",
        "_stream",
        "count",
        "finish_reason",
        "index",
        "limit",
        "stop",
    )

    def __init__(
        self,
        request: GenerateRequest,
        index: int,
        tokenizer: Tokenizer,
        limit: int,
        end_ids: Collection[int] = (),
    ) -> None:
        """Begin, or go on after ``request.output_token_ids[index]``.

        Args:
            request: Its ``stop``, ``stop_token_ids`` and ``min_tokens`` end the choice; of its ``extra``,
                ``include_stop_str_in_output`` and ``skip_special_tokens`` count here.
            index: Which choice.
            tokenizer: Of the model.
            limit: Tokens after which it ends with ``length``.
            end_ids: The model's own end-of-text tokens, where they count: as ``stop_token_ids``.
        """
        self.index = index
        self.limit = limit
        self.count = 0
        self.finish_reason: str | None = None
        self.stop: str | None = None
        self._include_stop = bool(request.extra.get("include_stop_str_in_output"))
        self._stream = tokenizer.stream(skip_special_tokens=request.extra.get("skip_special_tokens", True))
        self._scanner = StopScanner(request.stop, include=self._include_stop) if request.stop else None
        self._stop_ids = frozenset((*request.stop_token_ids, *end_ids))
        self._min_tokens = request.min_tokens
        # What an earlier attempt put out goes through the same scanner: a stop may begin in it and end here.
        if emitted := request.output_token_ids.get(index):
            self.push(emitted)

    def push(self, ids: list[int]) -> TokenDelta:
        """Take the next ids; the delta has those of them that belong to the answer."""
        ids, text = self._until_end(ids) if self._scanner is None else self._watch(ids)
        if self.finish_reason is None and self.count >= self.limit:
            self.finish_reason = "length"
            text += self._rest()
        return TokenDelta(text, ids, self.index, self.finish_reason, stop=self.stop)

    def ended(self) -> TokenDelta:
        """The end again, of a choice that an interrupted attempt had brought to it."""
        return TokenDelta("", [], self.index, self.finish_reason, stop=self.stop)

    def end(self, reason: str) -> TokenDelta:
        """The engine ended it for a reason of its own: give what is held back."""
        self.finish_reason = reason
        return TokenDelta(self._rest(), [], self.index, reason)

    def _until_end(self, ids: list[int]) -> tuple[list[int], str]:
        """All that belong to the answer, up to a token that ends it."""
        if self.finish_reason is not None:
            return [], ""
        ids = ids[: self.limit - self.count]
        for at, token in enumerate(ids if self._stop_ids else ()):
            if token in self._stop_ids and self.count + at >= self._min_tokens:
                self.finish_reason, self.count = "stop", self.count + at + 1
                return ids[: at + 1], self._stream.push(ids[: at + self._include_stop]) + self._rest()
        self.count += len(ids)
        return ids, self._stream.push(ids)

    def _watch(self, ids: list[int]) -> tuple[list[int], str]:
        """One token at a time, so that the answer ends with the very token that completes a stop."""
        texts: list[str] = []
        taken = 0
        for token in ids:
            if self.finish_reason is not None or self.count >= self.limit:
                break
            taken += 1
            self.count += 1
            texts.append(self._one(token))
        return ids[:taken], "".join(texts)

    def _one(self, token: int) -> str:
        enabled = self.count > self._min_tokens
        if enabled and token in self._stop_ids:
            self.finish_reason = "stop"
            return (self._stream.push([token]) if self._include_stop else "") + self._rest()
        text = self._stream.push([token])
        if self._scanner is None:
            return text
        text = self._scanner.push(text, enabled=enabled)
        if self._scanner.stopped is not None:
            self.finish_reason, self.stop = "stop", self._scanner.stopped
        return text

    def _rest(self) -> str:
        text = self._stream.flush()
        if self._scanner is not None:
            text = self._scanner.push(text, enabled=False) + self._scanner.flush()
        return text


UNSAMPLED = frozenset(
    {
        "allowed_token_ids", "bad_words", "echo", "frequency_penalty", "include_stop_str_in_output", "logit_bias",
        "min_p", "presence_penalty", "repetition_penalty", "skip_special_tokens", "top_k",
    }
)  # fmt: skip
"""Optional fields that an engine honours which samples nothing: what only tunes sampling changes nothing there."""


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, int]:
    """The ``usage`` of a request's last delta."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cached_tokens": cached_tokens,
    }


async def echoed(request: GenerateRequest, tokenizer: Tokenizer) -> str:
    """The text of the prompt where it is asked for."""
    if not request.extra.get("echo"):
        return ""
    ids = request.prompt_token_ids
    return await offload(len(ids), tokenizer.decode, ids)


async def only_prompt(request: GenerateRequest, tokenizer: Tokenizer) -> AsyncGenerator[TokenDelta, None]:
    """Answer a request for no tokens: each choice is the prompt, or nothing."""
    text = await echoed(request, tokenizer)
    for index in range(request.n):
        counts = usage(len(request.prompt_token_ids), 0, 0) if index == request.n - 1 else None
        known = index in request.output_token_ids
        yield TokenDelta("" if known else text, [], index, "length", usage=counts)
