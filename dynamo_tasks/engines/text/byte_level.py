"""Ids to text for byte-level tokenizers (GPT-2's kind: Llama 3, Qwen, DeepSeek, SmolLM, …).

Each of their tokens stands for certain bytes, whatever is beside it. So text comes from a table and a UTF-8 decoder
that waits for the rest of a character, at a tenth of what it costs to decode a window of ids again and again.
The table is that of ``tokenizers``' ``ByteLevel`` decoder: one letter of a token per byte, as GPT-2 named them; a
token with any other letter, as only added ones have, is its own UTF-8.
"""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["BytePieces", "ByteStream", "ByteTextStream", "ByteTokenizer", "longest_token"]


def _letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _letters()


class BytePieces(dict[int, bytes]):
    """The bytes that each id stands for; filled as ids come, since a vocabulary may be large.

    Args:
        rust: A tokenizer of the package ``tokenizers``.
        skip_special: Special tokens stand for nothing.
    """

    def __init__(self, rust: Any, *, skip_special: bool) -> None:
        super().__init__()
        self._token = rust.id_to_token
        added = rust.get_added_tokens_decoder().values() if skip_special else ()
        self._skipped = {token.content for token in added if token.special}

    def __missing__(self, token_id: int) -> bytes:
        token = self._token(token_id)
        piece = b"" if token is None or token in self._skipped else _piece(token)
        self[token_id] = piece
        return piece

    @staticmethod
    def fit(rust: Any) -> bool:
        """Return whether the tokenizer's decoder does byte-level decoding and nothing else."""
        return bool(rust.decoder and json.loads(rust.decoder.__getstate__())["type"] == "ByteLevel")


_SHRINKS = {"NFC": 2}
"""The factor by which a normalizer may shorten a text (characters in, over bytes out); unknown for others.
NFC makes one character of up to four, and those that it makes take two or three bytes."""


def longest_token(rust: Any) -> int:
    """The most characters of a text that one token stands for; 0 where there is no such bound.

    A byte-level tokenizer that knows every byte drops nothing, so that each character is in some token. Others may
    collapse white space, or make one unknown token of any length.
    """
    vocab = rust.get_vocab(with_added_tokens=True)
    greedy = any(token.lstrip or token.rstrip for token in rust.get_added_tokens_decoder().values())
    complete = type(rust.model).__name__ == "BPE" and vocab.keys() >= _BYTE_OF.keys()
    cuts, normalizers = _parts(rust.pre_tokenizer, "pretokenizers"), _parts(rust.normalizer, "normalizers")
    keeps = all(_keeps(cut) for cut in cuts) and any(cut["type"] == "ByteLevel" for cut in cuts)
    known = all(part["type"] in _SHRINKS for part in normalizers)
    if greedy or not complete or not keeps or not known or rust.truncation:
        return 0
    return max(map(len, vocab)) * math.prod(_SHRINKS[part["type"]] for part in normalizers)


def _parts(component: Any, plural: str) -> list[dict[str, Any]]:
    """The settings of a component of a tokenizer, each of them where it is a sequence."""
    state = json.loads(component.__getstate__()) if component else None
    return [] if state is None else state.get(plural, [state])


def _keeps(cut: dict[str, Any]) -> bool:
    """Return whether a pre-tokenizer leaves every character where it is."""
    return cut["type"] in ("ByteLevel", "Digits") or (cut["type"] == "Split" and cut["behavior"] != "Removed")


def _piece(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[letter] for letter in token])
    except KeyError:
        return token.encode()


class ByteStream:
    """UTF-8 that comes in pieces; what is not UTF-8 becomes U+FFFD."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open = b""

    def feed(self, data: bytes) -> str:
        """Take the next bytes and give the text that is complete now."""
        if not self._open and data.isascii():
            return data.decode("ascii")
        data = self._open + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._open = data[used:]
        return text

    def flush(self) -> str:
        """Give what is held back (an unfinished character), as U+FFFD; the text is over."""
        data, self._open = self._open, b""
        return data.decode("utf-8", "replace")


class ByteTextStream(ByteStream):
    """A detokenizer for one text of a byte-level tokenizer."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: BytePieces) -> None:
        super().__init__()
        self._pieces = pieces

    def push(self, ids: list[int]) -> str:
        """Take the next ids and give the text that is complete now."""
        pieces = self._pieces
        return self.feed(b"".join([pieces[token] for token in ids]))


class _Bytes(ByteStream):
    __slots__ = ()

    def push(self, ids: list[int]) -> str:
        return self.feed(bytes(ids))


class ByteTokenizer:
    """One token per byte of the UTF-8 text; ids 0..255, no special tokens."""

    vocab_size = 256
    chat_template: str | None = None
    tool_template: str | None = None
    special_tokens: dict[str, str] = {}  # noqa: RUF012 - ``Tokenizer`` declares an instance attribute

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The UTF-8 bytes of ``text``.

        Raises:
            InvalidRequestError: ``text`` holds half of a surrogate pair.
        """
        try:
            return list(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"text is not valid Unicode: lone surrogate at position {error.start}"
            ) from error

    def least_tokens(self, text: str) -> int:
        """A byte at least per character."""
        return len(text)

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD."""
        return bytes(ids).decode("utf-8", "replace")

    def names(self, ids: list[int]) -> list[str]:
        """A printable character of ASCII as itself, any other byte as ``<0x0A>``."""
        return [chr(token) if 0x20 <= token < 0x7F else f"<0x{token:02X}>" for token in ids]

    def stream(self, *, skip_special_tokens: bool = True) -> _Bytes:
        """A detokenizer for one new text."""
        return _Bytes()
