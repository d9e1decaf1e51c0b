import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_tasks.engines import GenerateRequest
from dynamo_tasks.engines.text.byte_level import ByteTokenizer
from dynamo_tasks.engines.text.output import ChoiceOutput, StopScanner

LETTERS = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3)


def request(**more: object) -> GenerateRequest:
    return GenerateRequest(request_id="r", prompt_token_ids=[1], **more)  # type: ignore[arg-type]


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule, said plainly: the first place where a stop is complete, the longest stop there."""
    for end in range(1, len(text) + 1):
        ends = [stop for stop in stops if text[:end].endswith(stop)]
        if ends:
            longest = max(ends, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(deadline=None)
@given(LETTERS, STOPS, st.integers(1, 5))
def test_scanner_cuts_where_the_rule_says(text: str, stops: list[str], size: int) -> None:
    scanner, shown = StopScanner(stops), ""
    for at in range(0, len(text), size):
        shown += scanner.push(text[at : at + size])
        assert cut(text, stops)[0].startswith(shown)
        if scanner.stopped:
            break
    stopped = scanner.stopped
    assert (shown + scanner.flush(), stopped) == cut(text, stops)


def test_scanner_holds_back_no_more_than_it_must() -> None:
    scanner = StopScanner(["END"])
    assert [scanner.push(char) for char in "aENxE"] == ["a", "", "", "ENx", ""]
    assert scanner.flush() == "E"


@settings(deadline=None)
@given(LETTERS, STOPS, st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(0, 10))
def test_output_is_the_same_however_it_is_cut_or_continued(
    text: str, stops: list[str], first: int, batch: int, limit: int, least: int
) -> None:
    ids = list(text.encode())
    whole = ChoiceOutput(request(stop=stops, min_tokens=least), 0, ByteTokenizer(), limit)
    expected = [whole.push([token]) for token in ids]
    kept = [token for delta in expected for token in delta.token_ids]
    before = expected[:first]
    emitted = [token for delta in before for token in delta.token_ids]
    again = ChoiceOutput(
        request(stop=stops, min_tokens=least, output_token_ids={0: emitted}), 0, ByteTokenizer(), limit
    )
    rest, shown = ids[first:], "".join(delta.text for delta in before)
    for part in (rest[:batch], rest[batch:]):
        if again.finish_reason is None:
            delta = again.push(part)
            emitted, shown = emitted + delta.token_ids, shown + delta.text
    assert (emitted, shown) == (kept, "".join(delta.text for delta in expected))
    assert (again.finish_reason, again.count) == (whole.finish_reason, whole.count)


def test_stop_token_is_kept_but_not_shown() -> None:
    delta = ChoiceOutput(request(stop_token_ids=[66]), 0, ByteTokenizer(), 9).push([65, 66, 67])
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("A", [65, 66], "stop")


@settings(deadline=None)
@given(
    LETTERS,
    st.lists(st.integers(97, 100), max_size=2),
    st.integers(1, 9),
    st.integers(1, 30),
    st.integers(0, 10),
)
@pytest.mark.parametrize("include", [False, True])
def test_stop_tokens_end_it_at_the_same_place_however_it_is_cut(
    include: bool, text: str, ends: list[int], size: int, limit: int, least: int
) -> None:
    asked = request(min_tokens=least, stop_token_ids=ends, extra={"include_stop_str_in_output": include})
    single, cut = (ChoiceOutput(asked, 0, ByteTokenizer(), limit) for _ in range(2))
    ids = list(text.encode())
    expected = [single.push([token]) for token in ids]
    shown = [cut.push(ids[at : at + size]) for at in range(0, len(ids), size)]
    assert "".join(one.text for one in shown) == "".join(one.text for one in expected)
    assert [id for one in shown for id in one.token_ids] == [id for one in expected for id in one.token_ids]
    assert (cut.finish_reason, cut.count) == (single.finish_reason, single.count)


def test_min_tokens_puts_stops_off() -> None:
    out = ChoiceOutput(request(stop=["aa"], stop_token_ids=[66], min_tokens=3), 0, ByteTokenizer(), 9)
    delta = out.push(list(b"aaBcaa"))
    assert (delta.text, bytes(delta.token_ids), delta.finish_reason) == ("aaBc", b"aaBcaa", "stop")


def test_limit_shows_what_was_held_back() -> None:
    out = ChoiceOutput(request(stop=["END"]), 2, ByteTokenizer(), 3)
    assert out.push(list(b"xE")).text == "x"
    delta = out.push(list(b"Nmore"))
    assert (delta.text, bytes(delta.token_ids), delta.finish_reason, delta.index) == ("EN", b"N", "length", 2)


def test_limit_inside_a_character() -> None:
    delta = ChoiceOutput(request(), 0, ByteTokenizer(), 2).push(list("a🙂".encode()))
    assert (delta.text, delta.finish_reason) == ("a\ufffd", "length")


def test_later_ids_are_ignored() -> None:
    out = ChoiceOutput(request(stop=["b"]), 0, ByteTokenizer(), 9)
    out.push(list(b"ab"))
    assert out.push(list(b"c")).token_ids == []
