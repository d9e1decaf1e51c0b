"""What the model was asked for the recorded answers, see :mod:`tests.support.record`.

It was never trained for tools or reasoning: examples in the prompt bring it to write in the format of models that were.
Without temperature it mostly gets them right. The seeds are those, of the first dozen, with which it makes mistakes
of different kinds.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LOOKED_FOR", "SCENES", "Message", "Scene"]

Message = dict[str, str]


class Scene(NamedTuple):
    """One answer.

    Attributes:
        name: Of the answer.
        messages: The prompt, as a chat.
        max_tokens: Most tokens of the answer.
        temperature: 0 is greedy.
        seed: Where it is not.
    """

    name: str
    messages: list[Message]
    max_tokens: int = 160
    temperature: float = 0
    seed: int | None = None

    def again(self, name: str, temperature: float, seed: int) -> Scene:
        """The same prompt, sampled."""
        return self._replace(name=name, temperature=temperature, seed=seed)


def _chat(system: str, *turns: str) -> list[Message]:
    """Turns of user and assistant, the user's first."""
    roles = ("user", "assistant")
    said = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return [{"role": "system", "content": system}, *said]


def _weather(city: str) -> str:
    return f'{{"name": "get_weather", "arguments": {{"city": "{city}", "unit": "celsius"}}}}'


def _time(zone: str) -> str:
    return f'{{"name": "get_time", "arguments": {{"zone": "{zone}"}}}}'


def _tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def _thought(reasoning: str, answer: str) -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"


def _xml(city: str, unit: str) -> str:
    values = (("city", city), ("unit", unit))
    parameters = "\n".join(f"<parameter={name}>\n{value}\n</parameter>" for name, value in values)
    return f"<tool_call>\n<function=get_weather>\n{parameters}\n</function>\n</tool_call>"


def _llama(call: str) -> str:
    return call.replace("arguments", "parameters")


_FUNCTIONS = """You call functions. The functions are:
{"name": "get_weather", "parameters": {"city": "string", "unit": "string"}}
{"name": "get_time", "parameters": {"zone": "string"}}
"""
_HERMES = f"{_FUNCTIONS}Write each call as JSON between <tool_call> and </tool_call>."
_MAIL = """You call functions. The functions are:
{"name": "send_mail", "parameters": {"to": "list of strings", "subject": "string", "body": "string", \
"urgent": "boolean"}}
Write each call as JSON between <tool_call> and </tool_call>."""
_LUNCH = (
    '{"name": "send_mail", "arguments": {"to": ["ann@example.com", "bob@example.com"], "subject": "Lunch", '
    '"body": "Lunch is at 12.\\nBob said \\"bring cake\\".", "urgent": false}}'
)
_THINK = "Think first, between <think> and </think>, then answer."
_PYTHON = "You call functions: get_weather(city, unit) and get_time(zone). Answer with a list of calls."

_CALL = Scene("call", _chat(
    _HERMES, "What is the weather in Zürich?", _tagged(_weather("Zürich")),
    "What time is it in Tokyo?", _tagged(_time("Asia/Tokyo")), "What is the weather in Köln?",
))  # fmt: skip
_TWO = Scene("calls", _chat(
    _HERMES, "What is the weather in Rome and in Oslo?", _tagged(_weather("Rome"), _weather("Oslo")),
    "What is the weather in Madrid and in Paris?",
))  # fmt: skip
_BOTH = Scene("text-calls", _chat(
    _HERMES,
    "What is the weather and the time in Rome?",
    f"I look up both.\n{_tagged(_weather('Rome'), _time('Europe/Rome'))}",
    "What is the weather and the time in Oslo?",
    f"I look up both.\n{_tagged(_weather('Oslo'), _time('Europe/Oslo'))}",
    "What is the weather and the time in Berlin?",
))  # fmt: skip
_SEND = Scene("nested", _chat(
    _MAIL, 'Tell Ann and Bob that lunch is at 12, and that Bob said "bring cake".', _tagged(_LUNCH),
    'Tell Eva and Tom that the train leaves at 9, and that Tom said "don\'t be late". It is urgent.',
))  # fmt: skip
_UNASKED = Scene("unknown-function", _chat(
    _HERMES, "What is the weather in Rome?", _tagged(_weather("Rome")), "What is the capital of Italy?"
))  # fmt: skip

