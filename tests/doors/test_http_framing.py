"""Where a request begins and ends: raw bytes against a real ``dynamo-tasks serve``.

What two readers of the same bytes could take for different requests is refused; what is odd but clear, is answered.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.raw_http import Answer, answers, chat_body, post, raw
from tests.support.serve import Serve
from tests.support.web import look

KEY = "a-key-of-the-tests"
BODY = chat_body()
LAST = b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Sent behind a case: its answer shows that the bytes before it were taken for one request."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("home"), "--Frontend.body_limit=200000", "--api-key", KEY) as serve:
        yield serve


def exchange(serve: Serve, *parts: bytes, half_close: bool = False) -> list[Answer]:
    return answers(raw(serve.port, *parts, half_close=half_close))


def told(answer: Answer) -> str:
    """What the echo engine answered."""
    return str(json.loads(answer.body)["choices"][0]["message"]["content"])


def chunked(body: bytes, size: int = 7, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
        + b"0\r\n%b\r\n" % trailers
    )


CHUNKED = "Transfer-Encoding: chunked"
UPGRADES = {
    "h2c as Java's client": [
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAAB",
    ],
    "h2c": ["Connection: Upgrade", "Upgrade: h2c"],
    "h2c kept alive": ["Connection: keep-alive, Upgrade", "Upgrade: h2c"],
    "two connection headers": ["Connection: keep-alive", "Connection: upgrade", "Upgrade: h2c"],
    "websocket": [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: eA==",
        "Sec-WebSocket-Version: 13",
    ],
    "TLS": ["Connection: Upgrade", "Upgrade: TLS/1.2"],
    "upgrade alone": ["Upgrade: h2c"],
}


@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_is_ignored_and_its_body_is_a_body(served: Serve, headers: list[str]) -> None:
    whole = post(BODY, *headers)
    at = whole.index(b"\r\n\r\n") + 4
    for parts in ([whole + LAST], [whole[:at], whole[at:], LAST], [whole[: at - 2], whole[at - 2 :] + LAST]):
        first, second = exchange(served, *parts)
        assert (first.status, told(first)) == (200, "hello there")
        assert (second.status, "upgrade" in first.headers) == (200, False)
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    (only,) = exchange(served, post(smuggled, *headers, "Connection: close"), smuggled)
    assert (only.status, "JSON" in only.message) == (400, True)
    first, second = exchange(served, post(b"", *headers, CHUNKED, length=False) + chunked(BODY) + LAST)
    assert (told(first), second.status) == ("hello there", 200)


def test_many_upgrades_in_one_packet_are_requests_one_after_the_other(served: Serve) -> None:
    one = b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert [answer.status for answer in exchange(served, one * 10 + LAST)] == [200] * 11


HEAD = b"GET /live HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
ODD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
REFUSED = {
    "no Host": HEAD + b"\r\n",
    "two Hosts": HEAD + HOST + HOST + b"\r\n",
    "two Hosts, HTTP/1.0": b"GET /live HTTP/1.0\r\n" + HOST + HOST + b"\r\n",
    "an empty Host": HEAD + b"Host:\r\n\r\n",
    "a Host with a path": HEAD + b"Host: localhost/x\r\n\r\n",
    "a Host with a user": HEAD + b"Host: me@localhost\r\n\r\n",
    "two names in a Host": HEAD + b"Host: localhost, evil.example\r\n\r\n",
    "a Host with a blank": HEAD + b"Host: local host\r\n\r\n",
    "a Host with a bad port": HEAD + b"Host: localhost:http\r\n\r\n",
    "length and chunks": ODD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": ODD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": ODD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": ODD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": ODD + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": ODD + b"Content-Length: +5\r\n\r\nhello",
    "a hexadecimal length": ODD + b"Content-Length: 0x5\r\n\r\nhello",
    "a length beyond 64 bit": ODD + b"Content-Length: 99999999999999999999\r\n\r\n",
    "chunked twice": ODD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": ODD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked behind a control character": ODD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": HEAD + HOST + b"A: b\r\n c\r\n\r\n",
    "a first header that is folded": HEAD + b" a: b\r\n" + HOST + b"\r\n",
    "bare line feeds": b"GET /live HTTP/1.1\nHost: localhost\n\n",
    "a bare line feed": HEAD + HOST + b"A: b\n\r\n",
    "a bare carriage return": HEAD + HOST + b"A: b\rC: d\r\n\r\n",
    "bare line feeds between chunks": ODD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
    "a chunk size with 0x": ODD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a blank behind a chunk size": ODD + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
    "a zero byte in a header": HEAD + HOST + b"A: b\x00c\r\n\r\n",
    "HTTP/0.9": b"GET /live\r\n\r\n",
    "HTTP/1.2": b"GET /live HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a proxy's CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "a request that is cut off": post(BODY)[:-3],
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_a_400_and_ends_the_connection(served: Serve, sent: bytes) -> None:
    (only,) = exchange(
        served, sent + (b"" if sent == REFUSED["a request that is cut off"] else LAST), half_close=True
    )
    assert (only.status, only.code, only.headers["connection"]) == (400, "malformed_request", "close")


def test_compressed_transfer_is_no_coding_of_ours(served: Serve) -> None:
    for coding in ("gzip, chunked", "identity", "xchunked"):
        (only,) = exchange(served, post(b"", f"Transfer-Encoding: {coding}", length=False) + chunked(BODY))
        assert (only.status, only.code) == (501, "unsupported_transfer_encoding")


TAKEN = {
    "its length": post(BODY),
    "a blank behind its length": post(b"", f"Content-Length: {len(BODY)}  ", length=False) + BODY,
    "chunks": post(b"", CHUNKED, length=False) + chunked(BODY),
    "chunks of a byte": post(b"", CHUNKED, length=False) + chunked(BODY, 1),
    "Chunked": post(b"", "Transfer-Encoding: Chunked", length=False) + chunked(BODY),
    "chunk extensions": post(b"", CHUNKED, length=False) + chunked(BODY, 50, b';a="b;c"'),
    "trailers": post(b"", CHUNKED, length=False) + chunked(BODY, trailers=b"X-Sum: abc\r\nX-More: d\r\n"),
    "an absolute target": post(BODY, path="http://localhost/v1/chat/completions"),
    "an encoded path": post(BODY, path="/v1/chat%2Fcompletions"),
    "Expect": post(BODY, "Expect: 100-continue"),
    "an unknown expectation": post(BODY, "Expect: the-best"),
    "a byte order mark": post(b"\xef\xbb\xbf" + BODY),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN)
def test_what_is_odd_but_clear_is_answered(served: Serve, sent: bytes) -> None:
    for parts in ([sent + LAST], [sent[at : at + 1] for at in range(len(sent))] + [LAST]):
        first, second = exchange(served, *parts)
        assert (first.status, second.status) == (200, 200), first.body
        assert told(first) == "hello there"


def test_an_answer_before_the_body_that_was_to_be_asked_for_ends_the_connection(served: Serve) -> None:
    """Whether the client still sends the body, nobody can know: what comes next is no request."""
    head = post(b"", "Expect: 100-continue", "Content-Length: 10000000", length=False)
    (only,) = exchange(served, head, LAST)
    assert (only.status, only.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_gets_no_chunks(served: Serve, stream: bool) -> None:
    data = raw(served.port, post(chat_body(stream=stream), version="1.0"))
    (only,) = answers(data)
    assert only.status == 200
    assert ("transfer-encoding" in only.headers, only.headers["connection"]) == (False, "close")
    if stream:
        assert only.body.startswith(b"id: ")
        assert only.body.endswith(b"data: [DONE]\n\n")
        assert all(line.split(b":")[0] in (b"id", b"data", b"") for line in only.body.splitlines())
    else:
        assert told(only) == "hello there"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_who_closes_only_its_own_side_gets_its_answer(served: Serve, version: str, stream: bool) -> None:
    (only,) = exchange(served, post(chat_body(stream=stream), version=version), half_close=True)
    assert only.status == 200
    assert (b"[DONE]" in only.body) if stream else (told(only) == "hello there")


def test_all_that_was_pipelined_before_the_close_is_answered(served: Serve) -> None:
    found = exchange(served, post(BODY), post(chat_body(stream=True)) + post(BODY), half_close=True)
    assert [answer.status for answer in found] == [200, 200, 200]


def test_nothing_of_the_trailers_is_used(served: Serve) -> None:
    key = f"Authorization: Bearer {KEY}\r\n".encode()
    sent = post(b"", CHUNKED, length=False, key="")
    at = sent.index(b"\r\n\r\n") + 4
    for parts in ([sent + chunked(BODY, trailers=key)], [sent[:at], chunked(BODY, trailers=key)]):
        assert exchange(served, *parts, half_close=True)[0].status == 401
    first, second = exchange(served, sent + chunked(BODY, trailers=key) + LAST)
    assert (first.status, second.status) == (401, 200)


ENDLESS = {
    "a trailer": (b"0\r\nX-A: ", b"a" * 4096),
    "a trailer's name": (b"0\r\n", b"a" * 4096),
    "trailers": (b"0\r\n", b"x-a: b\r\n" * 512),
    "a chunk's extension": (b"5;a=", b"a" * 4096),
    "chunks that are all extension": (b"", b"1;%b\r\nx\r\n" % (b"a" * 1000) * 4),
    "a chunk's size": (b"", b"0" * 4096),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_what_comes_beside_a_body_is_bounded(served: Serve, case: str) -> None:
    """Eight connections send it without an end; others are answered meanwhile, and they are cut off soon."""
    first, more = ENDLESS[case]
    socks = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(8)]
    sent, slowest = 0, 0.0
    try:
        for sock in socks:
            sock.sendall(post(b"", CHUNKED, length=False) + first)
            sock.setblocking(False)
        found: dict[socket.socket, bytes] = {}
        while len(found) < len(socks) and sent < 16 << 20:
            for sock in set(socks) - set(found):
                sent += _sent(sock, more)
                if (answer := _came(sock)) is not None:
                    found[sock] = answer
            start = time.monotonic()
            assert look(served.port, "/live")[0] == 200
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 2
        assert len(found) == len(socks), "they may go on for ever"
        # Nothing where the reset came first.
        assert all(not answer or answers(answer)[0].status in (400, 431) for answer in found.values())
    finally:
        for sock in socks:
            sock.close()


def _sent(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data)
    except OSError:
        return 0


def _came(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(1 << 16)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def test_tiny_chunks_do_not_hold_up_the_others(served: Serve) -> None:
    """A byte per chunk is allowed; a packet of them must not block the loop."""
    socks = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(4)]
    slow = []
    try:
        for sock in socks:
            sock.sendall(post(b"", CHUNKED, length=False))
            sock.setblocking(False)
        for _ in range(30):
            for sock in socks:
                _sent(sock, b"1\r\nx\r\n" * 20_000)
            start = time.monotonic()
            assert look(served.port, "/live")[0] == 200
            slow.append(time.monotonic() - start)
        assert sorted(slow)[len(slow) // 2] < 0.5
    finally:
        for sock in socks:
            sock.close()


def test_methods_that_ask_about_a_path(served: Serve) -> None:
    def asked(method: str, path: str) -> Answer:
        head = ["Host: localhost", "Connection: close", f"Authorization: Bearer {KEY}"]
        sent = "\r\n".join([f"{method} {path} HTTP/1.1", *head, "", ""])
        (only,) = exchange(served, sent.encode())
        return only

    assert (asked("HEAD", "/v1/models").status, asked("HEAD", "/v1/models").body) == (200, b"")
    assert asked("HEAD", "/v1/chat/completions").status == 405
    for path, allowed in {
        "/v1/models": {"GET", "HEAD", "OPTIONS"},
        "/v1/chat/completions": {"POST", "OPTIONS"},
        "/v1/requests/x": {"GET", "HEAD", "DELETE", "OPTIONS"},
    }.items():
        found = asked("OPTIONS", path)
        assert (found.status, set(found.headers["allow"].split(", "))) == (204, allowed)
        assert asked("PATCH", path).status == 405
    assert asked("OPTIONS", "*").status == 204
    assert asked("OPTIONS", "/nowhere").status == 404
