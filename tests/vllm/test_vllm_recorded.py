"""Answers that a real model wrote, its mistakes too, read by vLLM's real parsers where the model itself cut its tokens.

What is expected is read from the recorded text by the few lines of :mod:`tests.support.reading`, not by a parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dynamo_tasks.engines.parsers.tool_parsers import Parsers
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.messages import MessageDelta, merge_messages
from dynamo_tasks.protocol.tokens import TokenDelta, decode_deltas, encode_deltas, merge_delta
from tests.support import reading
from tests.support.answers import END, TAGS, TOOLS, ids_for, recordings, write_tokenizer
from tests.support.reading import Said

GATHERED = (2, 3, 8, 1000)
"""Tokens that an engine gives at once; the last one is all of them."""


class Setup(NamedTuple):
    """Parsers, and whether tags are tokens of the model's vocabulary, as they are in models trained for them."""

    tool_call: str | None
    reasoning: str | None
    tagged: bool = False


HERMES, HERMES_TAGGED = Setup("hermes", None), Setup("hermes", None, tagged=True)
OLMO, OLMO_HERMES = Setup(None, "olmo3"), Setup("hermes", "olmo3")
QWEN, DEEPSEEK = Setup("hermes", "qwen3", tagged=True), Setup("hermes", "deepseek_r1", tagged=True)
GRANITE, LLAMA, PYTHONIC = Setup(None, "granite"), Setup("llama3_json", None), Setup("pythonic", None)
XML, XML_TAGGED = Setup("qwen3_xml", None), Setup("qwen3_xml", None, tagged=True)

SETUPS = {
    "plain": (HERMES, HERMES_TAGGED, LLAMA, PYTHONIC, XML), "hermes": (HERMES, HERMES_TAGGED),
    "think": (OLMO, OLMO_HERMES, QWEN, DEEPSEEK), "granite": (GRANITE,), "llama3_json": (LLAMA,),
    "pythonic": (PYTHONIC,), "qwen3_xml": (XML, XML_TAGGED),
}  # fmt: skip
"""The parsers of each format."""

WELL: list[tuple[str, Callable[[str], Said], int]] = [
    ("plain/sentence", reading.plain, 0),
    ("plain/umlauts", reading.plain, 0),
    ("plain/emojis", reading.plain, 0),
    ("hermes/call", reading.hermes, 1),
    ("hermes/calls", reading.hermes, 2),
    ("hermes/text-calls", reading.hermes, 2),
    ("hermes/nested", reading.hermes, 1),
    ("hermes/unknown-function", reading.hermes, 1),
    ("hermes/text-behind", reading.hermes, 1),
    ("think/answer", reading.think, 0),
    ("think/call", reading.think, 1),
    ("think/long", reading.think, 0),
    ("think/no-start-tag", reading.think, 0),
    ("think/no-answer", reading.think, 0),
    ("think/unknown-function", reading.think, 1),
    ("granite/answer", reading.granite, 0),
    ("llama3_json/call", reading.llama3_json, 1),
    ("llama3_json/calls", reading.llama3_json, 2),
    ("pythonic/calls", reading.pythonic, 2),
    ("pythonic/no-arguments", reading.pythonic, 1),
    ("qwen3_xml/no-end-tag", reading.qwen3_xml, 1),
    ("qwen3_xml/one-parameter", reading.qwen3_xml, 1),
]
"""Answers that mean something, how to read them, and how many calls there are."""

NO_CALL = ("hermes/no-name", "llama3_json/no-name", "llama3_json/no-json", "pythonic/no-python")
"""They begin as a call does, but there is none in them."""
RAW = (
    "hermes/cut", "hermes/brace-too-many", "hermes/bracket-too-few", "hermes/key-without-quotes",
    "hermes/tags-of-its-own",
)  # fmt: skip
"""A call with arguments that are no JSON."""
NO_ARGUMENTS = {
    "hermes/no-arguments": "", "hermes/no-json": "", "llama3_json/text-behind": "", "llama3_json/brace-too-many": "",
    "qwen3_xml/no-parameters": "{}", "qwen3_xml/other-tags": "{}", "qwen3_xml/cut": "{}",
}  # fmt: skip
"""A function is named, and nothing that its parser takes for arguments. vLLM streams them as these."""


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("recorded")
    _FOLDERS[False] = write_tokenizer(folder / "plain")
    _FOLDERS[True] = write_tokenizer(folder / "tagged", tags=TAGS)


_FOLDERS: dict[bool, Path] = {}


@cache
def parsers_of(setup: Setup) -> Parsers:
    folder = str(_FOLDERS[setup.tagged])
    return Parsers.load(
        ModelCard(
            name="recorded", tokenizer=folder, tool_call_parser=setup.tool_call,
            reasoning_parser=setup.reasoning,
        )
    )  # fmt: skip


def asked(setup: Setup) -> dict[str, Any]:
    """The payload of a chat whose prompt is some text; examples of reasoning in it would count as reasoning."""
    return {"prompt_token_ids": [END], "chat": {"tools": TOOLS} if setup.tool_call else {}}


def deltas_of(name: str, setup: Setup, gathered: int = 1) -> list[TokenDelta]:
    """The recording as an engine gives it."""
    tokenizer, recording = load_tokenizer(str(_FOLDERS[setup.tagged])), recordings()[name]
    stream, ids = tokenizer.stream(skip_special_tokens=False), ids_for(recording, tokenizer)
    out = []
    for start in range(0, len(ids), gathered):
        part = ids[start : start + gathered]
        text = stream.push([token for token in part if token != END])
        out.append(TokenDelta(text, part))
    out[-1].finish_reason = recording.finish_reason
    out[-1].text += stream.flush()
    return out


