"""Tool calls and reasoning in answers, read by vLLM's own parsers.

They run in the Worker, next to the engine: what they find goes into the stream together with the text, so that
any frontend can render any part of a stream, and none of them needs vLLM. vLLM is imported when the parsers are
loaded, not before.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from dynamo_tasks.engines.parsers.choice import Cutter, ParsedChoice
from dynamo_tasks.engines.text.fields import nearest
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.engines.vllm.install import check_installed
from dynamo_tasks.engines.vllm.start import set_environment
from dynamo_tasks.errors import ConfigError, InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.protocol.tokens import TokenDelta

__all__ = ["AnswerReader", "Parsers", "check_parsers"]

_PLACES = {"tool_call_parser": "tool_parsers", "reasoning_parser": "reasoning"}
_CONSTRAINTS = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
                "guided_grammar")  # fmt: skip


def check_parsers(**chosen: str | None) -> None:
    """Refuse what :meth:`Parsers.load` would refuse, as far as that is known without importing vLLM.

    Args:
        **chosen: ``tool_call_parser`` and ``reasoning_parser``, by vLLM's names.

    Raises:
        ConfigError: vLLM is not installed, or has no such parser (names the nearest).
    """
    for setting, name in chosen.items():
        if name is None:
            continue
        check_installed()
        known = _known(_PLACES[setting])
        if name not in known:
            raise ConfigError(
                f"vLLM has no {setting.replace('_', ' ')} {name!r}; nearest: {nearest(str(name), known)!r}; "
                f"known: {', '.join(sorted(known))}",
                param=setting,
            )


@cache
def _known(package: str) -> frozenset[str]:
    """Names that a package of vLLM registers, read from its source."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    tree = ast.parse((Path(spec.submodule_search_locations[0]) / package / "__init__.py").read_bytes())
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and _is_table(node.targets)
    ]
    keys = [key for table in tables for key in table.keys]
    return frozenset(
        key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


def _is_table(targets: list[ast.expr]) -> bool:
    return any(isinstance(target, ast.Name) and target.id.endswith("_TO_REGISTER") for target in targets)


class Parsers:
    """The parsers of one model."""

    def __init__(self, api: Any, kind: Any, tokenizer: Any, card: ModelCard) -> None:
        """See :meth:`load`."""
        self._api = api
        self._kind = kind
        self._tokenizer = tokenizer
        self._model = card.name
        self._folder = card.tokenizer

    @classmethod
    def load(cls, card: ModelCard) -> Parsers:
        """Load what a model card names. Blocks, for some ten seconds if vLLM was not imported yet.

        Raises:
            ConfigError: The model has no tokenizer of its own, or not the tokens that the parsers look for.
        """
        if card.tokenizer == "bytes":
            raise ConfigError(
                f"tool_call_parser and reasoning_parser need a model with a tokenizer; {card.name!r} has none",
                param="tool_call_parser" if card.tool_call_parser else "reasoning_parser",
            )
        set_environment()
        from dynamo_tasks.engines.parsers import api  # takes ten seconds

        tokenizer = api.tokenizer_of(card.tokenizer)
        try:
            kind = api.parser_class(card.tool_call_parser, card.reasoning_parser, card.name, tokenizer)
        except TypeError as error:
            raise ConfigError(f"vLLM refuses its parsers: {error}", param="tool_call_parser") from error
        return cls(api, kind, tokenizer, card)

    def open(
        self, payload: Mapping[str, Any], written: Iterable[Any] = ()
    ) -> tuple[dict[str, Any], AnswerReader]:
        """Begin to read an answer, or go on after what was written.

        Args:
            payload: Of ``Worker.generate``, with token ids and ``chat``.
            written: What an interrupted attempt streamed.

        Returns:
            The payload for the engine (a required call becomes structured output), and the reader.

        Raises:
            InvalidRequestError: vLLM refuses the tools, or a required call meets another constraint.
        """
        chat = payload["chat"]
        try:
            request = self._api.chat_request(self._model, chat)
            wanted = self._api.adjusted(self.make(request), self._api.chat_request(self._model, chat))
        except ValueError as error:
            raise InvalidRequestError(f"tools: {error}", param="tools") from error
        rest = {name: value for name, value in payload.items() if name != "chat"}
        if "structured_outputs" in wanted and (given := [name for name in _CONSTRAINTS if name in rest]):
            raise InvalidRequestError(f"{given[0]} is not allowed together with these tools", param=given[0])
        reader = AnswerReader(self, request, payload | wanted)
        reader.replay(written)
        return rest | wanted, reader

    def make(self, request: Any) -> Any:
        """vLLM's parser for one choice."""
        return self._api.make_parser(self._kind, self._tokenizer, request)

    def choice(
        self, request: Any, prompt: list[int], *, single: bool, skip_special_tokens: bool
    ) -> ParsedChoice:
        """Begin to read one choice.

        Args:
            request: vLLM's.
            prompt: Its token ids: some templates begin the reasoning.
            single: Only the first call counts.
            skip_special_tokens: Whether the engine's text is without them.
        """
        reading = self._api.VllmReading(lambda: self.make(request), request, prompt)
        stream = load_tokenizer(self._folder).stream(skip_special_tokens=skip_special_tokens)
        cutter = None if reading.takes_many else Cutter(stream)
        return ParsedChoice(reading, cutter, single=single, withholds=reading.withholds)


class AnswerReader:
    """Reads the answer to one request, as it comes."""

    def __init__(self, parsers: Parsers, request: Any, payload: Mapping[str, Any]) -> None:
        """Read from the start.

        Args:
            parsers: Of the model.
            request: vLLM's request.
            payload: What the engine is given, with ``chat``: :func:`~dynamo_tasks.engines.text.chats.tools.chat_of`.
        """
        chat = payload["chat"]
        self._named = isinstance(chat.get("tool_choice"), dict)
        self._choices: dict[int, ParsedChoice] = {}
        self._open = partial(
            parsers.choice, request, payload["prompt_token_ids"],
            single=chat.get("parallel_tool_calls") is False,
            skip_special_tokens=payload.get("skip_special_tokens") is not False,
        )  # fmt: skip

    def replay(self, written: Iterable[Any]) -> None:
        """Read once more what an interrupted attempt streamed: its parsers died with it."""
        for delta in written:
            if isinstance(delta, TokenDelta) and delta.finish_reason is None:
                self._choice(delta.index).read(delta)

    def read(self, delta: TokenDelta) -> TokenDelta:
        """Give a delta its message; the answer ends with ``tool_calls`` where the model stopped for that.

        As in OpenAI's API, an answer whose function was named in ``tool_choice`` ends with ``stop``.
        """
        choice = self._choice(delta.index)
        delta.message = choice.read(delta)
        if delta.finish_reason == "stop" and choice.called and not self._named:
            delta.finish_reason = "tool_calls"
        return delta

    def _choice(self, index: int) -> ParsedChoice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = self._open()
        return choice
