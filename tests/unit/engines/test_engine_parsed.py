"""Gathered tokens are cut apart again; what parsers find in them is put together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.engines.parsers.choice import Cutter, ParsedChoice
from dynamo_tasks.engines.text.tokenizer import Tokenizer, load_tokenizer
from dynamo_tasks.protocol.messages import MessageDelta, ToolCallDelta
from dynamo_tasks.protocol.tokens import TokenDelta
from tests.support.answers import END, recordings, write_tokenizer

EMOJIS, CALL = recordings()["plain/emojis"], recordings()["hermes/call"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = write_tokenizer(tmp_path_factory.mktemp("recorded"))
    return load_tokenizer(str(folder))


def _cut(tokenizer: Tokenizer, ids: list[int], size: int) -> list[tuple[str, list[int]]]:
    """The pieces of ids that an engine gave so many at a time."""
    engine, cutter = tokenizer.stream(), Cutter(tokenizer.stream())
    pieces = []
    for start in range(0, len(ids), size):
        part, ended = ids[start : start + size], start + size >= len(ids)
        text = engine.push([token for token in part if token != END]) + (engine.flush() if ended else "")
        pieces += cutter.cut(text, part, ended)
    return pieces


@pytest.mark.parametrize("recording", [EMOJIS, CALL], ids=["emojis", "call"])
@pytest.mark.parametrize("size", [2, 3, 4, 7, 100])
def test_gathered_tokens_are_cut_as_they_were(tokenizer: Tokenizer, recording: Any, size: int) -> None:
    """A character of several tokens comes with its last one; an end token has no text."""
    one = _cut(tokenizer, recording.ids, 1)
    assert "".join(text for text, _ in one) == recording.text
    assert _cut(tokenizer, recording.ids, size) == one


def test_text_that_was_held_back_stays_in_one_piece(tokenizer: Tokenizer) -> None:
    cutter, ids = Cutter(tokenizer.stream()), CALL.ids[:6]
    first, then = tokenizer.decode(ids[:3]), tokenizer.decode(ids[3:])
    assert cutter.cut(first[:-1], ids[:3], False) == [(first[:-1], ids[:3])]
    assert cutter.cut(first[-1] + then, ids[3:], False) == [(first[-1] + then, ids[3:])]


class _Reading:
    """Finds a call in ``{``, keeps ``<`` back."""

    def delta(self, text: str, ids: list[int], finished: bool) -> Any:
        named = SimpleNamespace(index=0, id="1", function=SimpleNamespace(name="f", arguments=None))
        given = SimpleNamespace(index=0, id=None, function=SimpleNamespace(name=None, arguments="{}"))
        content = text.partition("<")[0]
        return SimpleNamespace(
            content=content, reasoning=None, tool_calls=[named, given] if "{" in text else []
        )

    def whole(self, text: str, ids: list[int]) -> tuple[str, str]:
        return "", text


def _choice(**more: Any) -> ParsedChoice:
    return ParsedChoice(_Reading(), None, **{"single": False, "withholds": True} | more)


def test_the_pieces_of_a_call_that_come_together_are_one_call() -> None:
    choice = _choice()
    assert choice.read(TokenDelta("{", [1])).tool_calls == [ToolCallDelta(0, "1", "f", "{}")]
    assert choice.called


def test_what_was_kept_back_for_nothing_is_said_at_the_end() -> None:
    choice = _choice()
    assert [choice.read(delta) for delta in (TokenDelta("a", [1]), TokenDelta("<b", [2]))] == [
        MessageDelta("a"), MessageDelta(),
    ]  # fmt: skip
    assert choice.read(TokenDelta("", [3], 0, "stop")) == MessageDelta("<b")
    called = _choice()
    called.read(TokenDelta("{<", [1]))
    assert called.read(TokenDelta("", [3], 0, "stop")) == MessageDelta()
