"""Recorded answers of a real model, and a tokenizer that has its pieces.

:mod:`tests.support.record` writes ``recordings/FORMAT.json``. A test needs no model: ids and pieces of the vocabulary
are in the recordings, so that a text is cut where the model itself cut it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dynamo_tasks.engines.text.tokenizer import Tokenizer

__all__ = ["END", "TAGS", "TOOLS", "Recording", "ids_for", "recordings", "write_tokenizer"]

FOLDER = Path(__file__).with_name("recordings")
END = 2
"""The model's end of text; it has no text of its own, and is the last id of an answer that ended by itself."""

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""What is one token in the vocabulary of models that were trained for it."""

_NAMES = ("get_weather", "get_time", "send_mail")
TOOLS = [{"type": "function", "function": {"name": n, "parameters": {"type": "object"}}} for n in _NAMES]
"""The functions that the model was told of."""

_SIZE = 49_152
"""Of the model's vocabulary; behind it are ids of our own."""
_PYTHON_TAG = _SIZE + 256
_SPECIAL = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": END, "<|python_tag|>": _PYTHON_TAG}
"""Of the model, and Llama's: its parser looks for it, though no answer needs it."""
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Recording(NamedTuple):
    """What the model wrote.

    Attributes:
        name: ``FORMAT/NAME``.
        text: Without the end of text.
        finish_reason: ``stop`` or ``length``.
        ids: Its tokens.
        pieces: Their entries in the vocabulary, in which a character stands for each byte.
    """

    name: str
    text: str
    finish_reason: str
    ids: list[int]
    pieces: list[str]


@cache
def recordings() -> dict[str, Recording]:
    """All of them by name."""
    found = [
        Recording(f"{content['format']}/{a['name']}", a["text"], a["finish_reason"], a["ids"], a["pieces"])
        for content in _files()
        for a in content["answers"]
    ]
    return {recording.name: recording for recording in found}


def _files() -> list[dict[str, Any]]:
    return [json.loads(file.read_bytes()) for file in sorted(FOLDER.glob("*.json"))]


@cache
def _alphabet() -> dict[int, str]:
    """GPT-2's characters for bytes: themselves where they can be seen, else those from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(0x100) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(0x100 + at) for at, byte in enumerate(unseen)}


@cache
def _vocabulary() -> dict[str, int]:
    """The pieces of all recordings, and the bytes, of which any prompt can be made.

    What else the model has is left blank.
    """
    found = {piece: number for content in _files() for piece, number in content["looked_for"].items()}
    for recording in recordings().values():
        found |= dict(zip(recording.pieces, recording.ids, strict=True))
    for byte, piece in _alphabet().items():
        found.setdefault(piece, _SIZE + byte)
    blank = set(range(_SIZE)).difference(found.values())
    return found | {f"<blank {number}>": number for number in blank} | _SPECIAL


def write_tokenizer(folder: Path, *, tags: Iterable[str] = ()) -> Path:
    """Write what is needed to serve recordings.

    Args:
        folder: Where; made if it does not exist.
        tags: Are one token each, as in the vocabulary of models that were trained for them.

    Returns:
        ``folder``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    added = {tag: _PYTHON_TAG + 1 + at for at, tag in enumerate(tags)}
    tokenizer = Tokenizer(models.BPE(_vocabulary() | added, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "clean_up_tokenization_spaces": False, "chat_template": _TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    # Without it vLLM looks again after two seconds.
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def ids_for(recording: Recording, tokenizer: Tokenizer) -> list[int]:
    """The recorded ids; tags that are one token for this tokenizer are so in the answer, all else is as it was."""
    encoded = {tag: tokenizer.encode(tag, add_special_tokens=False) for tag in TAGS}
    tags = {tag.encode(): ids[0] for tag, ids in encoded.items() if len(ids) == 1}
    return _retagged(recording, tags) if tags else recording.ids


def _retagged(recording: Recording, tags: Mapping[bytes, int]) -> list[int]:
    vocabulary, alphabet = _vocabulary(), _alphabet()
    bytes_of = {piece: bytes([byte]) for byte, piece in alphabet.items()}
    parts = [
        b"" if number == END else b"".join(bytes_of[char] for char in piece)
        for number, piece in zip(recording.ids, recording.pieces, strict=True)
    ]
    whole = b"".join(parts)
    found = list(re.finditer(b"|".join(map(re.escape, tags)), whole))
    starts = {match.start(): tags[match.group()] for match in found}
    covered = {at for match in found for at in range(*match.span())}
    out: list[int] = []
    end = 0
    for number, part in zip(recording.ids, parts, strict=True):
        places, end = range(end, end + len(part)), end + len(part)
        if covered.isdisjoint(places):
            out.append(number)
            continue
        # A token that has a tag's beginning or end and other text, too: the latter byte by byte.
        for at in places:
            if at in starts:
                out.append(starts[at])
            elif at not in covered:
                out.append(vocabulary[alphabet[whole[at]]])
    return out
