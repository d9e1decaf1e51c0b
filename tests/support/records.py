"""Records of the ledger, by the words of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from dynamo_tasks.store.ledger.fields import Field

__all__ = ["by_word", "field"]

_Value = TypeVar("_Value")
_WORDS = {one.value: one.name.lower() for one in Field}


def by_word(record: Mapping[str, _Value]) -> dict[str, _Value]:
    """A record as Redis has it, with ``state`` for ``Field.STATE``; what only a newer release knows keeps its name."""
    return {_WORDS.get(name, name): value for name, value in record.items()}


def field(word: str) -> Field:
    """The field of a word."""
    return Field[word.upper()]
