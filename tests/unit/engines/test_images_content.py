"""Chats with images, as templates of all kinds take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_model import CHAT_TEMPLATE, SPECIAL_TOKENS, write_tokenizer
from benchmarks.tiny_vision_model import IMAGE_TOKENS, VISION_TEMPLATE
from dynamo_tasks.engines.images.stand_in import expand_images, image_tokens
from dynamo_tasks.engines.text.chats.content import place_images, written_for_images
from dynamo_tasks.engines.text.chats.template import render_chat
from dynamo_tasks.engines.text.payload import parse_generate
from dynamo_tasks.engines.text.tokenizer import FileTokenizer
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.instances import ModelCard
from tests.support.pictures import image_part, picture, text_part

IMAGE = {"type": "image"}
PARTS_ONLY = (
    "{% for m in messages %}{{ m.role }}:{% for p in m['content'] %}{% if p['type'] == 'image' %}<img>"
    "{% else %} {{ p['text'] }}{% endif %}{% endfor %};{% endfor %}"
)
NUMBERED = (
    "{% set n = namespace(i=0) %}{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content %}{% if p.type == 'image' or 'image' in p %}{% set n.i = n.i + 1 %}Picture "
    "{{ n.i }}: <|pad|>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %};{% endfor %}"
)
LLAVA = (  # as llava-hf has it
    "{% for message in messages %}{{ message['role'].upper() + ': '}}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}"
    "{% endfor %}{{ 'ASSISTANT:' }}"
)
SMOL = (  # as SmolVLM has it: the text in front of an image differs, too
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == "
    "'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>;"
    "{% endfor %}{{ 'Assistant:' }}"
)
QWEN = (  # as Qwen2-VL has it
    "{% set image_count = namespace(value=0) %}{% for message in messages %}<|im_start|>{{ message['role'] }};"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>{% else %}{% for content in message"
    "['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}{% set "
    "image_count.value = image_count.value + 1 %}<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content"
    " %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>{% endif %}{% endfor %}"
)
TEXT_ONLY = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
STRICT = "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}"


def rendered(template: str | None, *contents: Any, placeholder: str | None = "<img>") -> str:
    messages = [{"role": "user", "content": content} for content in contents]
    return render_chat(place_images(messages, template, placeholder), template)


def test_a_template_that_knows_parts_gets_them() -> None:
    found = rendered(NUMBERED, [IMAGE, text_part("a"), text_part("b")], "plain", [text_part("c"), IMAGE])
    assert found == "user: Picture 1: <|pad|>ab;user: plain;user: cPicture 2: <|pad|>;"


def test_a_template_that_knows_parts_alone_gets_every_content_so() -> None:
    found = rendered(PARTS_ONLY, "plain", [text_part("a"), text_part("b")], [IMAGE, text_part("c")])
    assert found == "user: plain;user: a b;user:<img> c;"


@pytest.mark.parametrize(
    ("template", "placeholder", "expected"),
    [
        (LLAVA, "<image>", "USER: <image>\na b USER: plain ASSISTANT:"),
        (
            SMOL,
            "<image>",
            "<|im_start|>User: a<image>b<end_of_utterance>;User: plain<end_of_utterance>;Assistant:",
        ),
        (
            QWEN,
            "<|vision_start|><|image_pad|><|vision_end|>",
            "<|im_start|>user;a<|vision_start|><|image_pad|><|vision_end|>b<|im_end|><|im_start|>user;plain<|im_end|>",
        ),
    ],
    ids=["llava", "smolvlm", "qwen2-vl"],
)
def test_templates_of_models(template: str, placeholder: str, expected: str) -> None:
    assert written_for_images(template).strip() == placeholder
    assert rendered(template, [text_part("a"), IMAGE, text_part("b")], "plain") == expected


@pytest.mark.parametrize("template", [TEXT_ONLY, STRICT, CHAT_TEMPLATE])
def test_a_template_of_texts_gets_placeholders_in_front(template: str) -> None:
    found = rendered(template, [text_part("a"), IMAGE, text_part("b"), IMAGE], [IMAGE], "c")
    assert "<img>\n<img>\na\nb" in found
    assert found.count("<img>") == 3


def test_without_any_template() -> None:
    assert rendered(None, [IMAGE, text_part("a")]) == "user: <img>\na\nassistant:"
    numbered = rendered(None, [IMAGE, text_part("a")], [IMAGE, IMAGE], placeholder="<|image_{n}|>")
    assert numbered == "user: <|image_1|>\na\nuser: <|image_2|>\n<|image_3|>\nassistant:"
    assert rendered(None, [IMAGE, text_part("a")], placeholder=None) == "user: a\nassistant:"


def test_what_is_no_content_stays_for_the_check() -> None:
    assert place_images("x", None, None) == "x"
    odd: list[Any] = [3, {"role": "user"}, {"role": "user", "content": 3}]
    assert place_images(odd, PARTS_ONLY, None) == odd
    with pytest.raises(InvalidRequestError) as caught:
        rendered(NUMBERED, [IMAGE, {"type": "input_audio"}])
    assert caught.value.param == "messages[0].content[1].type"


@pytest.fixture(scope="module", params=["parts", "texts"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    template = VISION_TEMPLATE if request.param == "parts" else CHAT_TEMPLATE
    write_tokenizer(Path(folder), (*SPECIAL_TOKENS, *IMAGE_TOKENS), template)
    return FileTokenizer(folder)


CARD = ModelCard("sight", images=4, image_placeholder="<image>")


def test_the_prompt_has_one_placeholder_for_each_image(tokenizer: FileTokenizer) -> None:
    [image] = tokenizer.encode("<image>", add_special_tokens=False)
    content = [text_part("a"), image_part(picture(1)), text_part("b"), image_part(picture(2))]
    request = parse_generate({"messages": [{"role": "user", "content": content}]}, tokenizer, CARD)
    assert request.images == [picture(1), picture(2)]
    assert request.prompt_token_ids.count(image) == 2


@pytest.mark.parametrize("place", ["content", "elsewhere"])
def test_a_text_cannot_hold_a_placeholder(tokenizer: FileTokenizer, place: str) -> None:
    messages: list[Any] = [{"role": "user", "content": [text_part("see"), image_part(picture(1))]}]
    if place == "content":
        messages[0]["content"][0] = text_part("see <image>")
    else:
        messages.append({"role": "assistant", "content": "<image>"})
    with pytest.raises(InvalidRequestError, match="'<image>', which stands for an image") as caught:
        parse_generate({"messages": messages}, tokenizer, CARD)
    assert caught.value.param == "messages"


def test_an_image_that_the_template_leaves_out_is_not_forgotten(tmp_path: Path) -> None:
    template = VISION_TEMPLATE.replace("{% for message in messages %}", "{% for message in messages[-1:] %}")
    write_tokenizer(tmp_path, (*SPECIAL_TOKENS, *IMAGE_TOKENS), template)
    messages = [{"role": "user", "content": [image_part(picture(1))]}, {"role": "user", "content": "?"}]
    with pytest.raises(InvalidRequestError, match="leaves images out"):
        parse_generate({"messages": messages}, FileTokenizer(tmp_path), CARD)


def test_models_that_take_fewer_or_none(tokenizer: FileTokenizer) -> None:
    messages = [{"role": "user", "content": [image_part(picture(1))] * 5}]
    with pytest.raises(InvalidRequestError, match="at most 4 are allowed"):
        parse_generate({"messages": messages}, tokenizer, CARD)
    with pytest.raises(InvalidRequestError) as caught:
        parse_generate({"messages": messages}, tokenizer, ModelCard("texts"))
    assert caught.value.param == "messages[0].content[0].type"
    with pytest.raises(InvalidRequestError, match="it takes text alone"):
        parse_generate({"prompt": "x", "images": [picture(1)]}, tokenizer, ModelCard("texts"))


def test_tokens_that_stand_in_for_an_image() -> None:
    small, large = picture(1, width=28, height=28), picture(1, width=29, height=57)
    assert (len(image_tokens(small)), len(image_tokens(large))) == (1, 6)
    assert image_tokens(large) == image_tokens(large) != image_tokens(picture(2, width=29, height=57))
    mark = list(b"<image>")
    ids = list(b"a<image>b<im<image><image>")
    found = expand_images(ids, mark, [small, large])
    assert found == [*b"a", *image_tokens(small), *b"b<im", *image_tokens(large), *mark]
    assert expand_images(list(b"ab"), mark, [small]) == [*b"ab", *image_tokens(small)]
    assert expand_images(ids, mark, []) == ids
