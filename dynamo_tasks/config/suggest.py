"""The tail of an error message: what was probably meant, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["suggest"]


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
