"""Images of a chat, taken out of its messages: what stays is a part that says where each of them was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dynamo_tasks.engines.images.data_url import decode_base64, decode_data_url, is_data_url
from dynamo_tasks.engines.images.header import read_header
from dynamo_tasks.engines.images.image_limits import MOST, ImageLimits, ImageSum
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.chat_messages import IMAGE_PART

__all__ = [
    "IMAGE",
    "image_places",
    "mark_images",
    "read_images",
    "remote_images",
    "take_images",
    "with_fetched",
]

IMAGE = "image"
"""Type of a part that stands for an image that was taken out."""
WRITTEN = "written"
"""Field of a part that another API's client has sent: its place there, and the field in it that has the image."""
_LONGEST_PLACE = 64
_FETCHED = "data"
"""Field of an ``image_url`` with the bytes that were fetched for it; JSON has no bytes, so it is never a client's."""


def take_images(payload: Mapping[str, Any], limits: ImageLimits = MOST) -> Mapping[str, Any]:
    """A payload whose images are bytes in ``images``; itself where it has none.

    Args:
        payload: Of ``Worker.generate``, for a model that takes images. Its messages may hold ``image_url`` parts; or
            parts of type ``image``, one for each of its ``images``.
        limits: Of the images.

    Raises:
        InvalidRequestError: An image is not valid, too large, one too many, or not there; ``param`` says which.
    """
    found = list(_content_parts(payload.get("messages")))
    if payload.get("images") is not None:
        _check_count(payload, found)
        return {**payload, "images": read_images(payload["images"], limits)}
    wanted = [(at, part) for at, part in found if part.get("type") in (IMAGE_PART, IMAGE)]
    if not wanted:
        return payload
    total = ImageSum(limits)
    images = [_image(part, at, total) for at, part in wanted]
    return {**payload, "messages": [_replaced(message) for message in payload["messages"]], "images": images}


def mark_images(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """A payload whose images are counted and not read, as its prompt's tokens need it."""
    images = sum(part.get("type") == IMAGE_PART for _, part in _content_parts(payload.get("messages")))
    if not images:
        return payload
    messages = [_replaced(message) for message in payload["messages"]]
    return {**payload, "messages": messages, "images": [b""] * images}


def read_images(value: object, limits: ImageLimits = MOST) -> list[bytes]:
    """Images that were taken out before: bytes, or their base64.

    Raises:
        InvalidRequestError: Something else, too large or too many.
    """
    if not isinstance(value, list | tuple):
        raise InvalidRequestError("images must be a list of images in base64", param="images")
    total = ImageSum(limits)
    return [
        _read(f"images[{index}]", total, lambda most, item=item: _bytes(item, most))  # type: ignore[misc]
        for index, item in enumerate(value)
    ]


def _read(at: str, total: ImageSum, load: Callable[[int], bytes]) -> bytes:
    """Read one image within the bounds of all; ``load`` gives its bytes, or a ValueError."""
    most = total.next(at)
    try:
        data = load(most)
        header = read_header(data)
    except ValueError as error:
        raise InvalidRequestError(f"{at} {error}", param=at) from None
    total.add(data, header, at)
    return data


def _bytes(item: object, most: int) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str):
        raise ValueError(f"must be base64, not {type(item).__name__}")
    return decode_base64(item, most)


def _content_parts(messages: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Parts of messages, each with its place; what has another form is passed over: the template's check says so."""
    if not isinstance(messages, list | tuple):
        return
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list | tuple):
            for place, part in enumerate(content):
                if isinstance(part, Mapping):
                    yield f"messages[{index}].content[{place}]", part


def _written(part: Mapping[str, Any], at: str) -> tuple[str, str]:
    """The place of an image, and its field there, as the client knows them."""
    match part.get(WRITTEN):
        case [str(place), str(field)] if len(place) + len(field) <= _LONGEST_PLACE:
            return place, field
    return at, f"{IMAGE_PART}.url"


def _url_of(part: Mapping[str, Any]) -> tuple[str | None, bytes | None]:
    """The URL of an ``image_url`` part, and what was fetched for it."""
    value = part.get(IMAGE_PART)
    if isinstance(value, Mapping):
        url, fetched = value.get("url"), value.get(_FETCHED)
    else:
        url, fetched = value, None
    return url if isinstance(url, str) else None, fetched if isinstance(fetched, bytes) else None


def image_places(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The places of images in the messages of a checked chat: ``messages[0].content[1]``."""
    return [_written(part, at)[0] for at, part in _content_parts(messages) if part.get("type") == IMAGE_PART]


def remote_images(messages: object) -> dict[str, str]:
    """Images that are to be fetched: URL → field, the first that has it."""
    found: dict[str, str] = {}
    for at, part in _content_parts(messages):
        url, fetched = _url_of(part) if part.get("type") == IMAGE_PART else (None, None)
        if url and fetched is None and not is_data_url(url):
            found.setdefault(url, ".".join(_written(part, at)))
    return found


def with_fetched(messages: Sequence[Any], fetched: Mapping[str, bytes]) -> list[Any]:
    """Messages that have what was fetched, for :func:`take_images`.

    Args:
        messages: A client's; they stay as they are.
        fetched: URL → bytes.
    """
    return [_filled(message, fetched) for message in messages]


def _filled(message: Any, fetched: Mapping[str, bytes]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return message
    return {**message, "content": [_filled_part(part, fetched) for part in content]}


def _filled_part(part: Any, fetched: Mapping[str, bytes]) -> Any:
    url = _url_of(part)[0] if isinstance(part, Mapping) and part.get("type") == IMAGE_PART else None
    if url is None or url not in fetched:
        return part
    return {**part, IMAGE_PART: {"url": url, _FETCHED: fetched[url]}}


def _image(part: Mapping[str, Any], at: str, total: ImageSum) -> bytes:
    if part["type"] == IMAGE:
        raise InvalidRequestError(
            f"{at}.type: 'image' stands for one of the payload's images, of which there are none; send 'image_url'",
            param=f"{at}.type",
        )
    return _read(".".join(_written(part, at)), total, lambda most: _data(part, most))


def _data(part: Mapping[str, Any], most: int) -> bytes:
    url, fetched = _url_of(part)
    if fetched is not None:
        return fetched
    if not url:
        raise ValueError("is missing; it must be a URL")
    if is_data_url(url):
        return decode_data_url(url, most)
    raise ValueError("must be a data: URL (data:image/png;base64,…); other URLs are not fetched here")


def _replaced(message: Any) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return message
    return {**message, "content": [_marked(part) for part in content]}


def _marked(part: Any) -> Any:
    return {"type": IMAGE} if isinstance(part, Mapping) and part.get("type") == IMAGE_PART else part


def _check_count(payload: Mapping[str, Any], found: list[tuple[str, Mapping[str, Any]]]) -> None:
    """As many places as images; an ``image_url`` beside them would have no order among them."""
    for at, part in found:
        if part.get("type") == IMAGE_PART:
            raise InvalidRequestError(
                f"{at}.type: 'image_url' is not allowed together with images", param=f"{at}.type"
            )
    places = sum(part.get("type") == IMAGE for _, part in found)
    images = payload["images"]
    if payload.get("messages") is not None and isinstance(images, list | tuple) and places != len(images):
        raise InvalidRequestError(
            f"images: {len(images)} are given, and the messages have {places} parts of type 'image'",
            param="images",
        )