_LEGS = ("How many legs has a dog?", _thought("A dog is an animal with four legs.", "A dog has four legs."))
_ITALY = ("What is the capital of Italy?", _thought(
    "The user asks for the capital of Italy. It is Rome.", "The capital of Italy is Rome."
))  # fmt: skip
_SUM = Scene("ends-twice", _chat(_THINK, *_LEGS, *_ITALY, "What is 2 + 2? Why?"))
_THINK_CALL = Scene("call", _chat(
    f"{_HERMES} Think first, between <think> and </think>.",
    "What is the weather in Zürich?",
    _thought("The user wants the weather in Zürich. I call get_weather.", _tagged(_weather("Zürich"))),
    "What time is it in Tokyo?",
    _thought("The user wants the time in Tokyo. I call get_time.", _tagged(_time("Asia/Tokyo"))),
    "What is the weather in Düsseldorf?",
))  # fmt: skip
_ONE_LLAMA = Scene("call", _chat(
    f"{_FUNCTIONS}Answer with the JSON of the call alone.", "What is the weather in Rome?", _llama(_weather("Rome")),
    "What is the weather in München?",
))  # fmt: skip
_PYTHONIC = Scene("calls", _chat(
    _PYTHON, "What is the weather in Rome?", '[get_weather(city="Rome", unit="celsius")]',
    "What is the weather and the time in Oslo?",
    '[get_weather(city="Oslo", unit="celsius"), get_time(zone="Europe/Oslo")]',
    "What is the weather and time in Köln?",
))  # fmt: skip
_ONE_XML = Scene("no-end-tag", _chat(
    "You call functions: get_weather(city, unit) and get_time(zone).",
    "What is the weather in Rome in celsius?", _xml("Rome", "celsius"),
    "What is the weather in Miami in fahrenheit?", _xml("Miami", "fahrenheit"),
    "What is the weather in Köln in celsius?",
))  # fmt: skip

SCENES: dict[str, list[Scene]] = {
    "plain": [
        Scene("sentence", [{"role": "user", "content": "What is the capital of France?"}]),
        Scene("umlauts", [{"role": "user", "content": "Write one sentence in German about the weather."}]),
        Scene("emojis", [{"role": "user", "content": "Greet me with three emojis."}], 23),
    ],
    "hermes": [
        _CALL, _TWO, _BOTH, _SEND, _UNASKED,
        _SEND._replace(name="cut", max_tokens=30),
        _BOTH.again("text-behind", 1.2, 3),
        _CALL.again("no-arguments", 1.3, 1),
        _CALL.again("no-json", 1.3, 4),
        _CALL.again("no-name", 1.3, 7),
        _SEND.again("brace-too-many", 1.0, 1),
        _SEND.again("bracket-too-few", 1.0, 4),
        _SEND.again("key-without-quotes", 1.0, 5),
        _BOTH.again("tags-of-its-own", 1.2, 4),
    ],
    "think": [
        Scene("answer", _chat(_THINK, *_LEGS, *_ITALY, "What is the capital of France?")),
        _THINK_CALL, _SUM,
        _SUM.again("long", 1.0, 4),
        _SUM.again("no-start-tag", 1.0, 3),
        _SUM.again("other-tags", 1.0, 1),
        _THINK_CALL.again("no-answer", 1.0, 1),
        _THINK_CALL.again("unknown-function", 1.0, 6),
    ],
    "granite": [
        Scene("answer", _chat(
            "Think first.", "What is the capital of Italy?",
            "Here is my thought process: The user asks for the capital of Italy. It is Rome. "
            "Here is my response: The capital of Italy is Rome.",
            "How many legs has a dog?",
            "Here is my thought process: A dog is an animal with four legs. Here is my response: A dog has four legs.",
            "What is the capital of France?",
        )),
    ],
    "llama3_json": [
        _ONE_LLAMA,
        Scene("calls", _chat(
            f"{_FUNCTIONS}Answer with the JSON of the calls alone.", "What is the weather and the time in Rome?",
            f"{_llama(_weather('Rome'))}; {_llama(_time('Europe/Rome'))}",
            "What is the weather and the time in Berlin?",
        )),
        _ONE_LLAMA.again("no-name", 1.2, 2),
        _ONE_LLAMA.again("text-behind", 1.2, 3),
        _ONE_LLAMA.again("brace-too-many", 1.2, 4),
        _ONE_LLAMA.again("no-json", 1.2, 5),
    ],
    "pythonic": [
        _PYTHONIC,
        _PYTHONIC.again("no-arguments", 1.2, 2),
        _PYTHONIC.again("no-end", 1.2, 1),
        _PYTHONIC.again("no-python", 1.2, 5),
    ],
    "qwen3_xml": [
        _ONE_XML,
        _ONE_XML.again("one-parameter", 1.0, 5),
        _ONE_XML.again("no-parameters", 1.0, 1),
        _ONE_XML.again("other-tags", 1.0, 6),
        _ONE_XML.again("cut", 1.0, 3),
    ],
}  # fmt: skip
"""By format: that of the parser of this name in vLLM; ``think`` is common to several."""

LOOKED_FOR = ("Ġ</", "</", "think", ">")
"""Pieces of the vocabulary that a parser (``olmo3``) looks for, whether an answer has them or not."""
