"""The HTTP answer parser, byte by byte."""

import pytest

from benchmarks.wire import Answer, BrokenAnswerError

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'id: 1-1\ndata: {"choices":[{"delta":{"content":"a \\"completion_tokens\\": 9"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


WHOLE = HEAD + b"".join(map(chunk, (ROLE, TEXT, b": keep-alive\n", TEXT, USAGE, DONE))) + b"0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50, len(WHOLE)])
def test_any_split_gives_the_same_answer(step):
    answer = Answer()
    for at in range(0, len(WHOLE), step):
        assert not answer.done
        answer.feed(WHOLE[at : at + step], float(at + step))
    assert answer.done
    summary = answer.summary(stream=True)
    assert summary == (200, 2, True, 5, None)
    assert answer.first_text >= WHOLE.index(TEXT)


def test_times_are_those_of_deliveries_with_events():
    answer = Answer()
    arrivals = [(1, HEAD + chunk(ROLE)), (2, chunk(TEXT)), (3, chunk(b": keep-alive\n"))]
    arrivals += [(5, chunk(TEXT) + chunk(TEXT)), (9, chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n")]
    for now, data in arrivals:
        answer.feed(data, float(now))
    assert (answer.first_text, answer.last_text, answer.gaps) == (2.0, 9.0, [3.0, 4.0])


def test_plain_body_with_a_length():
    answer = Answer()
    answer.feed(b'HTTP/1.1 200 OK\r\ncontent-length: 25\r\nconnection: close\r\n\r\n{"completion_to', 1.0)
    assert not answer.done
    answer.feed(b'kens": 64}', 2.0)
    assert (answer.done, answer.close) == (True, True)
    assert answer.summary(stream=False) == (200, 64, True, 0, None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (TEXT, "stream without [DONE]"),
        (TEXT + b'data: {"error": {"message": "gone"}}\n\n' + DONE, 'error event: data: {"error"'),
        (b"event: error\ndata: {}\n\n" + DONE, "error event: event: error"),
    ],
)
def test_errors_inside_of_a_stream(body, error):
    answer = Answer()
    answer.feed(HEAD + chunk(body) + b"0\r\n\r\n", 1.0)
    assert answer.summary(stream=True).error.startswith(error)


def test_error_status_carries_the_body():
    answer = Answer()
    answer.feed(b'HTTP/1.1 429 Too Many\r\ncontent-length: 9\r\n\r\n{"no": 1}', 1.0)
    assert answer.summary(stream=True).error == 'HTTP 429: {"no": 1}'


def test_tokens_without_usage_are_events_with_text():
    answer = Answer()
    answer.feed(HEAD + b"".join(map(chunk, (ROLE, TEXT, TEXT, DONE))) + b"0\r\n\r\n", 1.0)
    summary = answer.summary(stream=True)
    assert (summary.tokens, summary.counted) == (2, False)


@pytest.mark.parametrize("data", [b"SSH-2.0-hi\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", HEAD + b"zz\r\nhi\r\n"])
def test_nonsense_is_refused(data):
    with pytest.raises(BrokenAnswerError):
        Answer().feed(data, 1.0)
