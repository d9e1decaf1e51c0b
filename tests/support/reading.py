"""What recorded answers mean, read in the plainest way: what tests expect of vLLM's parsers."""

from __future__ import annotations

import ast
import json
import re
from typing import Any, NamedTuple

__all__ = ["Said", "granite", "hermes", "llama3_json", "plain", "pythonic", "qwen3_xml", "think"]


class Said(NamedTuple):
    """An answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = []  # noqa: RUF012 - nobody changes it


def plain(text: str) -> Said:
    """All of it is said."""
    return Said(text)


def hermes(text: str) -> Said:
    """JSON between tags; what stands behind the first call is not said."""
    content, *rest = re.split(r"<tool_call>(.*?)</tool_call>", text, flags=re.DOTALL)
    calls = [json.loads(call) for call in rest[::2]]
    return Said(content, calls=[(call["name"], call["arguments"]) for call in calls])


def think(text: str) -> Said:
    """Reasoning up to its end tag, then as Hermes."""
    reasoning, _, rest = text.removeprefix("<think>").partition("</think>")
    said = hermes(rest)
    return Said(said.content, reasoning, said.calls)


def granite(text: str) -> Said:
    """Sentences introduce reasoning and answer."""
    reasoning, _, content = text.partition("Here is my response:")
    return Said(content, reasoning.removeprefix("Here is my thought process:"))


def llama3_json(text: str) -> Said:
    """Nothing but calls."""
    calls = [json.loads(call) for call in text.split("; ")]
    return Said(calls=[(call["name"], call["parameters"]) for call in calls])


def pythonic(text: str) -> Said:
    """A Python list of calls."""
    calls: Any = ast.parse(text, mode="eval").body
    return Said(calls=[
        (call.func.id, {given.arg: ast.literal_eval(given.value) for given in call.keywords})
        for call in calls.elts
    ])  # fmt: skip


def qwen3_xml(text: str) -> Said:
    """One tag per function and parameter."""
    calls = re.findall(r"<function=(\w+)>(.*?)</function>", text, re.DOTALL)
    values = re.compile(r"<parameter=(\w+)>\n(.*?)\n</parameter>")
    return Said(calls=[(name, dict(values.findall(body))) for name, body in calls])
