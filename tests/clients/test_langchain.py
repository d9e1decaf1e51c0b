"""LangChain's chat models, of OpenAI's and of Anthropic's packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients import Served

pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.filterwarnings("ignore")]  # pydantic's
langchain_openai = pytest.importorskip("langchain_openai")
langchain_anthropic = pytest.importorskip("langchain_anthropic")

ASKED = 'ask weather({"city": "Oslo"}), please'
Make = Callable[..., Any]


@pytest.fixture(params=["chat", "responses", "messages"])
def make(request: pytest.FixtureRequest, served: Served) -> Make:
    """Make a model that goes by one of the APIs."""
    common: dict[str, Any] = {"model": served.model, "api_key": served.key, "max_retries": 0}

    def made(tokens: int = 200) -> Any:
        if request.param == "messages":
            return langchain_anthropic.ChatAnthropic(base_url=served.url, max_tokens=tokens, **common)
        more = {"use_responses_api": True} if request.param == "responses" else {}
        return langchain_openai.ChatOpenAI(base_url=f"{served.url}/v1", max_tokens=tokens, **more, **common)

    return made


def weather(city: str) -> str:
    """The weather of a city."""
    return f"18 degrees in {city}"


def test_an_answer_and_its_stream(make: Make) -> None:
    model = make(40)
    whole = model.invoke("hi").text
    assert len(str(whole)) == 40
    assert "".join(str(chunk.text) for chunk in model.stream("hi")) == str(whole)


def test_tools(make: Make) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    model = make().bind_tools([weather])
    said = model.invoke([HumanMessage(ASKED)])
    (call,) = said.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
    result = ToolMessage(weather(**call["args"]), tool_call_id=call["id"])
    answer = model.invoke([HumanMessage(ASKED), said, result])
    assert str(answer.text) == "Result: 18 degrees in Oslo"
