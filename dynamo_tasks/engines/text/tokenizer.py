"""Tokenizers: text to ids, ids to text, and ids to text bit by bit."""

from __future__ import annotations

import importlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from dynamo_tasks.engines.text.byte_level import BytePieces, ByteTextStream, ByteTokenizer, longest_token
from dynamo_tasks.engines.text.threads import INLINE
from dynamo_tasks.errors import ConfigError

__all__ = ["Detokenizer", "FileTokenizer", "Tokenizer", "load_tokenizer"]

_UNFINISHED = "\ufffd"
_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_MOST_HELD = 16
"""Tokens after which a text that still ends in U+FFFD is taken for broken, not for unfinished."""


class Detokenizer(Protocol):
    """Turns ids into text as they come. How the ids are cut into pushes does not change the text."""

    def push(self, ids: list[int]) -> str:
        """Take the next ids and give the text that is complete now."""
        ...

    def flush(self) -> str:
        """Give what is held back (an unfinished character), as U+FFFD; the text is over."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        vocab_size: Ids go from 0 to below it.
        chat_template: Jinja source that came with the tokenizer, if any.
        tool_template: One of its own for requests with tools, if any.
        special_tokens: Variables of the template such as ``bos_token``.
    """

    vocab_size: int
    chat_template: str | None
    tool_template: str | None
    special_tokens: dict[str, str]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of ``text``; ``add_special_tokens`` puts, for example, a BOS in front."""
        ...

    def least_tokens(self, text: str) -> int:
        """A number of tokens that ``text`` surely has or exceeds, found without tokenizing; 0 = not known."""
        ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, without special tokens unless they are asked for."""
        ...

    def names(self, ids: list[int]) -> list[str]:
        """The tokens as the vocabulary names them; for people."""
        ...

    def stream(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A detokenizer for one new text."""
        ...


class _FileStream:
    """Decodes a sliding window, since a token's text can depend on its left neighbours.

    ``_shown`` is the text of the window's first ``_read`` ids, which was given out before.
    """

    __slots__ = ("_ids", "_read", "_shown", "_skip_special", "_tokenizer")

    def __init__(self, tokenizer: FileTokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._ids: list[int] = []
        self._read = 0
        self._shown = ""

    def push(self, ids: list[int]) -> str:
        """All at once; one by one where some are parts of characters: what broken ones give depends on the cut."""
        if len(ids) < 3:
            return "".join([self._one(token) for token in ids])
        text, last = self._text([*self._ids, *ids]), self._text(ids[-1:])
        if _UNFINISHED in text or _UNFINISHED in last or not last:
            return "".join([self._one(token) for token in ids])
        new = text[len(self._shown) :]
        self._ids, self._read, self._shown = ids[-1:], 1, last
        return new

    def _one(self, token: int) -> str:
        self._ids.append(token)
        text = self._text(self._ids)
        if text.endswith(_UNFINISHED) and len(self._ids) - self._read < _MOST_HELD:
            return ""
        return self._slide(text)

    def _slide(self, text: str) -> str:
        new = text[len(self._shown) :]
        # What shows nothing, as special tokens do, is no neighbour: the next token would be taken for the first one.
        if new or len(self._ids) > _MOST_HELD:
            self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        self._shown = self._text(self._ids)
        return new

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special)

    def flush(self) -> str:
        return self._slide(self._text(self._ids)) if len(self._ids) > self._read else ""


class FileTokenizer:
    """A tokenizer read from ``tokenizer.json`` and, beside it, ``tokenizer_config.json`` and
    ``chat_template.jinja`` where they exist."""

    def __init__(self, path: Path) -> None:
        """Read the files.

        Args:
            path: ``tokenizer.json``, or the folder that holds it.

        Raises:
            ConfigError: no such file, not readable, or the package ``tokenizers`` is missing.
        """
        file = path if path.is_file() else path / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(
                f"tokenizer {str(path)!r} is neither 'bytes' nor a folder with a tokenizer.json"
            )
        self._rust = _read_rust(file)
        self.vocab_size = int(self._rust.get_vocab_size(with_added_tokens=True))
        self._longest = longest_token(self._rust)
        self._pieces: dict[bool, BytePieces] = {}
        if BytePieces.fit(self._rust):
            self._pieces = {skip: BytePieces(self._rust, skip_special=skip) for skip in (False, True)}
        config = _read_config(file.parent / "tokenizer_config.json")
        self.special_tokens = {
            name: text for name in _SPECIAL_TOKENS if (text := _token_text(config.get(name)))
        }
        templates = _chat_templates(file.parent, config)
        self.chat_template = templates.get("default")
        self.tool_template = templates.get("tool_use")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of ``text``."""
        if len(text) > INLINE:  # as a batch, in which it lets other threads run
            (found,) = self._rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return list(found.ids)
        return list(self._rust.encode(text, add_special_tokens=add_special_tokens).ids)

    def least_tokens(self, text: str) -> int:
        """A lower bound of the tokens of a text: their number if all were the longest one."""
        return -(-len(text) // self._longest) if self._longest else 0

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, without special tokens unless they are asked for."""
        if len(ids) > INLINE:
            return str(self._rust.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0])
        return str(self._rust.decode(ids, skip_special_tokens=skip_special_tokens))

    def names(self, ids: list[int]) -> list[str]:
        """The tokens as the vocabulary names them; an id that it does not have is empty."""
        return [self._rust.id_to_token(token) or "" for token in ids]

    def stream(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A detokenizer for one new text."""
        pieces = self._pieces.get(skip_special_tokens)
        return _FileStream(self, skip_special_tokens) if pieces is None else ByteTextStream(pieces)


def _read_rust(file: Path) -> Any:
    try:
        package = importlib.import_module("tokenizers")  # optional: "bytes" needs no package
    except ImportError as error:
        raise ConfigError(
            f"tokenizer {str(file)!r} needs the package 'tokenizers': pip install tokenizers"
        ) from error
    try:
        return package.Tokenizer.from_buffer(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{str(file)!r} is not a tokenizer file: {error}") from error


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{str(file)!r} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{str(file)!r} must hold a JSON object")
    return config


def _token_text(value: object) -> str | None:
    """A special token is written as its text, or as an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates by name; one without a name is the default one."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text()}
    given = config.get("chat_template")
    if isinstance(given, list):
        given = {item["name"]: item["template"] for item in given if isinstance(item, dict)}
    if isinstance(given, dict):
        return given
    return {"default": given} if isinstance(given, str) else {}


@lru_cache(maxsize=16)
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that a model card names; read once per process.

    Args:
        name: ``"bytes"``, or a path to tokenizer files.

    Raises:
        ConfigError: it cannot be loaded, and why.
    """
    return ByteTokenizer() if name == "bytes" else FileTokenizer(Path(name))
