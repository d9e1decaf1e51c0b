"""Batches as a stranger has them: the processes, input files, and what comes out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from tests.support.processes import Frontend, Process, Worker, together, until
from tests.support.server import RedisServer

__all__ = ["BatchPlace", "background_of", "batch_place", "chat_line"]

SETTINGS = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=5")


def chat_line(name: str, text: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    """A line that asks for a chat."""
    body = {"model": "mocker", "messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


@dataclass
class BatchPlace:
    """A worker, a Background and a frontend, and the folder of files."""

    server: RedisServer
    folder: Path
    env: dict[str, str]
    frontend: Frontend
    worker: Process
    background: Process
    key: str = "-"
    """What its client asks with."""

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=self.key, base_url=f"{self.frontend.base_url}/v1", max_retries=5, timeout=60
        )

    def submit(
        self, lines: list[Any], endpoint: str = "/v1/chat/completions", window: str = "24h", **more: Any
    ) -> Any:
        """Upload lines, and make a batch of them."""
        raw = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
        file = self.client.files.create(file=("in.jsonl", raw), purpose="batch")
        return self.client.batches.create(
            input_file_id=file.id,
            endpoint=endpoint,
            completion_window=window,
            **more,  # type: ignore[arg-type]
        )

    def ended(self, batch_id: str, timeout: float = 120) -> Any:
        """The batch, once it has ended."""

        def look() -> Any:
            with contextlib.suppress(openai.APIConnectionError, openai.InternalServerError):
                batch = self.client.batches.retrieve(batch_id)
                return batch if batch.status in ("completed", "failed", "expired", "cancelled") else None

        return until(
            look,
            timeout,
            lambda: f"{self.client.batches.retrieve(batch_id)} {self.background.output[-3000:]}",
        )

    def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        """The rows of an output or error file."""
        return (
            []
            if file_id is None
            else [json.loads(row) for row in self.client.files.content(file_id).text.splitlines()]
        )


def background_of(url: str, env: dict[str, str], *settings: str) -> Worker:
    return Worker(url, service="workers.agg:Background", name="b", env=env, settings=settings)


@contextlib.contextmanager
def batch_place(
    server: RedisServer, folder: Path, namespace: str, *, worker: tuple[str, ...] = SETTINGS,
    background: tuple[str, ...] = (), env: dict[str, str] | None = None,
) -> Iterator[BatchPlace]:  # fmt: skip
    """Start the processes."""
    env = {"DYNAMO_NAMESPACE": namespace, "DYNAMO_FILES_URL": folder.as_uri(), **(env or {})}
    with together(
        Worker(server.url, settings=worker, env=env),
        background_of(server.url, env, *background),
        Frontend(server.url, env=env),
    ) as (works, runs, frontend):
        yield BatchPlace(server, folder, env, frontend, works, runs)
