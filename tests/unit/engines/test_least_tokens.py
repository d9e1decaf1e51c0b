"""What is known of a text's tokens before it is tokenized: never more than there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines.text.byte_level import ByteTokenizer
from dynamo_tasks.engines.text.tokenizer import FileTokenizer
from tests.support.own_engine import make_tokenizer

tokenizers = pytest.importorskip("tokenizers")
WORDS = "the quick brown fox — naïve café ǖ ά 漢字 각 🙂 " * 40
# What NFC puts together: Latin, Greek with up to three marks, Hangul.
LETTERS = ["a", "u", "̈", "̄", "α", "̓", "̀", "ͅ", "ᄀ", "ᅡ", "ᆨ", "｡", "🙂", "\n"]


def _tokenizer(folder: Path, change: Any = None, normalizer: Any = None) -> FileTokenizer:
    make_tokenizer(folder, WORDS, size=400, normalizer=normalizer)
    if change is not None:
        rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        change(rust)
        rust.save(str(folder / "tokenizer.json"))
    return FileTokenizer(folder)


@pytest.fixture(scope="module", params=["none", "NFC"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    normalizer = tokenizers.normalizers.NFC() if request.param == "NFC" else None
    return _tokenizer(tmp_path_factory.mktemp(request.param), normalizer=normalizer)


@settings(deadline=None, max_examples=200)
@given(
    st.text(alphabet=LETTERS, max_size=60)
    | st.text(max_size=40)
    | st.sampled_from([WORDS, "the " * 50, " " * 99])
)
def test_it_is_never_more_than_there_are(tokenizer: FileTokenizer, text: str) -> None:
    assert tokenizer.least_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False))
    assert ByteTokenizer().least_tokens(text) <= len(text.encode("utf-8", "replace"))


def test_it_says_something(tokenizer: FileTokenizer) -> None:
    assert tokenizer.least_tokens(WORDS * 100) > 100


def _removing(rust: Any) -> None:
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex("a"), "removed")
    rust.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([cut, rust.pre_tokenizer])


def _lower(rust: Any) -> None:
    rust.normalizer = tokenizers.normalizers.Strip()


def _greedy(rust: Any) -> None:
    rust.add_special_tokens([tokenizers.AddedToken("<x>", rstrip=True)])


def _truncating(rust: Any) -> None:
    rust.enable_truncation(16)


@pytest.mark.parametrize("change", [_removing, _lower, _greedy, _truncating])
def test_where_text_may_get_lost_nothing_is_known(tmp_path: Path, change: Any) -> None:
    assert _tokenizer(tmp_path, change).least_tokens("a" * 1000) == 0


def test_long_texts_are_the_same_tokens(tmp_path: Path) -> None:
    text, tokenizer = WORDS * 10, _tokenizer(tmp_path)
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    whole = tokenizer.encode(text)
    assert tokenizer.decode(whole) == rust.decode(whole)
    assert whole == rust.encode(text).ids
