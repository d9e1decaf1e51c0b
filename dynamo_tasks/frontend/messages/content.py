"""The content blocks of an answer, as its tokens come.

What comes out is a list of steps, which are the payloads of the stream's events: a block starts, grows, stops. They
depend on nothing but the deltas and the stored :class:`Shown`, so that every frontend makes the same.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["Block", "Content", "Shown", "StopReason", "message_id", "usage_shown"]

_WHOLE, _OMITTED, _HIDDEN = 0, 1, 2


class Shown(Struct, array_like=True):
    """Data that rendering an answer takes besides what every API stores; new fields go to the end.

    Attributes:
        input_tokens: Of the prompt; 0 where the frontend does not make the tokens.
        thinking: 0 = thoughts are shown, 1 = that there were some (``display: omitted``), 2 = they are left out.
        clipped: Whether the model has less room than ``max_tokens``: then the context ends the answer.
    """

    input_tokens: int = 0
    thinking: int = _WHOLE
    clipped: bool = False

    def encode(self) -> bytes:
        """Encode as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Shown:
        """Decode from msgpack; what a newer peer has added is ignored.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls) if data else cls()
        except UNREADABLE as exc:
            raise ProtocolError(f"how to render a message cannot be read: {exc}") from exc


class StopReason(NamedTuple):
    """Why an answer ended: Anthropic's ``stop_reason``, and the stop sequence that did it."""

    reason: str
    sequence: str | None = None


class Block(Struct):
    """A block of the answer.

    Attributes:
        index: Its place in the answer.
        kind: ``text``, ``thinking`` or ``tool_use``.
        start: The block as it is when it starts.
        parts: What it grew by.
        call: The number of the call in the answer.
        open: Whether it has not stopped.
    """

    index: int
    kind: str
    start: dict[str, Any]
    parts: list[str] = []
    call: int = -1
    open: bool = True


