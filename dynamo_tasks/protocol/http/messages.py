"""Requests of Anthropic's Messages API, checked strictly.

The fields are those of https://docs.claude.com/en/api/messages, and those of a request's options that clients may
choose. What cannot be done is refused by its name; ``cache_control`` marks are taken and mean nothing, since a
prefix is cached wherever it was computed. A field that nobody knows is ignored, unless it looks like a misspelt one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta, Struct

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import similar
from dynamo_tasks.protocol.http.openai import MAX_STOPS, OPTIONS

__all__ = [
    "AssistantBlock",
    "ImageBlock",
    "InputMessage",
    "MessagesRequest",
    "RedactedThinkingBlock",
    "TextBlock",
    "ThinkingBlock",
    "Tool",
    "ToolResultBlock",
    "ToolUseBlock",
    "UserBlock",
    "parse_messages",
]

MAX_BLOCKS = 4096
"""Content blocks of one message."""
_INT32 = 2**31 - 1
_Count = Annotated[int, Meta(ge=1, le=_INT32)]
_Name = Annotated[str, Meta(max_length=256)]
_ToolName = Annotated[str, Meta(min_length=1, max_length=128)]
_Id = Annotated[str, Meta(min_length=1, max_length=256)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Stop = Annotated[str, Meta(min_length=1, max_length=1024)]

_Tier = Annotated[
    str, Meta(max_length=32, extra_json_schema={"enum": ["auto", "standard_only", "flex", "priority"]})
]


class TextBlock(Struct, tag="text"):
    """A text."""

    text: str


class ImageSource(Struct):
    """The image itself, or where it is."""

    type: Annotated[str, Meta(max_length=32, extra_json_schema={"enum": ["base64", "url"]})]
    media_type: Annotated[str, Meta(max_length=64)] | None = None
    data: str | None = None
    url: str | None = None


class ImageBlock(Struct, tag="image"):
    """An image."""

    source: ImageSource


class ThinkingBlock(Struct, tag="thinking"):
    """The thoughts of an assistant, as they were answered; the signature is not looked at."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Struct, tag="redacted_thinking"):
    """Thinking that only its maker can read; it is left out."""

    data: str


class ToolUseBlock(Struct, tag="tool_use"):
    """A call that the assistant made."""

    id: _Id
    name: _ToolName
    input: dict[str, Any]


class ToolResultBlock(Struct, tag="tool_result"):
    """The result of a call."""

    tool_use_id: _Id
    content: str | Annotated[list[TextBlock | ImageBlock], Meta(max_length=MAX_BLOCKS)] | None = None
    is_error: bool | None = None


UserBlock = TextBlock | ImageBlock | ToolResultBlock
"""Blocks of a user's message."""
AssistantBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock
"""Blocks of an assistant's message."""
_Block = TextBlock | ImageBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock
_Texts = str | Annotated[list[TextBlock], Meta(max_length=MAX_BLOCKS)]
_ROLES: dict[str, Any] = {"user": UserBlock, "assistant": AssistantBlock, "system": TextBlock}


class InputMessage(Struct):
    """A turn: a text, or blocks."""

    role: Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(_ROLES)})]
    content: str | Annotated[list[_Block], Meta(max_length=MAX_BLOCKS)]


class Tool(Struct):
    """A tool of the client's own; ``type`` is ``custom`` or left away."""

    name: _ToolName
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None
    type: Annotated[str, Meta(max_length=256, extra_json_schema={"enum": ["custom", None]})] | None = None


class ToolChoice(Struct):
    """The tools that may, or must, be called."""

    type: Annotated[str, Meta(max_length=32, extra_json_schema={"enum": ["auto", "any", "tool", "none"]})]
    name: _Name | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    """A switch: the model thinks before it answers, or not; and its thoughts are shown, or not."""

    type: Annotated[
        str,
        Meta(max_length=32, extra_json_schema={"enum": ["enabled", "disabled", "adaptive", "between_tools"]}),
    ]
    budget_tokens: Annotated[int, Meta(ge=1024, le=_INT32)] | None = None
    display: Annotated[str, Meta(max_length=32)] | None = None


class Metadata(Struct):
    """The user whom the request is for; kept nowhere."""

    user_id: Annotated[str, Meta(max_length=1024)] | None = None


