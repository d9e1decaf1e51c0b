"""A reply: the whole answer to a chat, known before its first token; and the pieces in which it is given.

A reply is a pure function of the request. What a piece of it means (reasoning, a call, its arguments) follows from its
place alone, so an answer that was interrupted anywhere goes on as if nothing had happened.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from dynamo_tasks.engines.mocker.logprobs import Logprobs
from dynamo_tasks.engines.text.output import ChoiceOutput
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["Meaning", "Reply", "ReplyOutput", "ReplyPart"]


class Meaning(Enum):
    """The meaning of a part of a reply."""

    TAG = 0
    REASONING = 1
    CONTENT = 2
    CALL = 3
    ARGUMENTS = 4


class ReplyPart(NamedTuple):
    """A part of a reply.

    Attributes:
        meaning: What the text is; at the end of a ``CALL``, its name and id are told.
        text: Its text.
        call: Of the parts of a call: which one, its id, and its function's name.
    """

    meaning: Meaning
    text: str
    call: tuple[int, str, str] = (0, "", "")


class Reply:
    """A reply.

    Attributes:
        token_ids: Its tokens.
        finish_reason: ``stop`` or ``tool_calls``.
    """

    def __init__(self, parts: list[ReplyPart], finish_reason: str, tokenizer: Tokenizer) -> None:
        """Tokenize it: each part by itself, so that it is clear where it ends."""
        self.token_ids: list[int] = []
        self.finish_reason = finish_reason
        self._parts = parts
        self._ends: list[int] = []
        self._plain = all(part.meaning is Meaning.CONTENT for part in parts)
        stream, end = tokenizer.stream(), 0
        for part in parts:
            ids = tokenizer.encode(part.text, add_special_tokens=False)
            end += len(stream.push(ids))
            self.token_ids += ids
            self._ends.append(end)

    def ids(self, start: int, stop: int) -> list[int]:
        """The tokens at positions ``start`` to below ``stop``."""
        return self.token_ids[start:stop]

    def message(self, start: int, text: str) -> MessageDelta | None:
        """The message in ``text``, which begins at the reply's character ``start``; ``None`` if it is all content."""
        if self._plain:
            return None
        out, stop, begin = MessageDelta(), start + len(text), 0
        for part, end in zip(self._parts, self._ends, strict=True):
            if begin < stop and end > start:
                piece = text[max(0, begin - start) : end - start]
                _add(out, part, piece, ends=end <= stop)
            begin = end
        return out


def _add(message: MessageDelta, part: ReplyPart, piece: str, *, ends: bool) -> None:
    index, call_id, name = part.call
    if part.meaning is Meaning.REASONING:
        message.reasoning += piece
    elif part.meaning is Meaning.CONTENT:
        message.content += piece
    elif part.meaning is Meaning.CALL and ends:
        message.tool_calls = [*message.tool_calls, ToolCallDelta(index, call_id, name)]
    elif part.meaning is Meaning.ARGUMENTS:
        calls = message.tool_calls
        if calls and calls[-1].index == index:
            calls[-1].arguments += piece
        else:
            message.tool_calls = [*calls, ToolCallDelta(index, arguments=piece)]


class ReplyOutput(ChoiceOutput):
    """The output of a choice that has a reply, or log probabilities, or both."""

    __slots__ = ("_begun", "_logprobs", "_reply", "_shown")

    def __init__(
        self,
        request: GenerateRequest,
        index: int,
        tokenizer: Tokenizer,
        limit: int,
        *,
        reply: Reply | None,
        logprobs: Logprobs | None,
    ) -> None:
        """Begin, or go on; as :class:`ChoiceOutput`.

        Args:
            request: It was checked.
            index: Which choice.
            tokenizer: Of the model.
            limit: Tokens after which it ends; at most those of the reply.
            reply: What it says; ``None`` = pseudo-text.
            logprobs: Makes log probabilities; ``None`` = none are asked for.
        """
        self._reply = reply
        self._logprobs = logprobs
        self._shown = 0
        self._begun = False
        super().__init__(request, index, tokenizer, limit)
        self._begun = True

    def push(self, ids: list[int]) -> TokenDelta:
        """Take the next ids; the delta says what they mean."""
        before = self.count
        delta = super().push(ids)
        if self._reply is not None:
            if self.finish_reason == "length" and self.count == len(self._reply.token_ids):
                self.finish_reason = delta.finish_reason = self._reply.finish_reason
            delta.message = self._reply.message(self._shown, delta.text)
            self._shown += len(delta.text)
        if self._logprobs is not None:
            if self._begun:
                delta.logprobs = self._logprobs.entries(delta.token_ids, before)
            else:
                self._logprobs.skip(delta.token_ids)
        return delta
