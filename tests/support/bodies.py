"""Bodies of requests as well-known clients send them."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["CLAUDE_CODE", "claude_code"]

_CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def _text(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": properties,
        "required": list(properties), "additionalProperties": False,
    }  # fmt: skip
    return {"name": name, "description": f"{name}s something.", "input_schema": schema}


def claude_code(model: str) -> dict[str, Any]:
    """The shape of a request of Claude Code in the middle of its work."""
    return {
        "model": model,
        "max_tokens": 32000,
        "stream": True,
        "system": [
            _text("x-anthropic-billing-header: cc_version=2.1.50.c1; cc_entrypoint=cli; cch=0a1b2;"),
            _text("You are Claude Code.", **_CACHED),
            _text("Tools are yours.", **_CACHED),
        ],
        "messages": [
            {"role": "user", "content": [_text("<system-reminder>Be brief.</system-reminder>"), _text("List, read.")]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "First a list.", "signature": "c2ln"},
                    _text("I look."),
                    {"type": "tool_use", "id": "toolu_01", "name": "Bash", "input": {"command": "ls"}},
                    {"type": "tool_use", "id": "toolu_02", "name": "Read", "input": {"file_path": "/a"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_01", "content": "a\nb", "is_error": False},
                    {"type": "tool_result", "tool_use_id": "toolu_02", "content": [_text("no file")], "is_error": True},
                    _text("Go on.", **_CACHED),
                ],
            },
        ],
        "tools": [_tool("Bash", command={"type": "string"}), {**_tool("Read", path={"type": "string"}), **_CACHED}],
        "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": "s" * 36})},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "temperature": 1,
    }  # fmt: skip


CLAUDE_CODE = json.dumps(claude_code("tiny")).encode()
