"""OpenAI's agents SDK, whose default is the Responses API: its loop of tools, streamed and not, and conversations."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.support.clients import Served

pytestmark = [pytest.mark.slow, pytest.mark.clients]
agents = pytest.importorskip("agents")


@agents.function_tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


def agent_of(client: openai.AsyncOpenAI, **more: Any) -> Any:
    model = agents.OpenAIResponsesModel(model="mocker", openai_client=client)
    return agents.Agent(name="helper", instructions="You help.", model=model, **more)


async def run(served: Served, test: Any) -> None:
    agents.set_tracing_disabled(True)
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0) as client:
        await test(client)


ASK = 'ask weather({"city": "Oslo"}) and weather({"city": "Rome"}), please'


def test_the_loop_of_tools(served: Served) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        done = await agents.Runner.run(agent_of(client, tools=[weather]), ASK)
        assert done.final_output == "Result: rain in Oslo\nrain in Rome"
        kinds = [item.type for item in done.new_items]
        assert kinds.count("tool_call_item") == kinds.count("tool_call_output_item") == 2

    asyncio.run(run(served, test))


def test_the_loop_of_tools_streamed(served: Served) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        running = agents.Runner.run_streamed(agent_of(client, tools=[weather]), ASK)
        raw = [
            event.data.type async for event in running.stream_events() if event.type == "raw_response_event"
        ]
        assert running.final_output == "Result: rain in Oslo\nrain in Rome"
        assert raw.count("response.completed") == 2
        assert raw.count("response.function_call_arguments.done") == 2

    asyncio.run(run(served, test))


def test_a_conversation_that_the_server_keeps(served: Served) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        settings = agents.ModelSettings(extra_body={"stop": [" "]})  # else its text ends by a limit
        helper = agent_of(client, model_settings=settings)
        talk = agents.OpenAIConversationsSession(openai_client=client)
        await agents.Runner.run(helper, "I am Al", session=talk)
        await agents.Runner.run(helper, "who am I?", session=talk)
        items = await talk.get_items()
        assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"]
        first = await agents.Runner.run(helper, "hi")
        again = await agents.Runner.run(helper, "go on", previous_response_id=first.last_response_id)
        assert again.raw_responses[-1].usage.input_tokens > first.raw_responses[-1].usage.input_tokens

    asyncio.run(run(served, test))


def test_reasoning_travels_through_the_loop(served: Served) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        settings = agents.ModelSettings(reasoning={"effort": "low"}, store=False)
        done = await agents.Runner.run(agent_of(client, tools=[weather], model_settings=settings), ASK)
        assert done.final_output.startswith("Result: ")
        assert "reasoning_item" in [item.type for item in done.new_items]

    asyncio.run(run(served, test))
