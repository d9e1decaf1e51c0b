"""API keys that are made at run time, for tests that ask with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from dynamo_tasks.serve.cli import cli
from tests.support.processes import Frontend, until

__all__ = ["CHAT", "KeyDesk", "ask", "bearer", "counted_row", "usage_rows"]

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class KeyDesk:
    """The commands of a namespace's keys.

    Attributes:
        url: Of Redis.
        namespace: Whose keys they are.
    """

    url: str
    namespace: str

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run ``dynamo-tasks``; returns what it printed."""
        given = [*arguments, "--namespace", self.namespace]
        found = CliRunner().invoke(cli, given, env={"DYNAMO_REDIS_URL": self.url})
        assert found.exit_code == code, found.output
        return found.output

    def keys(self, *arguments: str) -> Any:
        """Run ``dynamo-tasks keys``; returns what it printed, read as JSON."""
        return json.loads(self.run("keys", *arguments, "--json"))

    def create(self, *arguments: str) -> dict[str, Any]:
        """Make a key."""
        made: dict[str, Any] = self.keys("create", *arguments)
        return made


def bearer(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"authorization": f"Bearer {key}"}


def ask(**more: Any) -> dict[str, Any]:
    """The body of a short chat."""
    return {"model": "mocker", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]} | more


def usage_rows(http: Frontend, key: str, query: str = "") -> list[dict[str, Any]]:
    """What a key sees of the usage; nothing while that cannot be read."""
    code, _, body = http.request("GET", f"/v1/usage{query}", None, bearer(key))
    return body["data"] if code == 200 else []


def counted_row(http: Frontend, key: str, requests: int) -> dict[str, Any]:
    """The one row of a key, once so many of its requests have ended."""
    until(
        lambda: sum(row["requests"] for row in usage_rows(http, key)) >= requests,
        20.0,
        lambda: str(usage_rows(http, key)),
    )
    [row] = usage_rows(http, key)
    return row
