"""All that is used of vLLM's parsers; the only module that imports them. It takes some ten seconds to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import ParserManager
from vllm.parser.engine.parser_engine import ParserEngine
from vllm.tokenizers import get_tokenizer

__all__ = ["VllmReading", "adjusted", "chat_request", "make_parser", "parser_class", "tokenizer_of"]


def tokenizer_of(folder: str) -> Any:
    """The tokenizer as vLLM's parsers want it."""
    return get_tokenizer(folder)


def parser_class(tool_call: str | None, reasoning: str | None, model: str, tokenizer: Any) -> Any:
    """The class of one choice's parser.

    Raises:
        TypeError: No such parser, or not with this tokenizer.
    """
    return ParserManager.get_parser(
        tool_parser_name=tool_call,
        reasoning_parser_name=reasoning,
        enable_auto_tools=tool_call is not None,
        model_name=model,
        tokenizer=tokenizer,
    )


def chat_request(model: str, chat: Mapping[str, Any]) -> ChatCompletionRequest:
    """The request as parsers want it; messages are no concern of theirs.

    Raises:
        ValueError: vLLM refuses the tools.
    """
    return ChatCompletionRequest(model=model, messages=[{"role": "user", "content": ""}], **chat)


def make_parser(kind: Any, tokenizer: Any, request: ChatCompletionRequest) -> Any:
    """The parser of one choice."""
    kwargs = request.chat_template_kwargs or {}
    return kind(tokenizer, request.tools, chat_template_kwargs=kwargs)


class VllmReading:
    """Reads one choice.

    Attributes:
        takes_many: The parser takes any number of tokens at once. Those on vLLM's parser engine do; the older
            ones were written for one.
        withholds: It keeps back what may be a call.
    """

    def __init__(self, make: Callable[[], Any], request: ChatCompletionRequest, prompt: list[int]) -> None:
        """Read from the start.

        Args:
            make: Makes a parser.
            request: See :func:`chat_request`.
            prompt: Token ids.
        """
        self._make = make
        self._parser = make()
        self._request = request
        self._prompt = prompt
        self.takes_many = isinstance(self._parser, ParserEngine) or bool(self._parser._engine_based)
        self.withholds = bool(request.tools)

    def delta(self, text: str, ids: list[int], finished: bool) -> Any:
        """Parse the next piece; return vLLM's delta message, or ``None``."""
        return self._parser.parse_delta(
            text, ids, self._request, prompt_token_ids=self._prompt, finished=finished
        )

    def whole(self, text: str, ids: list[int]) -> tuple[str, str]:
        """Reasoning and content of a whole answer, read as vLLM's server reads one that is not streamed."""
        reasoning, content, _ = self._make().parse(
            text, self._request, enable_auto_tools=True, model_output_token_ids=ids
        )
        return reasoning or "", content or ""


def adjusted(parser: Any, request: ChatCompletionRequest) -> dict[str, Any]:
    """Fields of the payload of ``Worker.generate`` by which a parser asks something of the engine.

    Raises:
        ValueError: The tools cannot be had as asked.
    """
    changed = parser.adjust_request(request)
    # None, which is vLLM's default from 0.33 on, is no wish.
    out: dict[str, Any] = {"skip_special_tokens": False} if changed.skip_special_tokens is False else {}
    wanted = changed.structured_outputs
    if wanted is not None:
        kinds = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
        found = {name: getattr(wanted, name) for name in kinds}
        out["structured_outputs"] = {name: value for name, value in found.items() if value is not None}
    return out
