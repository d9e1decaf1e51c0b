"""Tools of a chat and its ``tool_choice``, checked where the request comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard

__all__ = ["allowed_tools", "chat_of", "check_kind", "checked_tools"]

_CHOICES = ("none", "auto", "required")
_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs")


def chat_of(body: Mapping[str, Any], card: ModelCard) -> dict[str, Any] | None:
    """Fields of a chat that the model's parsers must know; ``None`` where they have nothing to read.

    Args:
        body: A chat request.
        card: The model that it names.

    Raises:
        InvalidRequestError: A tool or ``tool_choice`` is not valid, or asks for what only a parser can give.
    """
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    _check_choice(choice, _names(tools))
    helped = card.tool_call_parser is not None or card.heeds_tool_choice
    if not helped and choice not in (None, "none", "auto"):
        raise InvalidRequestError(
            f"model {card.name!r} is served without a tool-call parser (Worker.tool_call_parser), so that "
            "tool_choice can only be none or auto",
            param="tool_choice",
        )
    if card.reasoning_parser is None and (card.tool_call_parser is None or not tools):
        return None
    return {name: body[name] for name in _FIELDS if body.get(name) is not None}


def allowed_tools(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat request whose ``tool_choice`` of type ``allowed_tools`` is worked into its tools.

    Raises:
        InvalidRequestError: It is not valid, or names a tool that there is not.
    """
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return body
    at = "tool_choice.allowed_tools"
    allowed = choice.get("allowed_tools", choice)
    mode, wanted = (
        (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, Mapping) else (None, None)
    )
    if mode not in ("auto", "required"):
        raise InvalidRequestError(
            f"{at}.mode must be one of auto, required, not {mode!r:.60}", param=f"{at}.mode"
        )
    if not isinstance(wanted, list) or not wanted:
        raise InvalidRequestError(f"{at}.tools must be a list of tools", param=f"{at}.tools")
    names = [_name(tool, f"{at}.tools[{index}]") for index, tool in enumerate(wanted)]
    known = dict(zip(_names(body.get("tools") or []), body.get("tools") or [], strict=True))
    if missing := [name for name in names if name not in known]:
        raise InvalidRequestError(
            f"{at}.tools: {missing[0]!r:.60} is not among the tools", param=f"{at}.tools"
        )
    return {**body, "tool_choice": mode, "tools": [known[name] for name in known if name in names]}


def checked_tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The JSON schemas of the tools of a chat request, by their names; its ``tool_choice`` is checked, too.

    Raises:
        InvalidRequestError: One of them is not valid.
    """
    tools = body.get("tools") or []
    names = _names(tools)
    _check_choice(body.get("tool_choice"), names)
    return {name: tool["function"].get("parameters") or {} for name, tool in zip(names, tools, strict=True)}


def check_kind(tool: Any, at: str) -> None:
    """Refuse a tool, a call of one or a choice that has a type, and another one than ``function``.

    Raises:
        InvalidRequestError: It is so.
    """
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if kind not in (None, "function"):
        where = f"{at}.type"
        raise InvalidRequestError(
            f"{where}: {kind!r:.60} is not supported; supported values are: 'function'", param=where
        )


def _names(tools: Any) -> list[str]:
    if not isinstance(tools, list):
        raise InvalidRequestError("tools must be a list of tools", param="tools")
    return [_name(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _name(tool: Any, at: str) -> str:
    check_kind(tool, at)
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidRequestError(f'{at} must be {{"type": "function", "function": {{…}}}}', param=at)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        where = f"{at}.function.name"
        raise InvalidRequestError(f"{where} must be a string that is not empty", param=where)
    if not isinstance(function.get("parameters") or {}, Mapping):
        where = f"{at}.function.parameters"
        raise InvalidRequestError(f"{where} must be a JSON schema", param=where)
    return name


def _check_choice(choice: Any, names: list[str]) -> None:
    if choice is None or choice in ("none", "auto"):
        return
    if isinstance(choice, str) and choice not in _CHOICES:
        raise InvalidRequestError(
            f"tool_choice must be one of {', '.join(_CHOICES)}, or name a function, not {choice!r:.60}",
            param="tool_choice",
        )
    if not names:
        raise InvalidRequestError("tool_choice asks for a call, but there are no tools", param="tool_choice")
    if choice == "required":
        return
    check_kind(choice, "tool_choice")
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in names:
        raise InvalidRequestError(
            f'tool_choice must be {{"type": "function", "function": {{"name": …}}}} with one of '
            f"{', '.join(names)}, not {name!r:.60}",
            param="tool_choice",
        )
