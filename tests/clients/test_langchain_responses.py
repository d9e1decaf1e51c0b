"""LangChain's OpenAI client with ``use_responses_api``: text, streams, tools, schemas, following by id."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.clients import Served

pytestmark = [pytest.mark.slow, pytest.mark.clients]
langchain_openai = pytest.importorskip("langchain_openai")


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@pytest.fixture
def model(served: Served) -> Any:
    return langchain_openai.ChatOpenAI(
        model="mocker", base_url=f"{served.url}/v1", api_key=served.key, use_responses_api=True, max_retries=0,
        max_tokens=200,
    )  # fmt: skip


def test_text_is_the_same_streamed_and_not(model: Any) -> None:
    whole = model.invoke("tell me a story")
    parts = list(model.stream("tell me a story"))
    assert whole.text
    assert "".join(part.text for part in parts) == whole.text
    assert whole.response_metadata["id"].startswith("resp_")
    assert whole.usage_metadata["output_tokens"] == 200


def test_a_tool_is_called_and_its_result_is_read(model: Any) -> None:
    bound = model.bind_tools([Forecast])
    called = bound.invoke('use Forecast({"city": "Oslo", "degrees": 9}) now')
    (call,) = called.tool_calls
    assert call["args"] == {"city": "Oslo", "degrees": 9}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "done"}
    asked = {"role": "user", "content": 'use Forecast({"city": "Oslo", "degrees": 9}) now'}
    assert bound.invoke([asked, called, result]).text == "Result: done"


def test_an_answer_by_a_schema(model: Any) -> None:
    made = model.with_structured_output(Forecast, method="json_schema").invoke("Oslo?")
    assert isinstance(made, Forecast)


def test_it_follows_by_the_id_of_the_last_response(model: Any) -> None:
    first = model.invoke("I am Al")
    second = model.invoke("who am I?", previous_response_id=first.response_metadata["id"])
    assert second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]
