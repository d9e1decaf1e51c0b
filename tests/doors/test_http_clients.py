"""Other people's HTTP clients and what they send by themselves; compressed and oddly encoded bodies."""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.raw_http import Answer, answers, chat_body, post, raw
from tests.support.serve import Serve
from tests.support.web import look

KEY = "a-key-of-the-tests"
AUTH = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
LIMIT = 2_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("home"), "--api-key", KEY, f"--Frontend.body_limit={LIMIT}") as serve:
        yield serve


def told(body: bytes | str) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def sent(serve: Serve, body: bytes, *headers: str) -> Answer:
    (only,) = answers(raw(serve.port, post(body, *headers, "Connection: close")))
    return only


CURLS = {
    "plain": [],
    "http2": ["--http2"],
    "http1.0": ["--http1.0"],
    "expect": ["-H", "Expect: 100-continue"],
    "chunked": ["-H", "Transfer-Encoding: chunked"],
    "compressed answers": ["--compressed"],
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("options", CURLS.values(), ids=CURLS)
def test_curl(served: Serve, options: list[str]) -> None:
    def run(body: bytes) -> str:
        argv = ["curl", "-sS", "--fail-with-body", *options, f"{served.base_url}{CHAT}", "-d", "@-"]
        for name, value in AUTH.items():
            argv += ["-H", f"{name}: {value}"]
        done = subprocess.run(argv, input=body, capture_output=True, timeout=60, check=True)
        return done.stdout.decode()

    assert told(run(chat_body())) == "hello there"
    assert run(chat_body(stream=True)).endswith("data: [DONE]\n\n")
    if options != ["--http1.0"]:
        assert told(run(chat_body() + b" " * 1_500_000)) == "hello there"  # which it announces with an Expect


def test_the_standard_library_keeps_its_connection(served: Serve) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for body in (chat_body(), iter([chat_body()[:9], chat_body()[9:]])):
        connection.request("POST", CHAT, body, AUTH, encode_chunked=not isinstance(body, bytes))
        assert told(connection.getresponse().read()) == "hello there"
    connection.close()


def test_httpx_streams_and_reuses(served: Serve) -> None:
    with httpx.Client(base_url=served.base_url, headers=AUTH, timeout=60) as client:
        for _ in range(3):
            with client.stream("POST", CHAT, content=chat_body(stream=True)) as response:
                assert list(response.iter_lines())[-2:] == ["data: [DONE]", ""]
        assert told(client.post(CHAT, content=iter([chat_body()])).text) == "hello there"


JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;
import java.util.concurrent.*;

public class Ask {
  public static void main(String[] args) throws Exception {
    HttpClient client = HttpClient.newHttpClient();  // HTTP/2 by default: it asks for h2c in its first request
    String body = Files.readString(Path.of(args[1]));
    for (int i = 0; i < 3; i++) {
      HttpRequest request = HttpRequest.newBuilder(URI.create(args[0]))
          .header("Authorization", args[2]).header("Content-Type", "application/json")
          .POST(HttpRequest.BodyPublishers.ofString(body)).build();
      HttpResponse<String> answer = client.sendAsync(request, HttpResponse.BodyHandlers.ofString())
          .get(60, TimeUnit.SECONDS);
      System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
    }
  }
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
def test_javas_client(served: Serve, tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    (tmp_path / "body.json").write_bytes(chat_body())
    argv = [
        "java",
        str(tmp_path / "Ask.java"),
        served.base_url + CHAT,
        str(tmp_path / "body.json"),
        f"Bearer {KEY}",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" ", 2)[:2] for line in lines] == [["200", "HTTP_1_1"]] * 3
    assert {told(line.split(" ", 2)[2]) for line in lines} == {"hello there"}


def test_gzip_bodies(served: Serve) -> None:
    body = chat_body()
    for coding in ("gzip", "GZIP", "x-gzip"):
        for packed in (gzip.compress(body), gzip.compress(body[:20]) + gzip.compress(body[20:]),
                       gzip.compress(b"") + gzip.compress(body) + b"\0" * 100):  # fmt: skip
            found = sent(served, packed, f"Content-Encoding: {coding}")
            assert (found.status, told(found.body)) == (200, "hello there")
    assert sent(served, body, "Content-Encoding: identity").status == 200
    wide = chat_body() + b" " * 1_000_000
    assert sent(served, gzip.compress(wide), "Content-Encoding: gzip").status == 200


def test_what_is_wrong_with_a_compressed_body(served: Serve) -> None:
    body = chat_body()
    packed = gzip.compress(body)
    broken = {
        "cut off": packed[:-9], "no gzip": body, "empty": b"", "zlib": zlib.compress(body),
        "garbage behind": packed + b"x", "a wrong sum": packed[:-8] + b"12345678",
        "many members": gzip.compress(b"") * 5000,
    }  # fmt: skip
    for name, data in broken.items():
        found = sent(served, data, "Content-Encoding: gzip")
        assert (found.status, "gzip" in found.message or "body is empty" in found.message) == (400, True), (
            name
        )
    for coding in ("br", "zstd", "deflate", "compress", "gzip, gzip", "gzip;q=1"):
        found = sent(served, packed, f"Content-Encoding: {coding}")
        assert (found.status, found.code) == (415, "unsupported_encoding")
        assert (coding in found.message, "gzip" in found.message) == (True, True)
        assert found.headers["accept-encoding"] == "gzip"
    assert "Content-Encoding" in sent(served, packed).message  # packed, and not said


def test_a_bomb_of_zeros_is_refused_and_nobody_waits(served: Serve) -> None:
    bombs = {
        "beyond the limit": b"[" + b" " * (LIMIT * 3),
        "beyond any text": b"[" + b" " * (LIMIT - 1000),
    }
    for inner in bombs.values():
        found = sent(served, gzip.compress(inner), "Content-Encoding: gzip")
        assert (found.status, found.code) == (413, "payload_too_large")
        assert look(served.port, "/live")[0] == 200
    twice = gzip.compress(gzip.compress(b" " * LIMIT * 40))
    assert sent(served, twice, "Content-Encoding: gzip").status == 400


def test_errors_name_what_is_wrong_with_the_bytes(served: Serve) -> None:
    text = chat_body().decode()
    cases = {
        "UTF-16": [
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("utf-16-be"),
            text.encode("utf-32"),
        ],
        "half of a surrogate pair": [rb'{"a": "\ud800"}', rb'{"a": "x\udc00y"}', rb'{"a": "\uDBFF\u0041"}'],
        "not UTF-8": [
            b'{"a": "\xff"}',
            b'{"a": "\xed\xa0\x80"}',
            text.encode().replace(b"there", b"th\xe4re"),
        ],
        "gzip": [gzip.compress(text.encode())],
        "byte": [b"{]", b"{'a': 1}", b'{"a": 1,}', b'{"a": NaN}'],
    }
    for cause, bodies in cases.items():
        for body in bodies:
            found = sent(served, body)
            assert (found.status, cause in found.message) == (400, True), (body, found.message)
    assert sent(served, b"\xef\xbb\xbf" + chat_body()).status == 200


@pytest.mark.parametrize(
    "character", ["\u2028", "\u2029", "\u0085", "\r", "\n", "\0", "\x0b", "\x0c", "\x1c", "\x1e"]
)
def test_no_character_ends_a_line_of_a_stream(served: Serve, character: str) -> None:
    """httpx's lines are Python's ``splitlines``, which knows more ends than SSE has."""
    said = f"one{character}two ü {character}data: x{character}{character}id: 5-5"
    body = chat_body(stream=True, max_tokens=200, messages=[{"role": "user", "content": said}])
    with httpx.Client(base_url=served.base_url, headers=AUTH, timeout=60) as client:
        for path in ("/v1/chat/completions", None):
            if path is not None:
                with client.stream("POST", path, content=body) as response:
                    lines = list(response.iter_lines())
                    request = response.headers["x-request-id"]
            else:
                with client.stream("GET", f"/v1/requests/{request}/stream") as response:
                    lines = list(response.iter_lines())
            assert all(line.partition(":")[0] in ("data", "id", "") for line in lines)
            chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == said


def test_created_is_an_integer(served: Serve) -> None:
    with httpx.Client(base_url=served.base_url, headers=AUTH, timeout=60) as client:
        made = client.post(CHAT, content=chat_body())
        shown = client.get(f"/v1/requests/{made.headers['x-request-id']}").json()
        model = client.get("/v1/models").json()["data"][0]
        with client.stream("POST", CHAT, content=chat_body(stream=True)) as response:
            chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    assert {type(found["created"]) for found in (made.json(), shown, model, *chunks)} == {int}
