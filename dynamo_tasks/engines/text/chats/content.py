"""Messages with images, as a model's template takes them.

Some templates write the parts of a message one by one, and know what stands for an image; others want one text. Which
it is, a probe shows: a message is rendered both ways.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from dynamo_tasks.engines.images.messages import IMAGE
from dynamo_tasks.engines.text.chats.messages import Parts, check_part
from dynamo_tasks.engines.text.tokenizer import Tokenizer
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["check_placeholders", "place_images", "written_for_images"]

_MARK = "probe0of0a0text"
_NUMBER = "{n}"
"""In the placeholder of a model card: which image of the request it is, from 1."""


class _Form(Struct, frozen=True):
    """The contents that a template takes.

    Attributes:
        texts: One text.
        parts: A list of parts, images among them.
        placeholder: What it writes for an image.
    """

    texts: bool
    parts: bool
    placeholder: str = ""


def place_images(messages: object, template: str | None, placeholder: str | None) -> object:
    """Messages whose contents the template takes; what is not valid stays as it is, for its check.

    Args:
        messages: Their images were taken out: a part of type ``image`` stands for each.
        template: Jinja source; ``None`` = :data:`~dynamo_tasks.engines.text.chats.template.DEFAULT_TEMPLATE`.
        placeholder: What stands for an image in a text, as the model's card has it.
    """
    if not isinstance(messages, list | tuple):
        return messages
    form, number = _form(template or None), 0
    placed: list[Any] = []
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str) and not form.texts:
            placed.append({**message, "content": Parts([{"type": "text", "text": content}])})
        elif isinstance(content, list | tuple) and (_has_image(content) or not form.texts):
            number += sum(_is_image(part) for part in content)
            shaped = _shaped(content, f"messages[{index}].content", form, placeholder, number)
            placed.append({**message, "content": shaped})
        else:
            placed.append(message)
    return placed


def _shaped(
    content: Sequence[Any], at: str, form: _Form, placeholder: str | None, number: int
) -> str | Parts:
    """One content; ``number``: of its last image."""
    parts = Parts(
        {"type": IMAGE} if _is_image(part) else {"type": "text", "text": check_part(part, f"{at}[{place}]")}
        for place, part in enumerate(content)
    )
    if form.parts:
        return parts
    # As vLLM does it: what stands for the images of a message comes first.
    images = sum(part["type"] == IMAGE for part in parts)
    marks = [
        placeholder.replace(_NUMBER, str(number - images + 1 + i)) if placeholder else ""
        for i in range(images)
    ]
    return "\n".join([*filter(None, marks), *(part["text"] for part in parts if part["type"] != IMAGE)])


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == IMAGE


def _has_image(content: Sequence[Any]) -> bool:
    return any(_is_image(part) for part in content)


def check_placeholders(
    ids: list[int], images: int, template: str | None, placeholder: str | None, tokenizer: Tokenizer
) -> None:
    """Refuse a prompt that has not one placeholder for each image: a text may hold one, too.

    Args:
        ids: Of the prompt.
        images: Their number.
        template: See :func:`place_images`.
        placeholder: Likewise.
        tokenizer: Of the model.

    Raises:
        InvalidRequestError: It has more of them, or fewer.
    """
    written = written_for_images(template, placeholder)
    for token, times in _special(written, tokenizer).items():
        found = ids.count(token)
        if found != times * images:
            text = tokenizer.decode([token], skip_special_tokens=False)
            why = (
                f"a text holds {text!r}, which stands for an image"
                if found > times * images
                else "the chat template leaves images out where they stand"
            )
            raise InvalidRequestError(f"messages: {why}", param="messages")


def written_for_images(template: str | None, placeholder: str | None = None) -> str:
    """The text that stands for an image in a prompt; ``placeholder``: that of the model's card."""
    form = _form(template or None)
    return form.placeholder if form.parts else placeholder or ""


def _special(written: str, tokenizer: Tokenizer) -> Counter[int]:
    """Special tokens of a placeholder: nothing else can become one of them."""
    ids = tokenizer.encode(written, add_special_tokens=False) if written else []
    return Counter(token for token in ids if not tokenizer.decode([token], skip_special_tokens=True))


@lru_cache(maxsize=64)
def _form(template: str | None) -> _Form:
    text = {"type": "text", "text": _MARK}
    plain, bare = _tried(template, _MARK), _tried(template, Parts([text]))
    both = _tried(template, Parts([{"type": IMAGE}, text]))
    # One that knows no parts writes the list as Python shows it, or takes no notice of the image.
    if _MARK not in both or "'type'" in both or '"type"' in both or both == bare:
        return _Form(texts=True, parts=False)
    start = _alike(bare, both)
    rest = _alike(bare[start:][::-1], both[start:][::-1])
    return _Form(texts=_MARK in plain, parts=True, placeholder=both[start : len(both) - rest])


def _alike(one: str, other: str) -> int:
    """Characters that two texts begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _tried(template: str | None, content: str | Parts) -> str:
    from dynamo_tasks.engines.text.chats.template import render_chat  # Jinja is slow to import

    try:
        return render_chat([{"role": "user", "content": content}], template)
    except InvalidRequestError:
        return ""
