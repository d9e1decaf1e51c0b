"""One choice of an answer on its way through vLLM's parsers.

Many of these parsers take it that each call brings one token: given several at once they lose text, miss calls or show
tags. Here tokens gather (while a stream rests, and in Redis), so what gathered is cut into tokens again before it is
read. How tokens gather then changes nothing, and a parser that reads a written answer once more ends in the state that
it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from dynamo_tasks.engines.text.tokenizer import Detokenizer
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta, merge_messages
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["Cutter", "ParsedChoice", "Reading"]

_TAGS = 48
"""Characters that the tags around a reasoning take at most, with the white space beside them."""
_MOST_BEHIND = 64
"""Single tokens, which need no cutting, after which the detokenizer gets them."""


class Reading(Protocol):
    """The interface of vLLM's parsers for one choice."""

    def delta(self, text: str, ids: list[int], finished: bool) -> Any:
        """Parse the next piece; return vLLM's delta message, or ``None``."""
        ...

    def whole(self, text: str, ids: list[int]) -> tuple[str, str]:
        """Reasoning and content of a whole answer."""
        ...


class Cutter:
    """Cuts text that came with several ids into the texts of the ids."""

    def __init__(self, stream: Detokenizer) -> None:
        """Cut a new text; ``stream`` makes it of the ids in the very way in which the engine does."""
        self._stream = stream
        self._before: list[int] = []

    def cut(self, text: str, ids: list[int], ended: bool) -> list[tuple[str, list[int]]]:
        """The pieces of ``text``.

        Args:
            text: Comes next.
            ids: Brought it.
            ended: It is the last one: an end token has no text, and what was held back is there.

        Returns:
            A text for each id. All in one piece where the text is not that of the ids: a part of it
            was, or is, held back as the possible beginning of a stop.
        """
        if len(ids) < 2:
            self._before += ids
            if len(self._before) >= _MOST_BEHIND:
                self._catch_up()
            return [(text, ids)]
        self._catch_up()
        texts = [self._stream.push([token]) for token in ids]
        if ended:
            texts[-1] = text[sum(map(len, texts[:-1])) :]
        if "".join(texts) != text:
            return [(text, ids)]
        return [(piece, [token]) for piece, token in zip(texts, ids, strict=True)]

    def _catch_up(self) -> None:
        self._stream.push(self._before)
        self._before = []


class ParsedChoice:
    """A choice.

    Attributes:
        called: Whether a call was found.
    """

    def __init__(self, reading: Reading, cutter: Cutter | None, *, single: bool, withholds: bool) -> None:
        """Read from the start.

        Args:
            reading: The parsers.
            cutter: ``None`` where the parsers take any number of tokens at once.
            single: Only the first call counts.
            withholds: They keep back what may be a call.
        """
        self.called = False
        self._reading = reading
        self._cutter = cutter
        self._single = single
        self._withholds = withholds
        self._text: list[str] = []
        self._ids: list[int] = []
        self._said = MessageDelta()

    def read(self, delta: TokenDelta) -> MessageDelta:
        """Parse a delta into content, reasoning and tool calls."""
        ended = delta.finish_reason is not None
        if not delta.text and not delta.token_ids and not ended:
            return MessageDelta()
        message = MessageDelta()
        for found in self._found(delta, ended):
            message = merge_messages(message, self._converted(found)) or message
        if self._withholds:
            self._text.append(delta.text)
            self._ids += delta.token_ids
            self._said.content += message.content
            self._said.reasoning += message.reasoning
            if ended and not self.called:
                message.content += self._withheld()
        return message

    def _found(self, delta: TokenDelta, ended: bool) -> Iterator[Any]:
        pieces = [(delta.text, delta.token_ids)]
        if self._cutter is not None:
            pieces = self._cutter.cut(delta.text, delta.token_ids, ended)
        last = len(pieces) - 1
        for at, (text, ids) in enumerate(pieces):
            found = self._reading.delta(text, ids, ended and at == last)
            if found is not None:
                yield found

    def _converted(self, found: Any) -> MessageDelta:
        calls = [_call(call) for call in found.tool_calls or () if not (self._single and call.index)]
        if calls:
            self.called = True
        return MessageDelta(found.content or "", found.reasoning or "", calls)

    def _withheld(self) -> str:
        """Text that might have become a call, and did not."""
        text = "".join(self._text)
        if self._says_all(text):
            return ""
        reasoning, content = self._reading.whole(text, self._ids)
        if reasoning != self._said.reasoning or not content.startswith(self._said.content):
            return ""  # read at once it means something else; what was streamed holds
        return content[len(self._said.content) :]

    def _says_all(self, text: str) -> bool:
        """Return whether what was said is the whole text but for the tags around its reasoning.

        The whole is not read again then.
        """
        said, reasoning = self._said.content, self._said.reasoning
        if not text.endswith(said):
            return False
        before = text[: len(text) - len(said)]
        if not reasoning:
            return not before.strip()
        return bool(said) and reasoning in before and len(before) - len(reasoning) <= _TAGS


def _call(call: Any) -> ToolCallDelta:
    function = call.function
    name, arguments = (function.name, function.arguments) if function is not None else (None, None)
    return ToolCallDelta(call.index, call.id, name, arguments or "")
