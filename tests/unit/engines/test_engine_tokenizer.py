import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines.text.byte_level import ByteTokenizer
from dynamo_tasks.engines.text.tokenizer import load_tokenizer
from dynamo_tasks.errors import ConfigError, InvalidRequestError

TEXT = "the quick brown fox · naïve café 漢字 🙂 jumps over the lazy dog"


def test_bytes_round_trip() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("é!") == [0xC3, 0xA9, 0x21]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="lone surrogate at position 1"):
        ByteTokenizer().encode("a\ud800")


@settings(deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_byte_stream_equals_decode_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    tokenizer = ByteTokenizer()
    stream, ids, places = tokenizer.stream(), list(data), sorted({0, *cuts})
    pieces = [stream.push(ids[start:end]) for start, end in zip(places, [*places[1:], len(ids)], strict=True)]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_byte_stream_holds_back_an_unfinished_character() -> None:
    stream = ByteTokenizer().stream()
    assert [stream.push([byte]) for byte in "é🙂".encode()] == ["", "é", "", "", "", "🙂"]
    assert stream.push([0xF0, 0x9F]) == ""
    assert stream.flush() == "\ufffd"


def test_no_such_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither 'bytes' nor a folder"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_files_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="pip install tokenizers"):
        load_tokenizer(str(tmp_path))