class OutputFormat(Struct):
    """The shape of the answer: a JSON schema."""

    type: Annotated[str, Meta(max_length=32, extra_json_schema={"const": "json_schema"})]
    schema: dict[str, Any]


class OutputConfig(Struct):
    """The shape of the answer; ``effort`` goes to the chat template."""

    format: OutputFormat | None = None
    effort: (
        Annotated[
            str, Meta(max_length=32, extra_json_schema={"enum": ["low", "medium", "high", "xhigh", "max"]})
        ]
        | None
    ) = None


class MessagesRequest(Struct, kw_only=True):
    """``POST /v1/messages`` and, without ``max_tokens``, ``/v1/messages/count_tokens``.

    Options of the request (:data:`~dynamo_tasks.protocol.http.openai.OPTIONS`) stand in the same body, as in those of
    OpenAI's API.
    """

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=4096)]
    max_tokens: _Count | None = None
    system: _Texts | None = None
    stream: bool | None = None
    stop_sequences: Annotated[list[_Stop], Meta(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=_INT32)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=512)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    metadata: Metadata | None = None
    service_tier: _Tier | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


_REFUSED = {
    "compaction": "this server does not shorten conversations",
    "container": "this server has no containers in which code of the model runs",
    "mcp_servers": "this server calls no MCP servers; send their tools as tools, and their results as tool_result",
    "thread": "this server keeps no conversations; send all messages",
}
_IGNORED = frozenset(
    {
        "anthropic_beta", "betas", "billing_policy", "cache_control", "context_management", "diagnostics",
        "fallback_credit_token", "fallbacks", "inference_geo", "speed", "user_profile_id", "workspace_id",
    }
)  # fmt: skip
_THINKING = ("enabled", "disabled", "adaptive", "between_tools")
_DISPLAYS = (None, "summarized", "omitted", "updates")
_CHOICES = ("auto", "any", "tool", "none")
_TIERS = (None, "auto", "standard_only", "flex", "priority")
_EFFORTS = (None, "low", "medium", "high", "xhigh", "max")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_.:/-]+")
_MISSING_FIELD = re.compile(r"missing required field `([^`]+)`")
_WRONG_TAG = re.compile(r"Invalid value '(.*)'", re.DOTALL)
_FIELDS = frozenset(MessagesRequest.__struct_fields__) | set(OPTIONS)


def parse_messages(body: dict[str, Any], *, counting: bool = False) -> MessagesRequest:
    """Check a body.

    Args:
        body: The decoded JSON object.
        counting: Its tokens are counted only: ``max_tokens`` is not needed.

    Raises:
        InvalidRequestError: names the field in ``param`` (``messages[0].content[1].text``) and what is allowed.
    """
    for name in _REFUSED.keys() & body.keys():
        if body[name]:
            _refuse(name, _REFUSED[name])
    _refuse_tools_of_a_server(body.get("tools"))
    _check_system(body.get("system"))
    try:
        request = msgspec.convert(body, MessagesRequest)
    except msgspec.ValidationError as exc:
        _refuse_misspelt(body)
        raise _named(exc) from None
    _refuse_misspelt(body)
    if request.max_tokens is None and not counting:
        _refuse("max_tokens", "this field is required")
    _check_turns(request.messages)
    _check_tools(request)
    _check_choices(request)
    return request


def _check_system(system: Any) -> None:
    """Refuse a block without its type; msgspec passes it over, where there is one type alone."""
    for place, block in enumerate(system if isinstance(system, list) else ()):
        if isinstance(block, dict) and "type" not in block:
            _refuse(f"system[{place}].type", "this field is required")


def _refuse(param: str, text: str) -> NoReturn:
    raise InvalidRequestError(f"{param}: {text}", param=param)


def _refuse_misspelt(body: dict[str, Any]) -> None:
    if found := similar(body.keys() - _IGNORED, _FIELDS):
        name, meant = found
        _refuse(name, f"unknown field; did you mean {meant!r}?")


