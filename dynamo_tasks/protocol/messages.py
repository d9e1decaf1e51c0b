"""The parsed form of an answer: content, reasoning and tool calls, in pieces."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["MessageDelta", "ToolCallDelta", "merge_messages"]


class ToolCallDelta(msgspec.Struct, omit_defaults=True):
    """A piece of a tool call.

    Attributes:
        index: Which call of the answer.
        id: On its first piece.
        name: Of the function; on its first piece.
        arguments: The next characters of its JSON text.
    """

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""

    def as_delta(self) -> dict[str, Any]:
        """The piece as in a chunk of OpenAI's chat API."""
        if self.id is None and self.name is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        return {"index": self.index, **self.as_call()}

    def as_call(self) -> dict[str, Any]:
        """The call as in a message of OpenAI's chat API."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


class MessageDelta(msgspec.Struct, omit_defaults=True):
    """A piece of a message; all pieces put together are the message."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = []
    refusal: str = ""

    def as_delta(self) -> dict[str, Any]:
        """The ``delta`` of a chunk of OpenAI's chat API; has only what there is."""
        out: dict[str, Any] = self._reasoning()
        if self.content:
            out["content"] = self.content
        if self.refusal:
            out["refusal"] = self.refusal
        if self.tool_calls:
            out["tool_calls"] = [call.as_delta() for call in self.tool_calls]
        return out

    def as_message(self) -> dict[str, Any]:
        """The whole ``message`` of OpenAI's chat API."""
        # Models put line breaks between reasoning and call: nobody means them as an answer.
        nothing_said = not self.content.strip() and (self.tool_calls or self.reasoning or self.refusal)
        out: dict[str, Any] = {
            "role": "assistant", "content": None if nothing_said else self.content, "refusal": self.refusal or None
        }  # fmt: skip
        out |= self._reasoning()
        if self.tool_calls:
            out["tool_calls"] = [call.as_call() for call in self.tool_calls]
        return out

    def _reasoning(self) -> dict[str, Any]:
        # The API has no name for it: servers and clients are divided between these two.
        if not self.reasoning:
            return {}
        return {"reasoning_content": self.reasoning, "reasoning": self.reasoning}


def merge_messages(first: MessageDelta | None, second: MessageDelta | None) -> MessageDelta | None:
    """Two pieces as one; neither is changed."""
    if first is None or second is None:
        return first or second
    calls = list(first.tool_calls)
    for call in second.tool_calls:
        if calls and calls[-1].index == call.index:
            calls[-1] = _merged_call(calls[-1], call)
        else:
            calls.append(call)
    return MessageDelta(
        first.content + second.content,
        first.reasoning + second.reasoning,
        calls,
        first.refusal + second.refusal,
    )


def _merged_call(first: ToolCallDelta, second: ToolCallDelta) -> ToolCallDelta:
    arguments = first.arguments + second.arguments
    return ToolCallDelta(first.index, first.id or second.id, first.name or second.name, arguments)
