"""Checks of values against the types that a service declares."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.config.layers import Origin
from dynamo_tasks.config.records import UnknownFieldError, build_record, is_model, is_record, placed
from dynamo_tasks.config.table import mask
from dynamo_tasks.errors import ConfigError

__all__ = ["as_gpus", "as_number", "as_port", "as_string", "check_type", "type_of"]


def type_of(annotation: Any, default: Any) -> Any:
    """The type that a value must have: the annotation, else the default's type; ``None`` says nothing."""
    if annotation is not None and not (annotation is Any and is_record(type(default))):
        return annotation
    return Any if default is None else type(default)


def check_type(key: str, value: Any, expected: Any, origin: Origin) -> Any:
    """Return ``value`` as ``expected``.

    An ``int`` is taken for a ``float``. Of a flag or a variable, a ``str`` takes the text as typed, and a ``bool`` 0
    and 1. Nothing else is bent.

    Args:
        key: Dotted, for the message.
        value: As the source gave it.
        expected: Anything that msgspec converts to: int, ``list[str]``, ``str | None``, a dataclass, …
        origin: Where it was written.

    Raises:
        ConfigError: names the origin, the key, the type and the value.
    """
    try:
        value = placed(value, expected, key)
    except UnknownFieldError as exc:
        raise ConfigError(f"{origin.where}: {exc}") from None
    problem = ""
    for candidate in (value,) if origin.text is None else (value, origin.text):
        try:
            return msgspec.convert(candidate, expected, strict=candidate is value, dec_hook=_from_text)
        except msgspec.ValidationError as exc:
            # people wrote the first one; the text is only a second try
            problem = problem or str(exc)
        except TypeError:
            # an annotation that cannot be checked, such as a union of two custom classes
            return value
    text, _, where = problem.partition(" - at `$")
    key += where.rstrip("`")
    given = f"{mask(key, value)!r} ({type(value).__name__})"
    # what is wrong within a record is more than that it is none
    why = f": {text}" if isinstance(value, dict) else ""
    raise ConfigError(f"{origin.where}: {key} must be {_name(expected)}, not {given}{why}")


def _from_text(expected: type, value: Any) -> Any:
    """Build types that msgspec does not know: pydantic models, and from text others, such as ``Path``."""
    if is_model(expected):
        return build_record(expected, value)
    if isinstance(value, str):
        return expected(value)
    raise ValueError(f"Expected `str`, got `{type(value).__name__}`")


def _name(expected: Any) -> str:
    return expected.__name__ if type(expected) is type else str(expected).replace("typing.", "")


def _fail(key: str, value: Any, allowed: str, origin: Origin) -> ConfigError:
    return ConfigError(f"{origin.where}: {key} must be {allowed}, not {mask(key, value)!r}")


def as_number(
    key: str, value: Any, origin: Origin, *, least: float, whole: bool = True, above: bool = False
) -> Any:
    """Return a number that is at least (or, with ``above``, above) ``least``.

    Raises:
        ConfigError: names the origin, the key and what is allowed.
    """
    allowed = f"{'a whole' if whole else 'a'} number {'above' if above else 'of at least'} {least:g}"
    number = value
    if isinstance(value, str) and not whole:
        try:
            number = float(value)
        except ValueError:
            raise _fail(key, value, allowed, origin) from None
    if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
        raise _fail(key, value, allowed, origin)
    # the negation refuses NaN too
    if not (number > least if above else number >= least) or number == float("inf"):
        raise _fail(key, value, allowed, origin)
    return number


def as_gpus(key: str, value: Any, origin: Origin) -> int | float:
    """Return a number of GPUs: whole, or a share below 1.

    Raises:
        ConfigError: names the origin and what is allowed.
    """
    number: float = as_number(key, value, origin, least=0, whole=False)
    if number > 1 and number != int(number):
        raise _fail(key, value, "a whole number, or a share below 1", origin)
    return int(number) if number == int(number) else number


def as_port(key: str, value: Any, origin: Origin) -> int:
    """Return a TCP port; 0 = any free one.

    Raises:
        ConfigError: names the origin and what is allowed.
    """
    number: int = as_number(key, value, origin, least=0)
    if number > 65535:
        raise _fail(key, value, "a port of at most 65535", origin)
    return number


def as_string(key: str, value: Any, origin: Origin) -> str:
    """Return a scalar as text, as typed where it was typed (``cpu: 10`` is ``"10"``).

    Raises:
        ConfigError: it is a list, a mapping or nothing.
    """
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return origin.text or str(value)
    if isinstance(value, bool):
        return origin.text or str(value).lower()
    raise _fail(key, value, "text or a number", origin)
