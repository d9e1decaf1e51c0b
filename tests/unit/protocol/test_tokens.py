"""Token deltas: merging, and what a log of them says of a request."""

from __future__ import annotations

import pytest

from dynamo_tasks.protocol.tokens import (
    CompletionAggregate,
    TokenDelta,
    decode_deltas,
    emitted_ids,
    encode_deltas,
    finished,
    is_complete,
    merge_delta,
)


@pytest.mark.parametrize(
    "delta",
    [
        TokenDelta("a", [1]),
        TokenDelta("a", [1], 2),
        TokenDelta("", [], 0, "stop"),
        TokenDelta("a", [1], 1, "length", [{"token": "a"}], {"prompt_tokens": 1}),
    ],
)
def test_deltas_survive_the_wire(delta: TokenDelta) -> None:
    assert decode_deltas(encode_deltas([delta])) == [delta]
    assert TokenDelta.from_dict(delta.as_dict()) == delta


def test_a_later_delta_does_not_take_back_the_finish_reason() -> None:
    pending = [TokenDelta("a", [1], 0, "stop")]
    merge_delta(pending, TokenDelta("", [], 0, usage={"prompt_tokens": 3}))
    assert pending == [TokenDelta("a", [1], 0, "stop", usage={"prompt_tokens": 3})]


def test_merging_leaves_what_was_given_as_it_is() -> None:
    first, second = TokenDelta("a", [1]), TokenDelta("b", [2])
    pending: list[TokenDelta] = []
    merge_delta(pending, first)
    merge_delta(pending, second)
    assert pending == [TokenDelta("ab", [1, 2])]
    assert (first, second) == (TokenDelta("a", [1]), TokenDelta("b", [2]))


def test_what_a_log_says() -> None:
    logged = [TokenDelta("a", [1]), TokenDelta("x", [7], 1, "stop"), TokenDelta("b", [2, 3]), {"other": 1}]
    assert emitted_ids(logged) == {0: [1, 2, 3], 1: [7]}
    assert finished(logged) == {1}


@pytest.mark.parametrize(
    ("payload", "reasons", "complete"),
    [
        ({}, {0: "stop"}, True),
        ({"n": None}, {0: "stop"}, True),
        ("text", {0: "length"}, True),
        ({"n": 1}, {0: None}, False),
        ({"n": 2}, {0: "stop"}, False),
        ({"n": 2}, {0: "stop", 1: None}, False),
        ({"n": 2}, {0: "stop", 1: "length"}, True),
    ],
)
def test_a_request_is_complete_when_all_its_choices_are(
    payload: object, reasons: dict[int, str | None], complete: bool
) -> None:
    assert (
        is_complete(payload, [TokenDelta("", [], index, reason) for index, reason in reasons.items()])
        is complete
    )


def test_aggregate_of_several_choices() -> None:
    whole = CompletionAggregate()
    for delta in [TokenDelta("a", [1]), TokenDelta("x", [2], 1, "stop"), TokenDelta("b", [3], 0, "length")]:
        whole.add(delta)
    result = whole.result()
    assert (result["text"], result["finish_reason"]) == ("ab", "length")
    assert [choice["text"] for choice in result["choices"]] == ["ab", "x"]
    assert result["usage"]["completion_tokens"] == 3
