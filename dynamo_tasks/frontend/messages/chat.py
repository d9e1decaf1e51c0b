"""Requests of the Messages API in the words of a chat.

Texts of one turn are joined by line breaks, as parts of a chat's message are; those of an assistant without, since they
are the pieces of one answer. Results of tools become messages of the role ``tool``, in their place. Turns of one role
in a row become one, as Anthropic says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo_tasks.engines.images.messages import WRITTEN
from dynamo_tasks.protocol.http.chat_messages import IMAGE_PART
from dynamo_tasks.protocol.http.messages import (
    ImageBlock,
    InputMessage,
    MessagesRequest,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from dynamo_tasks.protocol.http.openai import OPTIONS, ChatRequest, parse_request

__all__ = ["chat_body", "chat_request"]

_BILLING = "x-anthropic-billing-header"
"""Begins a block of Claude Code's system prompt that differs from request to request: no prefix would be cached."""
_SAME = ("temperature", "top_p", "top_k", "cache_salt")
_TIERS = ("flex", "priority")
_PLACE = [{"role": "user", "content": ""}]
_EFFORTS = ((8192, "high"), (2048, "medium"))
_ADAPTIVE = 2048
"""The budget of a model that decides by itself."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(asked: MessagesRequest, body: dict[str, Any]) -> ChatRequest:
    """The request itself as that of a chat: model, limit, options; not its messages, which are checked already.

    Raises:
        InvalidRequestError: An option is not valid.
    """
    head = {name: body[name] for name in OPTIONS if name in body}
    head |= {"model": asked.model, "messages": _PLACE, "max_tokens": asked.max_tokens, "stream": asked.stream}
    if asked.service_tier in _TIERS:
        head["service_tier"] = asked.service_tier
    return parse_request(ChatRequest, head)


def chat_body(asked: MessagesRequest) -> dict[str, Any]:
    """The body of the chat."""
    body: dict[str, Any] = {name: value for name in _SAME if (value := getattr(asked, name)) is not None}
    body |= {"model": asked.model, "messages": _messages(asked)}
    if asked.stop_sequences:
        body["stop"] = asked.stop_sequences
    if asked.tools:
        body["tools"] = [_tool(tool) for tool in asked.tools]
    if asked.tool_choice is not None:
        body |= _choice(asked.tool_choice)
    if shape := asked.output_format or (asked.output_config and asked.output_config.format):
        body["response_format"] = {
            "type": "json_schema", "json_schema": {"name": "answer", "schema": shape.schema, "strict": True}
        }  # fmt: skip
    if effort := _effort(asked):
        body["reasoning_effort"] = effort
    if more := _template_variables(asked):
        body["chat_template_kwargs"] = more
    return body


def _effort(asked: MessagesRequest) -> str | None:
    """``reasoning_effort``: what was asked for, else what comes near to the budget of tokens."""
    thinking = asked.thinking
    if thinking is not None and thinking.type == "disabled":
        return "none"
    given = None if asked.output_config is None else asked.output_config.effort
    if thinking is None or given is not None:
        return given
    return next(
        (effort for least, effort in _EFFORTS if (thinking.budget_tokens or _ADAPTIVE) >= least), "low"
    )


def _template_variables(asked: MessagesRequest) -> dict[str, Any]:
    """Name what templates know of thinking, under the names that models use; the client's own come last."""
    found: dict[str, Any] = {}
    if asked.thinking is not None:
        thinks = asked.thinking.type != "disabled"
        found = {"enable_thinking": thinks, "thinking": thinks}
    return found | (asked.chat_template_kwargs or {})


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    if tool.strict:
        function["strict"] = True
    return {
        "type": "function",
        "function": {name: value for name, value in function.items() if value is not None},
    }


def _choice(choice: ToolChoice) -> dict[str, Any]:
    named = {"type": "function", "function": {"name": choice.name}}
    found: dict[str, Any] = {"tool_choice": _CHOICES.get(choice.type, named)}
    if choice.disable_parallel_tool_use is not None:
        found["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return found


def _messages(asked: MessagesRequest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if system := _joined(asked.system or ""):
        found.append({"role": "system", "content": system})
    names: dict[str, str] = {}
    for place, message in enumerate(asked.messages):
        for made in _turn(message, names, f"messages[{place}].content"):
            _add(found, made)
    return found


def _joined(content: str | Iterable[TextBlock], between: str = "\n") -> str:
    texts = [content] if isinstance(content, str) else [block.text for block in content]
    return between.join(text for text in texts if not text.startswith(_BILLING))


def _content(blocks: str | list[Any], at: str) -> str | list[dict[str, Any]]:
    """A text, or parts of a chat's message where there are images; ``at``: the place of the blocks."""
    if isinstance(blocks, str) or not any(isinstance(block, ImageBlock) for block in blocks):
        return _joined(blocks)
    return [
        _image(block, f"{at}[{place}]")
        if isinstance(block, ImageBlock)
        else {"type": "text", "text": block.text}
        for place, block in enumerate(blocks)
    ]


def _image(block: ImageBlock, at: str) -> dict[str, Any]:
    source = block.source
    field = "data" if source.type == "base64" else "url"
    url = f"data:{source.media_type};base64,{source.data}" if field == "data" else source.url
    return {"type": IMAGE_PART, IMAGE_PART: {"url": url}, WRITTEN: [at, f"source.{field}"]}


def _turn(message: InputMessage, names: dict[str, str], at: str) -> list[dict[str, Any]]:
    """The messages of a turn.

    Args:
        message: The turn.
        names: Of the tools, by the ids of the calls so far.
        at: The place of its content.
    """
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_said(message.content, names)]
    found: list[dict[str, Any]] = []
    for place, block in enumerate(message.content):
        if isinstance(block, ToolResultBlock):
            found.append(
                {
                    "role": "tool", "tool_call_id": block.tool_use_id, "name": names.get(block.tool_use_id),
                    "content": _content(block.content or "", f"{at}[{place}].content"),
                }
            )  # fmt: skip
        elif isinstance(block, TextBlock):
            _add(found, {"role": message.role, "content": _joined([block])})
        elif isinstance(block, ImageBlock):
            _add(found, {"role": message.role, "content": [_image(block, f"{at}[{place}]")]})
    return found or [{"role": message.role, "content": ""}]


def _said(content: Iterable[Any], names: dict[str, str]) -> dict[str, Any]:
    """An assistant's turn: its texts, its calls, and its thoughts under both names that templates know."""
    blocks = [block for block in content if not isinstance(block, RedactedThinkingBlock)]
    calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
    thoughts = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    texts = [block for block in blocks if isinstance(block, TextBlock)]
    made: dict[str, Any] = {
        "role": "assistant",
        "content": _joined(texts, "") if texts or not calls else None,
    }
    if calls:
        names |= {call.id: call.name for call in calls}
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.input}}
            for call in calls
        ]
    if thoughts:
        made |= {"reasoning_content": thoughts, "reasoning": thoughts}
    return made


def _add(found: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """Add a message, to the last one where that is a plain one of the same role."""
    last = found[-1] if found else None
    plain = {"role", "content"}
    if last is not None and last["role"] == made["role"] and last.keys() == made.keys() == plain:
        between = "" if made["role"] == "assistant" else "\n"
        last["content"] = _merged(last["content"], made["content"], between)
    else:
        found.append(made)


def _merged(first: Any, second: Any, between: str) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return first + between + second
    return _parts(first) + _parts(second)


def _parts(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, str):
        return list(content)
    return [{"type": "text", "text": content}] if content else []
