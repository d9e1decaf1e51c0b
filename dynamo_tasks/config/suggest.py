"""The tail of an error message: what was probably meant, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["is_slip", "suggest"]


def suggest(name: str, known: Iterable[str], *, label: str = "known") -> str:
    """Name the nearest known word and list them all.

    Args:
        name: What was given.
        known: What is allowed.
        label: How the list is introduced.

    Returns:
        Text to append, e.g. ``"; did you mean 'model'? (known: engine, model)"``.
    """
    from difflib import get_close_matches  # only on the way to an error: keeps the import of the sdk light

    words = sorted(set(known))
    if not words:
        return f" ({label}: none)"
    by_lower = {word.lower(): word for word in words}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else ""
    return f"{hint} ({label}: {', '.join(words)})"


_SHORT = 4
"""Letters of words that are too short for a slip to be distinguished from another word."""


def is_slip(name: str, known: Iterable[str]) -> bool:
    """Return whether a name is a known one with one letter too many, missing, wrong, or swapped with the next.

    So is one with other capitals or underscores: ``service_args`` for ``ServiceArgs``. Not so where only the last
    letter or a digit is another one: ``top_k`` and ``top_p``, ``layer1`` and ``layer2``.
    """
    return any(_is_slip(name.replace("-", "_"), word) for word in known)


def _is_slip(name: str, word: str) -> bool:
    if _letters(name) == _letters(word):
        return name != word
    if min(len(name), len(word)) < _SHORT or abs(len(name) - len(word)) > 1:
        return False
    start = next(
        (n for n, (a, b) in enumerate(zip(name, word, strict=False)) if a != b), min(len(name), len(word))
    )
    rest, other = name[start:], word[start:]
    if len(rest) != len(other):  # one letter too many, or missing
        return rest[1:] == other or rest == other[1:]
    if rest[:2] == other[1::-1] and rest[2:] == other[2:]:
        return True
    return rest[1:] == other[1:] != "" and not (rest[0].isdigit() or other[0].isdigit())


def _letters(name: str) -> str:
    return name.replace("_", "").lower()
