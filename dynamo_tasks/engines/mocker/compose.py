"""The mocker in a chat with tools, reasoning or a form to keep to: what it says, and when it calls.

The rules are in ``docs/testing.md``: by them, a test decides what the "model" does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from dynamo_tasks.engines.mocker.dice import Dice
from dynamo_tasks.engines.mocker.reply import Meaning, Reply, ReplyPart
from dynamo_tasks.engines.mocker.schema_values import make_value
from dynamo_tasks.engines.text.chats.tools import allowed_tools, checked_tools
from dynamo_tasks.engines.text.request import GenerateRequest
from dynamo_tasks.engines.text.structured import CONSTRAINTS, structured_outputs
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["FEATURES", "compose", "is_composed"]

FEATURES = frozenset(
    {"guided_choice", "guided_json", "logprobs", "parallel_tool_calls", "reasoning_effort", "response_format",
     "structured_outputs", "tool_choice", "tools"}
)  # fmt: skip
"""Optional request fields that the mocker honours, besides those that change nothing where nothing is sampled."""

_STEERING = frozenset({"reasoning_effort", "tools", *CONSTRAINTS})
_THOUGHTS = {"minimal": 4, "low": 8, "medium": 16, "high": 32, "xhigh": 64}
"""Words of reasoning, by effort; another word counts as medium."""
_SAID, _MOST_CALLS, _MOST_ECHOED = 12, 16, 512


def is_composed(request: GenerateRequest) -> bool:
    """Return whether a request may have a reply; other ones get pseudo-text without end."""
    return not _STEERING.isdisjoint(request.extra)


def compose(request: GenerateRequest, key: bytes, tokenizer: Tokenizer, tool_calls: str) -> Reply | None:
    """The reply of one choice; ``None`` where the request asks for none.

    Args:
        request: Its ``extra`` is read.
        key: Decides what is left open.
        tokenizer: Of the model.
        tool_calls: When tools are called under ``tool_choice: auto``: ``named``, ``always`` or ``never``.

    Raises:
        InvalidRequestError: a tool, ``tool_choice``, schema or constraint is not valid, or not one that can be heeded.
    """
    extra, dice = request.extra, Dice(key)
    chat = extra.get("last_message")
    thoughts = _reasoning(extra, dice) if chat is not None else []
    calls = list(_calls(extra, chat, tool_calls, dice)) if chat is not None and extra.get("tools") else []
    constraint = structured_outputs(extra)
    if calls:
        parts = [part for index, call in enumerate(calls) for part in _call(index, *call, key)]
        named = (
            isinstance(extra.get("tool_choice"), Mapping)
            and extra["tool_choice"].get("type") != "allowed_tools"
        )
        return Reply([*thoughts, *parts], "stop" if named else "tool_calls", tokenizer)
    if constraint is not None:
        return Reply(
            [*thoughts, ReplyPart(Meaning.CONTENT, _constrained(constraint, dice))], "stop", tokenizer
        )
    if chat is None or not (thoughts or extra.get("tools")):
        return None
    return Reply([*thoughts, ReplyPart(Meaning.CONTENT, _answer(chat, dice))], "stop", tokenizer)


def _reasoning(extra: Mapping[str, Any], dice: Dice) -> list[ReplyPart]:
    effort = extra.get("reasoning_effort")
    if effort is None:
        return []
    text = dice.words(_THOUGHTS.get(str(effort), _THOUGHTS["medium"])) + "."
    return [
        ReplyPart(Meaning.TAG, "<think>"),
        ReplyPart(Meaning.REASONING, text),
        ReplyPart(Meaning.TAG, "</think>"),
    ]


def _answer(chat: Mapping[str, str], dice: Dice) -> str:
    """The result of a tool, or some words."""
    if chat["role"] in ("tool", "function"):
        return f"Result: {chat['content'][:_MOST_ECHOED]}"
    return dice.words(_SAID) + "."


# -- tools -------------------------------------------------------------------------------------


def _calls(
    extra: Mapping[str, Any], chat: Mapping[str, str], tool_calls: str, dice: Dice
) -> Iterator[tuple[str, str]]:
    """The calls to make: names and arguments."""
    asked = allowed_tools({name: extra.get(name) for name in ("tools", "tool_choice")})
    schemas = checked_tools(asked)
    choice = asked.get("tool_choice")
    if choice == "none" or (choice in (None, "auto") and (tool_calls == "never" or chat["role"] != "user")):
        return
    if isinstance(choice, Mapping):
        schemas = {choice["function"]["name"]: schemas[choice["function"]["name"]]}
    wanted = list(_named(chat["content"], schemas)) if chat["role"] == "user" else []
    if not wanted and (choice not in (None, "auto") or tool_calls == "always"):
        wanted = [(next(iter(schemas)), None)]
    most = 1 if extra.get("parallel_tool_calls") is False else _MOST_CALLS
    for name, arguments in wanted[:most]:
        yield name, arguments or _arguments(name, schemas[name], dice)


def _named(text: str, schemas: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The tools that a text names, in its order, each with the JSON object that follows the name."""
    names = sorted(schemas, key=len, reverse=True)
    pattern = rf"(?<![\w-])({'|'.join(map(re.escape, names))})(?![\w-])[ \t(:]*"
    for found in re.finditer(pattern, text):
        yield found[1], _object_at(text, found.end())


def _object_at(text: str, start: int) -> str | None:
    if text[start : start + 1] != "{":
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return text[start:end] if isinstance(value, dict) else None


def _arguments(name: str, schema: Mapping[str, Any], dice: Dice) -> str:
    value = make_value({"type": "object", **schema}, dice, f"tools.{name}.parameters"[:200])
    return json.dumps(value, ensure_ascii=False)


def _call(index: int, name: str, arguments: str, key: bytes) -> list[ReplyPart]:
    """A call, written as many models write it."""
    digest = blake2b(f"call {index}".encode(), key=key, digest_size=12).hexdigest()
    call = index, f"call_{digest}", name
    head = f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
    return [
        ReplyPart(Meaning.CALL, head, call),
        ReplyPart(Meaning.ARGUMENTS, arguments, call),
        ReplyPart(Meaning.TAG, "}\n</tool_call>\n"),
    ]


# -- constraints -------------------------------------------------------------------------------


def _constrained(constraint: Mapping[str, Any], dice: Dice) -> str:
    if "json" in constraint:
        schema = constraint["json"]
        return json.dumps(make_value(_schema(schema), dice, "schema"), ensure_ascii=False)
    if constraint.get("json_object"):
        return json.dumps({dice.words(1): dice.words(3)})
    choices = constraint.get("choice")
    if (
        isinstance(choices, list)
        and choices
        and all(isinstance(choice, str) and choice for choice in choices)
    ):
        return str(dice.choose(choices))
    kind = next(iter(constraint))
    problem = "must be a list of texts" if kind == "choice" else "is not supported"
    raise InvalidRequestError(f"engine 'mocker': {kind} {problem}", param=kind)


def _schema(given: Any) -> Any:
    """A schema, which vLLM takes as text, too."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"guided_json is not valid JSON: {error}", param="guided_json") from error
