from typing import Any

import pytest

from dynamo_tasks.engines.echo import LAST_USER_MESSAGE
from dynamo_tasks.engines.text.chats.template import render_chat
from dynamo_tasks.errors import InvalidRequestError

HI = [{"role": "user", "content": "hi"}]


def test_default_template() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HI]
    assert render_chat(messages) == "system: Be brief.\nuser: hi\nassistant:"
    assert render_chat(HI, variables={"add_generation_prompt": False}) == "user: hi\n"


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render_chat([{"role": "user", "content": parts}]) == "user: a\nb\nassistant:"


def test_assistant_that_only_called_tools() -> None:
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}]
    assert render_chat(calls) == "assistant: \nassistant:"


def test_variables_and_helpers() -> None:
    template = "{{ bos_token }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ strftime_now('%%') }}"
    assert render_chat(HI, template, {"bos_token": "<s>", "tools": [{"a": "<é>"}]}) == '<s>{"a": "<é>"}%'
    loop = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}"
    assert render_chat(HI * 3, loop) == "user"


def test_what_a_training_looks_at_is_shown() -> None:
    """``transformers`` knows the tag, and templates of LLaVA and others have it."""
    inside = "{% generation %}{% set x = 'in' %}{{ m.content }}{% endgeneration %}"
    template = f"{{% for m in messages %}}{{{{ m.role }}}}:{inside}{{{{ x }}}};{{% endfor %}}"
    assert render_chat(HI, template, {"x": "out"}) == "user:hiout;"


def test_last_user_message() -> None:
    messages = [*HI, {"role": "assistant", "content": "a"}, {"role": "user", "content": "x\n"}]
    assert render_chat(messages, LAST_USER_MESSAGE) == "x\n"
    assert render_chat([{"role": "system", "content": "s"}], LAST_USER_MESSAGE) == "s"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("hi", "messages"),
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([*HI, {"content": "x"}], "messages[1].role"),
        ([{"role": "usr", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ],
)
def test_bad_messages(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        render_chat(messages)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("template", "param", "says"),
    [
        ("{% for %}", "chat_template", "not valid Jinja"),
        ("{{ raise_exception('roles must alternate') }}", "messages", "refuses the messages: roles must"),
        ("{{ messages[7].role.x }}", "messages", "cannot render"),
        ("{{ 1 + 'a' }}", "messages", "cannot render"),
        ("{{ ''.__class__.__mro__ }}", "messages", "cannot render"),
        ("{{ messages.append(1) }}", "messages", "cannot render"),
    ],
)
def test_bad_templates(template: str, param: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says) as caught:
        render_chat(HI, template)
    assert caught.value.param == param


def test_arguments_of_tool_calls_are_objects_in_a_template() -> None:
    def call(arguments: object) -> list[dict[str, object]]:
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
        return [{"role": "assistant", "content": None, "tool_calls": calls}]

    template = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    assert render_chat(call('{"city": "Köln"}'), template) == '{"city": "Köln"}'
    assert render_chat(call({"city": "Köln"}), template) == '{"city": "Köln"}'
    assert render_chat(call(""), template) == "{}"
    for calls, param in [
        (call("{city"), "messages[0].tool_calls[0].function.arguments"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]"),
        ([{"role": "assistant", "tool_calls": {"a": 1}}], "messages[0].tool_calls"),
    ]:
        with pytest.raises(InvalidRequestError) as caught:
            render_chat(calls, template)
        assert caught.value.param == param