def _refuse_tools_of_a_server(tools: Any) -> None:
    """Refuse tools that only Anthropic runs or knows the schema of, before their shape is looked at."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "custom":
            _refuse(
                f"tools[{index}].type",
                f"{kind!r:.60} is not supported; only tools of your own (type 'custom'), with an input_schema",
            )


def _named(exc: msgspec.ValidationError) -> InvalidRequestError:
    """An error of the decoder, with the field at fault in front."""
    text, _, path = str(exc).partition(" - at `$")
    param = path.rstrip("`").removeprefix(".")
    if missing := _MISSING_FIELD.search(text):
        param = f"{param}.{missing.group(1)}" if param else missing.group(1)
        return InvalidRequestError(f"{param}: this field is required", param=param)
    if (tag := _WRONG_TAG.fullmatch(text)) and param.endswith(".type"):
        text = f"{tag.group(1)!r:.60} blocks are not supported here"
        return InvalidRequestError(f"{param}: {text}", param=param)
    return InvalidRequestError(f"{param or 'body'}: {text[0].lower()}{text[1:]}", param=param or None)


def _check_turns(messages: list[InputMessage]) -> None:
    called: set[str] = set()
    for index, message in enumerate(messages):
        allowed = _ROLES.get(message.role)
        if allowed is None:
            _refuse(f"messages[{index}].role", f"{message.role!r} is not one of {', '.join(_ROLES)}")
        for place, block in enumerate(() if isinstance(message.content, str) else message.content):
            at = f"messages[{index}].content[{place}]"
            if not isinstance(block, allowed):
                kind = type(block).__struct_config__.tag
                _refuse(
                    f"{at}.type", f"{kind!r} blocks are not allowed in messages of the role {message.role}"
                )
            _check_images(block, at)
            if isinstance(block, ToolUseBlock):
                called.add(block.id)
            elif isinstance(block, ToolResultBlock) and block.tool_use_id not in called:
                _refuse(f"{at}.tool_use_id", f"no tool_use block before has the id {block.tool_use_id!r:.60}")
    if messages[-1].role == "assistant":
        _refuse(
            f"messages[{len(messages) - 1}].role",
            "the last message must be a user's; an answer cannot be begun by the client (prefill)",
        )


def _check_images(block: Any, at: str) -> None:
    """Refuse images that are nowhere; what they are, is looked at later."""
    if isinstance(block, ToolResultBlock):
        for place, part in enumerate(() if isinstance(block.content, str | None) else block.content):
            _check_images(part, f"{at}.content[{place}]")
    if not isinstance(block, ImageBlock):
        return
    source = block.source
    _one_of(f"{at}.source.type", source.type, ("base64", "url"))
    for name in ("media_type", "data") if source.type == "base64" else ("url",):
        if not getattr(source, name):
            _refuse(f"{at}.source.{name}", "this field is required")


def _check_tools(request: MessagesRequest) -> None:
    names: set[str] = set()
    for index, tool in enumerate(request.tools or ()):
        at = f"tools[{index}]"
        if tool.input_schema is None:
            _refuse(f"{at}.input_schema", "this field is required")
        if not _TOOL_NAME.fullmatch(tool.name):
            _refuse(f"{at}.name", f"{tool.name!r} has other characters than letters, digits and _ - . : /")
        if tool.name in names:
            _refuse(f"{at}.name", f"there is a tool {tool.name!r} already; names must be unique")
        names.add(tool.name)
    choice = request.tool_choice
    if choice is None:
        return
    _one_of("tool_choice.type", choice.type, _CHOICES)
    if choice.type in ("any", "tool") and not names:
        _refuse("tool_choice", "asks for a call, but there are no tools")
    if choice.type == "tool" and choice.name not in names:
        _refuse("tool_choice.name", f"{choice.name!r:.60} is not among the tools")


def _check_choices(request: MessagesRequest) -> None:
    _one_of("service_tier", request.service_tier, _TIERS)
    if (thinking := request.thinking) is not None:
        _one_of("thinking.type", thinking.type, _THINKING)
        _one_of("thinking.display", thinking.display, _DISPLAYS)
        if thinking.type == "enabled" and thinking.budget_tokens is None:
            _refuse("thinking.budget_tokens", "this field is required")
        if request.max_tokens is not None and (thinking.budget_tokens or 0) >= request.max_tokens:
            _refuse("thinking.budget_tokens", f"must be less than max_tokens ({request.max_tokens})")
    config = request.output_config
    if config is not None:
        _one_of("output_config.effort", config.effort, _EFFORTS)
    for at, shape in (
        ("output_config.format", config.format if config else None), ("output_format", request.output_format)
    ):  # fmt: skip
        if shape is not None:
            _one_of(f"{at}.type", shape.type, ("json_schema",))


def _one_of(param: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        _refuse(param, f"{value!r:.60} is not one of {', '.join(filter(None, allowed))}")
