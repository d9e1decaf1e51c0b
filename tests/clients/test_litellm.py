"""LiteLLM in front of the server, as a library and as a proxy: the same deployment by all of its APIs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.clients import Served
from tests.support.processes import Process, until
from tests.support.server import free_port

pytestmark = [
    pytest.mark.timeout(600),  # its proxy takes a minute to come up, or three
    pytest.mark.slow,
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore"),
]  # its own, and pydantic's
litellm = pytest.importorskip("litellm")
anthropic = pytest.importorskip("anthropic")

HI: list[Any] = [{"role": "user", "content": "hi"}]
ASKED: list[Any] = [{"role": "user", "content": 'ask weather({"city": "Oslo"}), please'}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
MASTER = "sk-master"


@pytest.fixture(params=["openai", "anthropic"])
def deployment(request: pytest.FixtureRequest, served: Served) -> dict[str, Any]:
    """The server as a provider that LiteLLM knows."""
    base = {"openai": f"{served.url}/v1", "anthropic": served.url}[request.param]
    return {"model": f"{request.param}/mocker", "api_base": base, "api_key": served.key, "num_retries": 0}


def test_a_chat(deployment: dict[str, Any]) -> None:
    asked = {"messages": HI, "max_tokens": 20, **deployment}
    whole = litellm.completion(**asked).choices[0].message.content
    chunks = list(litellm.completion(stream=True, **asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert len(whole) == 20


def test_tools(deployment: dict[str, Any]) -> None:
    said = litellm.completion(messages=ASKED, tools=[TOOL], max_tokens=200, **deployment)
    call = said.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments.replace(" ", "")) == ("weather", '{"city":"Oslo"}')
    turns = [
        *ASKED,
        said.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"},
    ]
    answer = litellm.completion(messages=turns, tools=[TOOL], max_tokens=200, **deployment)
    assert answer.choices[0].message.content == "Result: 18 degrees"


def test_what_it_raises(deployment: dict[str, Any]) -> None:
    long = [{"role": "user", "content": "too long " * 10_000}]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=long, max_tokens=5, **deployment)
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(messages=HI, max_tokens=5, **deployment | {"api_key": "wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=HI, max_tokens=5, **deployment | {"model": deployment["model"] + "x"})


class Proxy(Process):
    """``litellm --config``; ready once it answers."""

    def __init__(self, config: Path):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        argv = [
            str(Path(sys.executable).with_name("litellm")),
            "--config",
            str(config),
            "--port",
            str(self.port),
        ]
        offline = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "NO_PROXY": "127.0.0.1",
        }
        super().__init__(argv, {**os.environ, **offline}, name="litellm", cwd=config.parent)

    def wait_ready(self, timeout: float = 400.0) -> None:
        until(lambda: self._alive() or not self.alive, timeout, lambda: f"ready: {self.output}")
        assert self.alive, self.output

    def _alive(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/liveliness", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def proxy(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    config = tmp_path_factory.mktemp("litellm") / "config.yaml"
    config.write_text(f"""
model_list:
  - model_name: ours
    litellm_params: {{model: openai/mocker, api_base: "{served.url}/v1", api_key: {served.key}}}
  - model_name: claude
    litellm_params: {{model: anthropic/mocker, api_base: "{served.url}", api_key: {served.key}}}
router_settings: {{num_retries: 0, allowed_fails: 0, cooldown_time: 600}}
general_settings: {{master_key: {MASTER}}}
""")
    with Proxy(config) as proxy:
        yield proxy


@pytest.mark.parametrize("model", ["ours", "claude"])
def test_chats_through_the_proxy(proxy: Proxy, model: str) -> None:
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=MASTER, max_retries=0)
    asked: Any = {"model": model, "messages": HI, "max_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(stream=True, **asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert len(whole or "") == 20


@pytest.mark.parametrize("model", ["ours", "claude"])
def test_messages_through_the_proxy(proxy: Proxy, model: str) -> None:
    client = anthropic.Anthropic(base_url=proxy.url, api_key=MASTER, max_retries=0)
    asked: Any = {"model": model, "max_tokens": 20, "messages": HI}
    whole = client.messages.create(**asked).content[0].text
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == whole
    assert len(whole) == 20


def test_responses_through_the_proxy(proxy: Proxy) -> None:
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=MASTER, max_retries=0)
    said = client.responses.create(model="ours", input="hi", max_output_tokens=20)
    assert len(said.output_text) == 20


def test_a_path_that_is_not_there_does_not_take_the_deployment_away(proxy: Proxy, served: Served) -> None:
    """Its router counts a 404 of an API as a failure of the deployment: other servers vanish for a while by that."""
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=MASTER, max_retries=0)
    with pytest.raises(openai.APIStatusError):
        client.responses.retrieve("resp_nobody")
    client.responses.create(model="ours", input="hi", max_output_tokens=5)
    for _ in range(3):
        assert (
            client.chat.completions.create(model="ours", messages=HI, max_tokens=5).choices[0].message.content
        )
