"""LiteLLM against the server: which of its exceptions people catch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.doors,
    pytest.mark.filterwarnings("ignore"),  # its own, and pydantic's over it
]
litellm = pytest.importorskip("litellm")


@pytest.fixture(scope="module")
def frontend(redis_server: RedisServer) -> Iterator[Frontend]:
    env = {"DYNAMO_NAMESPACE": "litellm"}
    settings = (
        "Worker.engine=mocker",
        "Worker.engine_args.max_model_len=256",
        "Worker.engine_args.token_delay_ms=20",
    )
    keys = 'Frontend.api_keys=["free", {"key": "rated", "requests_per_minute": 1}]'
    with together(
        Worker(redis_server.url, settings=settings, env=env),
        Frontend(redis_server.url, env=env, settings=(keys,)),
    ) as (_, frontend):
        yield frontend


def _ask(frontend: Frontend, **more: Any) -> Any:
    return litellm.completion(
        **{
            "model": "openai/mocker", "api_base": f"{frontend.base_url}/v1", "api_key": "free", "max_retries": 0,
            "num_retries": 0, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4,
        }
        | more
    )  # fmt: skip


def test_an_answer(frontend: Frontend) -> None:
    assert _ask(frontend).choices[0].message.content
    chunks = list(_ask(frontend, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_what_it_raises(frontend: Frontend) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        _ask(frontend, messages=[{"role": "user", "content": "too long " * 100}])
    with pytest.raises(litellm.BadRequestError):
        _ask(frontend, temperature=3)
    with pytest.raises(litellm.NotFoundError):
        _ask(frontend, model="openai/nobody")
    with pytest.raises(litellm.AuthenticationError):
        _ask(frontend, api_key="wrong")
    with pytest.raises(litellm.Timeout):
        _ask(frontend, max_tokens=200, extra_body={"timeout": 0.3})
    _ask(frontend, api_key="rated")
    with pytest.raises(litellm.RateLimitError):
        _ask(frontend, api_key="rated")


def test_an_error_in_mid_stream(frontend: Frontend) -> None:
    stream = _ask(frontend, max_tokens=200, stream=True, extra_body={"timeout": 1.0})
    with pytest.raises(openai.APIError, match="past its deadline"):
        list(stream)
