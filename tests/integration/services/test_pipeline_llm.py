"""An LLM endpoint as a service of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_tasks.pipelines import LocalEnvironment, RemoteEnvironment, connect
from tests.support.pipeline_parts import Ask
from tests.support.processes import Worker, together
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def workers(redis_server: RedisServer) -> Iterator[None]:
    operators = ("--operators", "tests.support.pipeline_parts")
    with together(
        Worker(redis_server.url, name="llm", settings=("Worker.token_delay_ms=5",)),
        Worker(redis_server.url, *operators, service="", name="operators"),
    ):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LocalEnvironment, RemoteEnvironment])
def test_an_llm_is_called_like_any_service_and_streams(
    workers: None, redis_server: RedisServer, kind: Any
) -> None:
    env = kind("chat", {"redis_url": redis_server.url})
    env.register_service("llm", "dyn://dynamo.Worker.generate")
    with env, connect(env) as chat:
        chunks = list(chat.call_service("llm", "hello", max_tokens=5))
        assert len(chunks) > 1
        assert "".join(chunk["text"] for chunk in chunks) == "hello"
        with pytest.raises(RuntimeError, match=r"no method 'x' \(available: generate, process\)"):
            chat.services.llm.x("hello")
        with pytest.raises(RuntimeError, match=r"Service call failed: .*max_tokens"):
            chat.call_service("llm", "hello", max_tokens=-5)
        env.from_batch(["ab", "cd"]).map(Ask).collect()
        job = env.submit()
        assert list(job.results()) == ["ab", "cd"]
        job.wait(30)
