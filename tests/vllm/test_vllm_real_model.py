"""``dynamo-tasks serve`` with a real model: SmolLM2-135M-Instruct, as a package of PyPI has it.

It takes about a minute on two cores. Where the package is missing it is skipped, and says what to install.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from benchmarks.real_model import INSTALL, find_real_model, make_real_model
from tests.support import reading
from tests.support.answers import TOOLS, recordings
from tests.support.processes import until
from tests.support.record import ENGINE_ARGS
from tests.support.scenes import SCENES
from tests.support.serve import Serve

START_S = 240.0
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and her cat."}]
CITY: dict[str, Any] = {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 30}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "get_time", "strict": True, "parameters": CITY}}

pytestmark = pytest.mark.skipif(find_real_model() is None, reason=f"needs a real model: {INSTALL}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = make_real_model(tmp_path_factory.mktemp("real") / "smollm2")
    args = {**ENGINE_ARGS, "served_model_name": "smollm2", "tool_call_parser": "hermes"}
    flags = [f"--Worker.{name}={json.dumps(value).strip(chr(34))}" for name, value in args.items()]
    home = tmp_path_factory.mktemp("home")
    try:
        with Serve(home, "-f", "configs/vllm.yaml", "--model", str(folder), *flags, wait=False) as serve:
            until(lambda: "\nready " in serve.output or not serve.alive, START_S, "ready")
            assert serve.alive, serve.output
            yield serve
    finally:
        shutil.rmtree(folder)  # half a gigabyte


@pytest.fixture(scope="module")
def client(served: Serve) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


def _ask(client: openai.OpenAI, messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(model="smollm2", messages=messages, temperature=0, **more)


def test_it_knows_the_capital_of_france(client: openai.OpenAI) -> None:
    (choice,) = _ask(client, FRANCE, max_tokens=30).choices
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    streamed = _ask(client, FRANCE, max_tokens=30, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == choice.message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_must_be(client: openai.OpenAI, choice: Any) -> None:
    asked = [{"role": "user", "content": "What is the weather in Madrid?"}]
    answer = _ask(
        client, asked, tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False, max_tokens=100
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name in ("get_weather", "get_time")
    arguments = json.loads(call.function.arguments)
    assert list(arguments) == ["city"]
    assert isinstance(arguments["city"], str)
    assert arguments["city"]
    if choice != "required":
        assert call.function.name == "get_weather"


def test_calls_that_it_makes_by_itself(client: openai.OpenAI) -> None:
    """Brought to it by an example in the prompt, as for the recordings."""
    (scene,) = (one for one in SCENES["hermes"] if one.name == "calls")
    calls: list[list[str]] = []
    for chunk in _ask(client, scene.messages, tools=TOOLS, max_tokens=scene.max_tokens, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or ():
            if piece.id:
                calls.append([piece.function.name, ""])
            calls[piece.index][1] += piece.function.arguments or ""
    expected = reading.hermes(recordings()["hermes/calls"].text).calls
    assert [(name, json.loads(arguments)) for name, arguments in calls] == expected


def test_kill_the_worker_and_its_answer_goes_on(client: openai.OpenAI, served: Serve) -> None:
    whole = _ask(client, STORY, max_tokens=250).choices[0]
    assert whole.message.content.count(" ") > 100
    (worker,) = served.instances()
    text, reason = "", None
    for number, chunk in enumerate(_ask(client, STORY, max_tokens=250, stream=True, timeout=START_S)):
        text += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
        if number == 20:
            os.kill(worker["pid"], signal.SIGKILL)
    assert (text, reason) == (whole.message.content, whole.finish_reason)
    (other,) = served.instances()
    assert other["pid"] != worker["pid"]
