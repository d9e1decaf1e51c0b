"""Images of a request: read from hostile text, measured before anything decodes them, and counted."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_tasks.engines.images.data_url import decode_base64, decode_data_url
from dynamo_tasks.engines.images.header import ImageHeader, read_header
from dynamo_tasks.engines.images.image_limits import TOTAL_BYTES, ImageLimits
from dynamo_tasks.engines.images.messages import read_images, remote_images, take_images, with_fetched
from dynamo_tasks.errors import InvalidRequestError
from tests.support.pictures import data_url, gif, image_part, jpeg, picture, png, text_part, webp

EXIF = b"\xff\xe1\xff\xff" + bytes(0xFFFD)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (picture(1, width=24, height=16), ("image/png", 24, 16)),
        (jpeg(640, 480), ("image/jpeg", 640, 480)),
        (jpeg(640, 480, before=EXIF * 30 + b"\xff\xff\xff\xfe\x00\x04hi"), ("image/jpeg", 640, 480)),
        (gif(12, 34), ("image/gif", 12, 34)),
        (gif(12, 34, picture=(5, 0, 60_000, 40)), ("image/gif", 60_005, 40)),
        (webp(4000, 3000), ("image/webp", 4000, 3000)),
        (webp(4000, 3000, b"VP8L"), ("image/webp", 4000, 3000)),
        (webp(400, 300, b"VP8 "), ("image/webp", 400, 300)),
        (png(65_500, 65_500), ("image/png", 65_500, 65_500)),
    ],
)
def test_kind_and_size(data: bytes, header: tuple[str, int, int]) -> None:
    assert read_header(data) == ImageHeader(*header)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(100), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe",
        jpeg(0, 10), jpeg(10, 10)[:8], b"\xff\xd8" + b"\xff" * 100_000, b"\xff\xd8" + b"\xff\xd0" * 100_000,
        b"\xff\xd8" + b"\xff\xe0\x00\x00" * 100_000, gif(1, 1)[:20], b"GIF89a" + bytes(100), b"RIFF\0\0\0\0WAVEfmt ",
        b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe" + b"\1\0" * 100_000, webp(1, 1)[:22], png(0, 5),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_at_once(data: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"is no image|is cut off"):
        read_header(data)
    assert time.perf_counter() - started < 1


def test_no_prefix_of_an_image_raises_something_else() -> None:
    for whole in (picture(3), jpeg(9, 9, before=EXIF), gif(9, 9), webp(9, 9), webp(9, 9, b"VP8L")):
        for size in range(min(len(whole), 90)):
            try:
                read_header(whole[:size])
            except ValueError:
                continue


MAGIC = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8L", b""]


@given(st.sampled_from(MAGIC), st.binary(max_size=400))
def test_any_bytes_are_an_image_or_a_value_error(magic: bytes, rest: bytes) -> None:
    try:
        header = read_header(magic + rest)
    except ValueError:
        return
    assert header.width > 0
    assert header.height > 0


@given(st.text(max_size=200))
def test_any_text_is_a_data_url_or_a_value_error(text: str) -> None:
    for url in (text, f"data:image/png;base64,{text}"):
        try:
            assert decode_data_url(url, 100)
        except ValueError:
            continue


@pytest.mark.parametrize("size", [1, 2, 3, 100, 3 << 18, (3 << 18) + 1, (2 << 20) + 5])
def test_base64(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert decode_base64(base64.b64encode(data).decode(), size) == data


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("data:image/png;base64", "must be of the form"),
        ("data:" + "x" * 300 + ",AAAA", "must be of the form"),
        ("data:,AAAA", "media type"),
        ("data:text/html;base64,AAAA", "media type 'text/html'"),
        ("data:image/svg+xml;base64,AAAA", "media type"),
        ("data:image/png,AAAA", "must be in base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,AAA", "no valid base64"),
        ("data:image/png;base64,AA-_", "no valid base64"),
        ("data:image/png;base64,AA==AAAA", "no valid base64"),
        ("data:image/png;base64,AAAA\n", "no valid base64"),
        ("data:image/png;base64,ÄÄÄÄ", "no valid base64"),
        ("data:image/png;base64," + "A" * 2000, "longer than the 1000 bytes"),
        ("data:image/png;base64," + "A" * ((1 << 20) - 4) + "AA==" + "AAAA", "padding inside"),
    ],
)
def test_hostile_data_urls(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode_data_url(url, 1000 if "inside" not in problem else 2 << 20)


def test_media_types_as_people_write_them() -> None:
    for kind in ("image/jpg", "IMAGE/PNG", "image/png;charset=utf-8", "image/webp", "image/gif"):
        assert decode_data_url(f"DATA:{kind};BASE64,QUJD", 10) == b"ABC"


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "hi"}, {"role": "user", "content": list(parts)}]}


def test_images_are_taken_out_of_the_messages() -> None:
    one, two = picture(1), picture(2)
    payload = chat(
        image_part(one, detail="low"), text_part("?"), {"type": "image_url", "image_url": data_url(two)}
    )
    taken = take_images(payload)
    assert taken["images"] == [one, two]
    assert taken["messages"][1]["content"] == [{"type": "image"}, text_part("?"), {"type": "image"}]
    assert payload["messages"][1]["content"][0]["type"] == "image_url"  # the caller's is as it was
    assert take_images(taken)["images"] == [one, two]
    without = chat(text_part("?"))
    assert take_images(without) is without


AT = "messages[1].content[0].image_url.url"


@pytest.mark.parametrize(
    ("payload", "param", "problem"),
    [
        (chat(image_part(b"nothing")), AT, "is no image"),
        (chat(image_part(png(7_000, 7_000))), AT, "pixels of the image"),
        (chat(image_part(png(1 << 31, 1 << 31))), AT, "pixels of the image"),
        (chat(image_part(picture(1) + bytes(3000))), AT, "longer than the 2000 bytes"),
        (chat(*[image_part(picture(1))] * 4), "messages[1].content[3].image_url.url", "at most 3 images"),
        (chat({"type": "image_url"}), AT, "is missing"),
        (chat({"type": "image_url", "image_url": {"url": 3}}), AT, "is missing"),
        (
            chat({"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}),
            AT,
            "must be a data: URL",
        ),
        (chat({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), AT, "must be a data: URL"),
        (chat({"type": "image_url", "image_url": {"url": "x", "data": "text"}}), AT, "must be a data: URL"),
        (chat({"type": "image"}), "messages[1].content[0].type", "there are none"),
        ({"images": "x"}, "images", "must be a list"),
        ({"images": [3]}, "images[0]", "must be base64, not int"),
        ({"images": ["QUJD"]}, "images[0]", "is no image"),
        ({**chat({"type": "image"}), "images": []}, "images", "0 are given"),
        (
            {**chat(image_part(picture(1))), "images": []},
            "messages[1].content[0].type",
            "not allowed together",
        ),
    ],
)
def test_refusals(payload: dict[str, Any], param: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        take_images(payload, ImageLimits(count=3, size=2000))
    assert caught.value.param == param


def test_all_images_of_a_request_are_bounded_together() -> None:
    third = picture(1) + bytes(TOTAL_BYTES // 3)
    with pytest.raises(InvalidRequestError, match="bytes of all images") as caught:
        read_images([third] * 3)
    assert caught.value.param == "images[2]"
    large = png(10_000, 10_000)
    with pytest.raises(InvalidRequestError, match="pixels of all images"):
        read_images([large] * 3)


def test_what_is_fetched_takes_the_place_of_its_url() -> None:
    url = "https://a.example/b.png"
    links = [{"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": url}]
    payload = chat(text_part("?"), links[0], image_part(picture(1)), links[1])
    assert remote_images(payload["messages"]) == {url: "messages[1].content[1].image_url.url"}
    messages = with_fetched(payload["messages"], {url: picture(2)})
    assert remote_images(messages) == {}
    assert take_images({"messages": messages})["images"] == [picture(2), picture(1), picture(2)]
    assert payload["messages"][1]["content"][1] is links[0]
