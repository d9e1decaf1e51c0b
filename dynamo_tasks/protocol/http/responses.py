"""Bodies of the Responses API, checked.

What a body says in words of its own is here; what it says as chats do (temperature, seed, vLLM's sampling fields,
``timeout``, ``priority``) is checked as theirs, once it has become a chat.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import PASSED, similar
from dynamo_tasks.protocol.http.openai import TIERS, ChatRequest, named_error

__all__ = [
    "INCLUDES",
    "LOGPROBS",
    "PASSED_ON",
    "ConversationName",
    "Metadata",
    "Reasoning",
    "ResponseRequest",
    "TextOptions",
    "parse_response",
    "unpack_choice",
    "unpack_tool",
]

LOGPROBS = "message.output_text.logprobs"
INCLUDES = (LOGPROBS, "reasoning.encrypted_content")
"""What ``include`` may ask for; further ones, of tools that a provider runs, are accepted: there is none of them."""
_OF_TOOLS = (
    "web_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs",
    "computer_call_output.output.image_url", "file_search_call.results", "message.input_image.image_url",
)  # fmt: skip
_Id = Annotated[str, Meta(min_length=1, max_length=256)]
_Name = Annotated[str, Meta(max_length=256)]
_User = Annotated[str, Meta(max_length=512)]
_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Tier = Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(TIERS)})]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]
"""At most 16 pairs."""


class Reasoning(Struct):
    """``reasoning``: it is kept and shown; a model's template decides by ``chat_template_kwargs``."""

    effort: _Name | None = None
    summary: _Name | None = None
    generate_summary: _Name | None = None


class TextOptions(Struct):
    """``text``: the format of the answer, as ``response_format`` of chats, and ``verbosity``, which is only shown."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ConversationName(Struct):
    """``conversation`` as an object."""

    id: _Id


class ResponseRequest(Struct, kw_only=True):
    """``POST /v1/responses``."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | list[Any] | None = None
    instructions: str | None = None
    previous_response_id: _Id | None = None
    conversation: _Id | ConversationName | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_output_tokens: _Count | None = None
    max_tool_calls: _Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    tools: Annotated[list[Any], Meta(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: Annotated[list[_Name], Meta(max_length=32)] | None = None
    metadata: Metadata | None = None
    service_tier: _Tier | None = None
    user: _User | None = None
    safety_identifier: _User | None = None
    prompt_cache_key: _User | None = None
    prompt_cache_retention: _Name | None = None

    @property
    def stored(self) -> bool:
        """``True`` unless it says ``store: false``."""
        return self.store is not False

    @property
    def conversation_id(self) -> str | None:
        """The id of its conversation."""
        named = self.conversation
        return named.id if isinstance(named, ConversationName) else named

    @property
    def wants_logprobs(self) -> bool:
        """``True`` if the text of the answer is shown with log probabilities."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


_OWN = frozenset(ResponseRequest.__struct_fields__)
_REPLACED = {
    "messages": "this API takes input",
    "max_tokens": "this API takes max_output_tokens",
    "max_completion_tokens": "this API takes max_output_tokens",
    "response_format": "this API takes text.format",
    "functions": "this API takes tools",
    "function_call": "this API takes tool_choice",
}
"""Words of the chat API, which a client that changed only the path may send."""
_REFUSED = {
    "prompt": "templates of prompts are not kept here; send instructions and input",
    "context_management": "conversations are not compacted here; truncation: auto drops the oldest items",
    "chat_template": "a template of the client's own is not run; the model's is, with chat_template_kwargs",
}
PASSED_ON = (frozenset(ChatRequest.__struct_fields__) | PASSED) - _OWN - _REPLACED.keys() - {"n", "logprobs"}
"""Fields of chats that may be sent here as well: ``seed``, ``stop``, ``top_k``, ``timeout``, …"""
_KNOWN = _OWN | PASSED_ON
_Body = TypeVar("_Body", bound=ResponseRequest)


def parse_response(body: dict[str, Any], kind: type[_Body] = ResponseRequest) -> _Body:  # type: ignore[assignment]
    """Check the fields of a body; items, tools and choices by their own functions.

    Raises:
        InvalidRequestError: names the field, and what is allowed.
    """
    for name, text in (_REPLACED | _REFUSED).items():
        if body.get(name):
            raise _refuse(name, text)
    try:
        request = msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        _refuse_misspelt(body)
        raise named_error(exc) from None
    _refuse_misspelt(body)
    _check(request, body)
    return request


def _refuse_misspelt(body: dict[str, Any]) -> None:
    if found := similar(body, _KNOWN):
        name, meant = found
        raise InvalidRequestError(f"unknown field {name!r}; did you mean {meant!r}?", param=name)


def _check(request: ResponseRequest, body: dict[str, Any]) -> None:
    if body.get("n") not in (None, 1):
        raise _refuse("n", "a response is one answer; send several requests")
    if request.stream_options is not None and not request.stream:
        raise _refuse("stream_options", "allowed only together with stream: true")
    if request.background and not request.stored:
        raise _refuse("background", "a response in the background is stored: it can't have store: false")
    if request.conversation is not None and request.previous_response_id is not None:
        raise _refuse("previous_response_id", "can't be used together with conversation")
    if request.conversation is not None and not request.stored:
        raise _refuse("conversation", "a response of a conversation is stored: it can't have store: false")
    for place, name in enumerate(request.include or ()):
        if name not in INCLUDES + _OF_TOOLS:
            raise _refuse(
                f"include[{place}]", f"{name!r:.60} is not one of {', '.join(INCLUDES + _OF_TOOLS)}"
            )
    context = request.previous_response_id or request.conversation
    if not request.input and not (context or request.instructions):
        raise _refuse("input", "this field is required (a string, or a list of items)")


def unpack_tool(tool: Any, at: str) -> dict[str, Any]:
    """A tool as chats have it.

    Raises:
        InvalidRequestError: It is no function.
    """
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        raise _refuse(f"{at}.type", f"{kind!r:.60} is not supported; supported: 'function'")
    names = ("name", "description", "parameters", "strict")
    return {"type": kind, "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def unpack_choice(choice: Any) -> Any:
    """A ``tool_choice`` as chats have it.

    Raises:
        InvalidRequestError: It is for a tool that is no function.
    """
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "function":
        return {"type": kind, "function": {"name": choice.get("name")}}
    if kind != "allowed_tools":
        raise _refuse(
            "tool_choice.type", f"{kind!r:.60} is not supported; supported: function, allowed_tools"
        )
    tools = choice.get("tools")
    if not isinstance(tools, list):
        raise _refuse("tool_choice.tools", "must be a list of tools")
    named = [unpack_tool(tool, f"tool_choice.tools[{place}]") for place, tool in enumerate(tools)]
    return {"type": kind, "allowed_tools": {"mode": choice.get("mode"), "tools": named}}


def _refuse(param: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {text}", param=param)