def read(reader: Any, deltas: list[TokenDelta]) -> tuple[MessageDelta, str | None]:
    message: MessageDelta | None = None
    for delta in deltas:
        message = merge_messages(message, reader.read(delta).message)
    assert message is not None
    return message, deltas[-1].finish_reason


def whole(name: str, setup: Setup, gathered: int = 1) -> tuple[MessageDelta, str | None]:
    return read(parsers_of(setup).open(asked(setup))[1], deltas_of(name, setup, gathered))


def without_ids(message: MessageDelta | None) -> Any:
    assert message is not None
    calls = [(call.index, call.name, call.arguments) for call in message.tool_calls]
    return message.content, message.reasoning, calls


def each_setup(names: Any) -> list[Any]:
    return [
        pytest.param(name, setup, id="-".join([name, *filter(None, setup[:2]), *["tagged"] * setup.tagged]))
        for name in names
        for setup in SETUPS[name.partition("/")[0]]
    ]


READ = {name: (how, calls) for name, how, calls in WELL}


@pytest.mark.parametrize(("name", "setup"), each_setup(READ))
def test_what_the_model_wrote_is_read(name: str, setup: Setup) -> None:
    how, calls = READ[name]
    expected = how(recordings()[name].text)
    assert len(expected.calls) == calls
    message, reason = whole(name, setup)
    if setup.tool_call is None and expected.calls:  # what nobody reads stays text
        assert "<tool_call>" in message.content
        expected, message.content = Said(reasoning=expected.reasoning), ""
    assert message.content.strip() == expected.content.strip()
    assert message.reasoning.strip() == expected.reasoning.strip()
    found = [(call.name, json.loads(call.arguments)) for call in message.tool_calls]
    assert found == expected.calls
    assert [call.index for call in message.tool_calls] == list(range(len(found)))
    assert len({call.id for call in message.tool_calls} - {None}) == len(found)
    assert reason == ("tool_calls" if found else recordings()[name].finish_reason)


@pytest.mark.parametrize(("name", "setup"), each_setup(recordings()))
def test_how_tokens_gather_changes_nothing(name: str, setup: Setup) -> None:
    one, reason = whole(name, setup)
    for gathered in GATHERED:
        many, end = whole(name, setup, gathered)
        assert (without_ids(many), end) == (without_ids(one), reason), gathered


@pytest.mark.parametrize("gathered", [1, 3])
@pytest.mark.parametrize(("name", "setup"), each_setup(recordings()))
def test_an_interrupted_answer_is_read_on_from_any_token(name: str, setup: Setup, gathered: int) -> None:
    parsers, size = parsers_of(setup), len(deltas_of(name, setup))
    one, reason = whole(name, setup)
    for cut in range(1, size, 2):
        deltas = deltas_of(name, setup)
        first = parsers.open(asked(setup))[1]
        logged: list[TokenDelta] = []
        for start in range(0, cut, gathered):
            pending: list[TokenDelta] = []
            for delta in deltas[start : min(start + gathered, cut)]:
                merge_delta(pending, first.read(delta))
            logged += decode_deltas(encode_deltas(pending))
        before: MessageDelta | None = None
        for delta in logged:
            before = merge_messages(before, delta.message)
        rest, end = read(parsers.open(asked(setup), logged)[1], deltas[cut:])
        assert without_ids(merge_messages(before, rest)) == without_ids(one), cut
        assert end == reason


@pytest.mark.parametrize(("name", "setup"), each_setup(NO_CALL))
def test_what_is_no_call_in_the_end_is_text(name: str, setup: Setup) -> None:
    message, reason = whole(name, setup)
    assert message == MessageDelta(recordings()[name].text)
    assert reason == recordings()[name].finish_reason


@pytest.mark.parametrize(("name", "setup"), each_setup(RAW))
def test_arguments_that_are_no_json_are_given_as_they_are(name: str, setup: Setup) -> None:
    text = recordings()[name].text
    message, reason = whole(name, setup)
    (call,) = message.tool_calls
    assert call.name == text.partition('"name": "')[2].partition('"')[0]
    assert call.arguments == text.partition('"arguments": ')[2].removesuffix("\n</tool_call>")
    assert message.content == text.partition("<tool_call>")[0]
    with pytest.raises(ValueError, match="line 1"):
        json.loads(call.arguments)
    assert reason == ("length" if recordings()[name].finish_reason == "length" else "tool_calls")


@pytest.mark.parametrize(("name", "setup"), each_setup(NO_ARGUMENTS))
def test_a_call_without_arguments(name: str, setup: Setup) -> None:
    (call,) = whole(name, setup)[0].tool_calls
    assert call.name
    assert call.name in recordings()[name].text
    assert call.arguments == NO_ARGUMENTS[name]


@pytest.mark.parametrize(("name", "setup"), each_setup(["think/ends-twice", "think/other-tags"]))
def test_reasoning_with_odd_tags_is_not_lost(name: str, setup: Setup) -> None:
    message, _ = whole(name, setup)
    said = message.reasoning + message.content
    assert len(said) <= len(recordings()[name].text)
    for line in recordings()[name].text.splitlines():
        assert line in said or line in TAGS