_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class Content:
    """The content of one answer.

    Attributes:
        blocks: So far.
    """

    def __init__(self, request_id: str, shown: Shown, *, keep: bool = False):
        """Begin.

        Args:
            request_id: Of the request; ids and signatures are made from it.
            shown: See there.
            keep: Whether the blocks keep their text, to be put together in the end.
        """
        self.blocks: list[Block] = []
        self._id = request_id
        self._shown = shown
        self._keep = keep
        self._held = ""
        self._finish: str | None = None
        self._stop: str | None = None

    @property
    def text_index(self) -> int:
        """The index of the block of text that is open, -1 where none is."""
        last = self.blocks[-1] if self.blocks else None
        return last.index if last is not None and last.open and last.kind == "text" else -1

    def take(self, delta: TokenDelta) -> list[dict[str, Any]]:
        """Take tokens of the first choice; there are no others."""
        self._finish = delta.finish_reason or self._finish
        self._stop = delta.stop or self._stop
        if delta.message is None:
            return self._grow("text", delta.text) if delta.text else []
        return self._parsed(delta.message)

    def _parsed(self, message: MessageDelta) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        if message.reasoning and self._shown.thinking != _HIDDEN:
            steps += self._grow("thinking", message.reasoning)
        if message.content:
            steps += self._said(message.content)
        for call in message.tool_calls:
            steps += self._called(call)
        return steps

    def _said(self, text: str) -> list[dict[str, Any]]:
        """Text beside thoughts and calls; models put line breaks between those, which nobody means as an answer."""
        if self.text_index < 0:
            text, self._held = self._held + text, ""
            if not text.strip():
                self._held = text
                return []
        return self._grow("text", text)

    def _called(self, call: ToolCallDelta) -> list[dict[str, Any]]:
        self._held = ""
        block = next((block for block in self.blocks if block.call == call.index), None)
        steps: list[dict[str, Any]] = []
        if block is None:
            name = f"toolu_{self._id.replace('-', '')}_{call.index}"
            start = {"type": "tool_use", "id": call.id or name, "name": call.name or "", "input": {}}
            steps = self._open("tool_use", start)
            block = self.blocks[-1]
            block.call = call.index
        return steps + self._add(block, call.arguments) if call.arguments else steps

    def _grow(self, kind: str, text: str) -> list[dict[str, Any]]:
        last = self.blocks[-1] if self.blocks else None
        steps: list[dict[str, Any]] = []
        if last is None or not last.open or last.kind != kind:
            start = {"type": kind, kind: ""} if kind == "text" else {"type": kind, kind: "", "signature": ""}
            steps = self._open(kind, start)
            last = self.blocks[-1]
        if kind == "thinking" and self._shown.thinking == _OMITTED:
            return steps
        return steps + self._add(last, text)

    def _open(self, kind: str, start: dict[str, Any]) -> list[dict[str, Any]]:
        steps = self._close()
        block = Block(len(self.blocks), kind, start, [])
        self.blocks.append(block)
        return [*steps, {"type": "content_block_start", "index": block.index, "content_block": start}]

    def _add(self, block: Block, text: str) -> list[dict[str, Any]]:
        if self._keep:
            block.parts.append(text)
        kind, field = _DELTAS[block.kind]
        delta = {"type": kind, field: text}
        return [{"type": "content_block_delta", "index": block.index, "delta": delta}]

    def _close(self) -> list[dict[str, Any]]:
        if not self.blocks or not self.blocks[-1].open:
            return []
        block = self.blocks[-1]
        block.open = False
        steps: list[dict[str, Any]] = []
        if block.kind == "thinking":
            delta = {"type": "signature_delta", "signature": self._signature(block)}
            steps.append({"type": "content_block_delta", "index": block.index, "delta": delta})
        return [*steps, {"type": "content_block_stop", "index": block.index}]

    def _signature(self, block: Block) -> str:
        """Something that clients can send back: nobody here has to trust thoughts, so it proves nothing."""
        digest = hashlib.sha256(f"{self._id}/{block.index}".encode()).digest()
        return base64.b64encode(digest).decode()

    def end(self) -> list[dict[str, Any]]:
        """Close what is open; there is nothing more to come."""
        held, self._held = self._held, ""
        steps = self._grow("text", held) if held and not self.blocks else []
        return steps + self._close()

    def stop(self, reason: str | None) -> StopReason:
        """Why it ended.

        Args:
            reason: What the request's end says, where no token did.
        """
        finish = self._finish or reason
        called = any(block.kind == "tool_use" for block in self.blocks)
        if finish == "length":
            return StopReason("model_context_window_exceeded" if self._shown.clipped else "max_tokens")
        if finish != "tool_calls" and self._stop is not None:
            return StopReason("stop_sequence", self._stop)
        return StopReason("tool_use" if called else "end_turn")

    def whole(self) -> list[dict[str, Any]]:
        """All blocks, put together."""
        return [self._whole(block) for block in self.blocks]

    def _whole(self, block: Block) -> dict[str, Any]:
        text = "".join(block.parts)
        if block.kind == "text":
            return {"type": "text", "text": text}
        if block.kind == "thinking":
            return {"type": "thinking", "thinking": text, "signature": self._signature(block)}
        return {**block.start, "input": _input(text)}


def _input(text: str) -> dict[str, Any]:
    """The input of a call; what is no JSON object (a call that was cut off) as Anthropic's documents wrap it."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if text.strip() else {}
    except UNREADABLE:
        return {"INVALID_JSON": text}


def message_id(request_id: str) -> str:
    """The ``id`` of a message: ``msg_`` and the id of the request."""
    return f"msg_{request_id.replace('-', '')}"


def usage_shown(usage: dict[str, int] | None, prompt: int = 0, counted: int = 0) -> dict[str, Any]:
    """Anthropic's ``usage``: the prompt's tokens are divided into those that were read from a cache, and the others.

    Args:
        usage: ``{"prompt_tokens", "completion_tokens", "cached_tokens"}``.
        prompt: Tokens of the prompt, where the endpoint does not say.
        counted: Tokens of the answer, likewise.
    """
    found = usage or {}
    cached = found.get("cached_tokens", 0)
    return {
        "input_tokens": max(0, found.get("prompt_tokens", prompt) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": found.get("completion_tokens", counted),
    }
