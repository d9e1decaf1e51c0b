"""The items of an answer, and the events that tell of them, from the deltas of a stream.

A pure machine: the same deltas give the same items, with the same ids, in the same events. One item is open at a time;
what does not belong to it closes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamo_tasks.frontend.responses.names import output_id
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["OutputItems", "Tell"]

Tell = Callable[[str, dict[str, Any]], None]
"""Takes an event: its type, and its fields without that and its number."""


def _silent(kind: str, fields: dict[str, Any]) -> None:
    """Nobody wants to be told."""


class OutputItems:
    """Makes items of deltas.

    Args:
        request_id: Of the request.
        logprobs: Whether text is shown with log probabilities.
        tell: Told of each event; nobody by default.

    Attributes:
        items: Those that are done.
        tokens: Tokens so far.
        reasoning: Of these, in which the model was reasoning.
    """

    def __init__(self, request_id: str, *, logprobs: bool = False, tell: Tell = _silent):
        self._request_id = request_id
        self._with_logprobs = logprobs
        self._tell = tell
        self.items: list[dict[str, Any]] = []
        self.tokens = 0
        self.reasoning = 0
        self._open: _Text | _Call | None = None
        self._blank = ""
        self._blank_logprobs: list[Any] = []

    def take(self, delta: TokenDelta) -> None:
        """Take the next piece of the answer."""
        made = len(delta.token_ids)
        self.tokens += made
        message = delta.message
        if message is None:
            self._say("output_text", delta.text, delta.logprobs)
            return
        if message.reasoning and not (message.content or message.tool_calls):
            self.reasoning += made
        self._say("reasoning_text", message.reasoning)
        self._say("output_text", message.content, _of_content(delta, message))
        self._say("refusal", message.refusal)
        for call in message.tool_calls:
            self._call(call)

    def close(self, status: str) -> None:
        """The answer is over.

        Args:
            status: Of the item that is open, and of the message where there is none: ``completed`` or ``incomplete``.
        """
        if self._open is None and not self.items and (self._blank or status == "completed"):
            self._begin_text("output_text")
            self._flush_blank()
        self._close(status)

    def _say(self, kind: str, text: str, logprobs: list[Any] | None = None) -> None:
        if not text:
            return
        if not (isinstance(self._open, _Text) and self._open.kind == kind):
            if kind == "output_text" and not text.strip():
                # Line breaks between reasoning and a call: nobody means them as an answer.
                self._blank += text
                self._blank_logprobs += logprobs or ()
                return
            self._close("completed", into=kind)
            self._begin_text(kind)
            if kind == "output_text":
                self._flush_blank()
        self._add(text, logprobs)

    def _flush_blank(self) -> None:
        text, logprobs = self._blank, self._blank_logprobs
        self._blank, self._blank_logprobs = "", []
        if text:
            self._add(text, logprobs)

    def _begin_text(self, kind: str) -> None:
        if isinstance(
            self._open, _Text
        ):  # a refusal behind a text, or a text behind one: a part of the message
            self._open.begin_part(kind, self._tell)
            return
        prefix = "rs" if kind == "reasoning_text" else "msg"
        index = len(self.items)
        self._open = opened = _Text(output_id(prefix, self._request_id, index), index)
        self._tell("response.output_item.added", {"output_index": index, "item": opened.item("in_progress")})
        opened.begin_part(kind, self._tell)

    def _add(self, text: str, logprobs: list[Any] | None) -> None:
        assert isinstance(self._open, _Text)
        shown = [_shown(entry) for entry in logprobs or ()] if self._with_logprobs else []
        self._open.add(text, shown, self._tell)

    def _call(self, piece: ToolCallDelta) -> None:
        if not (isinstance(self._open, _Call) and self._open.number == piece.index):
            self._close("completed")
            self._blank, self._blank_logprobs = "", []
            index = len(self.items)
            item_id = output_id("fc", self._request_id, index)
            self._open = _Call(item_id, index, piece.index, piece.id or f"call_{item_id}", piece.name or "")
            self._tell(
                "response.output_item.added",
                {"output_index": index, "item": self._open.item("in_progress")},
            )
        self._open.add(piece.arguments, self._tell)

    def _close(self, status: str, into: str = "") -> None:
        """Close the open item, or only its part where the next one is of the same message."""
        opened = self._open
        if opened is None:
            return
        opened.end_part(self._tell)
        if into in _SPOKEN and isinstance(opened, _Text) and opened.kind in _SPOKEN:
            return
        item = opened.item(status)
        self._tell("response.output_item.done", {"output_index": opened.index, "item": item})
        self.items.append(item)
        self._open = None


_SPOKEN = ("output_text", "refusal")
"""Parts of one message."""


class _Text:
    """A message, or reasoning: an item of parts."""

    def __init__(self, item_id: str, index: int):
        self.id = item_id
        self.index = index
        self.kind = ""
        self._parts: list[dict[str, Any]] = []
        self._texts: list[str] = []
        self._logprobs: list[Any] = []

    def item(self, status: str) -> dict[str, Any]:
        """The item as it stands."""
        if self.id.startswith("rs"):
            return {
                "id": self.id, "type": "reasoning", "status": status, "summary": [], "content": list(self._parts),
                "encrypted_content": None,
            }  # fmt: skip
        return {
            "id": self.id, "type": "message", "status": status, "role": "assistant", "content": list(self._parts)
        }  # fmt: skip

    def begin_part(self, kind: str, tell: Tell) -> None:
        """Begin a part."""
        self.kind = kind
        self._texts, self._logprobs = [], []
        tell("response.content_part.added", {**self._place(), "part": _part(kind, "", [])})

    def add(self, text: str, logprobs: list[Any], tell: Tell) -> None:
        """Add to the part."""
        self._texts.append(text)
        self._logprobs += logprobs
        more = {"logprobs": logprobs} if self.kind == "output_text" else {}
        tell(f"response.{self.kind}.delta", {**self._place(), "delta": text, **more})

    def end_part(self, tell: Tell) -> None:
        """End the part."""
        text = "".join(self._texts)
        name = "refusal" if self.kind == "refusal" else "text"
        more = {"logprobs": self._logprobs} if self.kind == "output_text" else {}
        tell(f"response.{self.kind}.done", {**self._place(), name: text, **more})
        part = _part(self.kind, text, self._logprobs)
        tell("response.content_part.done", {**self._place(), "part": part})
        self._parts.append(part)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index, "content_index": len(self._parts)}


class _Call:
    """A call of a function."""

    def __init__(self, item_id: str, index: int, number: int, call_id: str, name: str):
        self.id = item_id
        self.index = index
        self.number = number
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def item(self, status: str) -> dict[str, Any]:
        """The item as it stands."""
        return {
            "id": self.id, "type": "function_call", "status": status, "call_id": self._call_id, "name": self._name,
            "arguments": "".join(self._arguments),
        }  # fmt: skip

    def add(self, arguments: str, tell: Tell) -> None:
        """Add to the arguments."""
        if arguments:
            self._arguments.append(arguments)
            tell("response.function_call_arguments.delta", {**self._place(), "delta": arguments})

    def end_part(self, tell: Tell) -> None:
        """The arguments are whole."""
        whole = {**self._place(), "name": self._name, "arguments": "".join(self._arguments)}
        tell("response.function_call_arguments.done", whole)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.index}


def _part(kind: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": logprobs}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def _of_content(delta: TokenDelta, message: MessageDelta) -> list[Any] | None:
    """Log probabilities of a delta that belong to its content: those at its end, where something else is before it."""
    entries = delta.logprobs
    if entries is None or not message.content or len(message.content) >= len(delta.text):
        return entries
    if message.tool_calls:
        return None
    place, left = len(entries), len(message.content)
    while place and left > 0:
        place -= 1
        left -= len(entries[place]["token"])
    return entries[place:]


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    """A token of the stream as this API shows it."""
    top = [_bare(other) for other in entry.get("top_logprobs") or ()]
    return {**_bare(entry), "top_logprobs": top}


def _bare(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get(name) for name in ("token", "logprob", "bytes")}
