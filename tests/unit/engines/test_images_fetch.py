"""Images behind URLs: what a client's URL cannot make the server do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dynamo_tasks.engines.images import fetch
from dynamo_tasks.engines.images.fetch import FetchSettings, ImageFetcher
from dynamo_tasks.engines.images.hosts import allowed_hosts, networks, target_of
from dynamo_tasks.errors import ConfigError, InvalidRequestError
from tests.support.pictures import picture
from tests.support.streams import on_loop
from tests.support.tls import make_certificates

DATA = picture(7)
FIELD = "messages[0].content[0].image_url.url"
LOCAL = ["127.0.0.0/8", "::1/128"]
Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = DATA, *, status: int = 200, kind: str = "image/png", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}"] if kind else [f"HTTP/1.1 {status} X"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Server:
    """Answers each path with bytes, or as a function does it."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            found = self.answers[request.split()[1]]
            if isinstance(found, bytes):
                writer.write(found)
            else:
                await found(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answers: dict[str, Answer], tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


def fetcher(hosts: list[str], private: list[str] | None = None, *, timeout: float = 20.0) -> ImageFetcher:
    settings = FetchSettings(
        hosts=allowed_hosts(hosts), private=networks(LOCAL if private is None else private), timeout=timeout
    )
    return ImageFetcher(settings)


async def refused(one: ImageFetcher, url: str, most: int = 10_000) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        await one.fetch({url: FIELD}, most, 10 * most)
    assert caught.value.param == FIELD
    return str(caught.value).removeprefix(f"{FIELD} ")


@on_loop
async def test_images_are_fetched() -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (DATA[:50], DATA[50:])) + b"0\r\n\r\n"
    answers: dict[str, Answer] = {
        "/a.png?x=1": answer(),
        "/sized": answer(Content_Length=str(len(DATA))),
        "/chunked": answer(chunked, Transfer_Encoding="chunked"),
        "/moved": answer(b"gone", status=302, Location="/a.png?x=1"),
        "/untyped": answer(kind=""),
    }
    async with serving(answers) as server:
        base = f"http://127.0.0.1:{server.port}"
        one = fetcher([base])
        wanted = {f"{base}{path}": f"at{i}" for i, path in enumerate(answers)}
        found = await one.fetch(wanted, 10_000, 100_000)
        assert found == dict.fromkeys(wanted, DATA)
        assert [request.split()[1] for request in server.requests] == [
            "/a.png?x=1", "/sized", "/chunked", "/moved", "/a.png?x=1", "/untyped",
        ]  # fmt: skip
        assert f"Host: 127.0.0.1:{server.port}\r\n" in server.requests[0]
        assert not any(word in server.requests[0].lower() for word in ("authorization", "cookie", "referer"))


@on_loop
async def test_nothing_is_fetched_unless_the_operator_allows_it() -> None:
    async with serving({"/": answer()}) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert "this server fetches no images" in await refused(fetcher([]), url)
        assert "fetches no images from 127.0.0.1" in await refused(fetcher(["images.example"]), url)
        assert "fetches no images from 127.0.0.1" in await refused(fetcher(["http://127.0.0.1"]), url)
        assert "fetches no images from 127.0.0.1" in await refused(fetcher(["*"]), url)  # that is https
        assert server.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "169.254.169.254", "10.0.0.1",
        "192.168.1.1", "172.16.0.1", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "[fd00::1]",
        "[fe80::1]", "[fec0::1]", "[ff02::1]", "127.0.0.1.",
    ],
)  # fmt: skip
@on_loop
async def test_no_private_address_is_reached(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"connected to {args}")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    problem = await refused(fetcher(["http://*"], []), f"http://{host}/")
    assert "has no public address" in problem or "cannot be reached" in problem  # not resolved at all


@on_loop
async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another address a moment later (DNS rebinding) is asked once."""
    asked: list[str] = []
    reached: list[str] = []

    async def resolve(host: str, port: int, **kwargs: Any) -> list[Any]:
        asked.append(host)
        addresses = ["127.0.0.1", "8.8.8.8"] if len(asked) == 1 else ["127.0.0.1"]
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    async def connect(host: str, port: int, **kwargs: Any) -> Any:
        reached.append(host)
        raise OSError("far away")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    monkeypatch.setattr(asyncio, "open_connection", connect)
    assert "cannot be reached" in await refused(fetcher(["rebind.example"], []), "https://rebind.example/")
    assert (asked, reached) == (["rebind.example"], ["8.8.8.8"])


@on_loop
async def test_a_redirect_is_checked_as_a_url_of_its_own() -> None:
    answers: dict[str, Answer] = {}
    async with serving(answers) as server, serving({"/": answer()}) as other:
        base = f"http://127.0.0.1:{server.port}"
        answers["/elsewhere"] = answer(status=307, Location=f"http://127.0.0.1:{other.port}/")
        answers["/file"] = answer(status=301, Location="file:///etc/passwd")
        answers["/user"] = answer(status=301, Location=f"http://a:b@127.0.0.1:{server.port}/")
        answers["/empty"] = answer(status=301)
        answers["/loop"] = answer(status=302, Location="/loop")
        one = fetcher([base])
        assert "fetches no images from" in await refused(one, f"{base}/elsewhere")
        assert "must be a data: or an https: URL" in await refused(one, f"{base}/file")
        assert "user or a password" in await refused(one, f"{base}/user")
        assert "ASCII characters" in await refused(one, f"{base}/empty")
        assert "more than 3 redirects" in await refused(one, f"{base}/loop")
        assert other.requests == []
        assert sum("/loop" in request for request in server.requests) == 4


@on_loop
async def test_answers_that_are_no_image() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b""))
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async def headers(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"y" * 4000 + b"\r\n")
            await writer.drain()

    chunked = b"fffffff\r\n" + bytes(20_000)
    answers: dict[str, tuple[Answer, str]] = {
        "/404": (answer(status=404), "answers 404"),
        "/401": (answer(status=401), "answers 401"),
        "/html": (answer(kind="text/html"), "is no image"),
        "/gzip": (answer(Content_Encoding="gzip"), "compresses it"),
        "/long": (answer(Content_Length="10001"), "longer than the 10000 bytes"),
        "/endless": (endless, "longer than the 10000 bytes"),
        "/chunked": (answer(chunked, Transfer_Encoding="chunked"), "longer than the 10000 bytes"),
        "/short": (answer(b"abc", Content_Length="500"), "closed early"),
        "/nothing": (b"", "closed early"),
        "/ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks no HTTP"),
        "/informs": (b"HTTP/1.1 103 Hints\r\n\r\n" + answer(), "speaks no HTTP"),
        "/headers": (headers, "speaks no HTTP"),
    }
    async with serving({path: one for path, (one, _) in answers.items()}) as server:
        base = f"http://127.0.0.1:{server.port}"
        for path, (_, problem) in answers.items():
            assert problem in await refused(fetcher([base]), base + path), path


@on_loop
async def test_all_images_of_a_request_share_one_time_limit() -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        for byte in answer():
            writer.write(bytes([byte]))
            await asyncio.sleep(0.2)

    async with serving({"/": slow}) as server:
        base = f"http://127.0.0.1:{server.port}"
        problem = await refused(fetcher([base], timeout=0.3), f"{base}/")
        assert problem == "could not be fetched within 0.3 seconds"


@on_loop
async def test_all_images_of_a_request_share_one_size_limit() -> None:
    async with serving({"/1": answer(), "/2": answer()}) as server:
        base = f"http://127.0.0.1:{server.port}"
        with pytest.raises(InvalidRequestError, match="longer than") as caught:
            await fetcher([base]).fetch({f"{base}/1": "a", f"{base}/2": "b"}, 10_000, len(DATA) + 10)
        assert caught.value.param == "b"


@on_loop
async def test_https_asks_who_the_server_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    async with serving({"/": answer()}, context) as server:
        url = f"https://127.0.0.1:{server.port}/"
        one = fetcher([f"127.0.0.1:{server.port}"])
        assert "cannot be reached" in await refused(one, url)
        assert server.requests == []
        trusting = ssl.create_default_context(cafile=str(certificates.ca))
        monkeypatch.setattr(fetch, "_tls", lambda: trusting)
        assert await one.fetch({url: FIELD}, 10_000, 10_000) == {url: DATA}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://images.example/", "must be a data: or an https: URL"),
        ("gopher://images.example/", "must be a data: or an https: URL"),
        ("//images.example/a", "must be a data: or an https: URL"),
        ("https://user@images.example/", "user or a password"),
        ("https://images.example:99999/", "no valid URL"),
        ("https://[::1/", "no valid URL"),
        ("https:///a", "has no host"),
        ("https://images.example\\@evil.example/", "ASCII characters"),
        ("https://images.example/\r\nHost: evil.example", "ASCII characters"),
        ("https://images.example/a b", "ASCII characters"),
        ("https://bücher.example/", "ASCII characters"),
        ("https://images.example/" + "a" * 9000, "ASCII characters"),
        ("https://" + "a" * 70 + ".example/", ""),
    ],
)
@on_loop
async def test_urls_that_are_none(url: str, problem: str) -> None:
    assert problem in await refused(fetcher(["*"]), url)


@pytest.mark.parametrize(
    ("entry", "url", "matches"),
    [
        ("images.example", "https://images.example/a", True),
        ("Images.Example", "https://IMAGES.example./a", True),
        ("images.example", "https://images.example:443/a", True),
        ("images.example", "https://images.example:8443/a", False),
        ("images.example", "http://images.example/a", False),
        ("images.example", "https://images.example.evil.example/a", False),
        ("images.example", "https://evil.example/?images.example", False),
        ("images.example:8443", "https://images.example:8443/a", True),
        ("http://images.example", "http://images.example/a", True),
        ("http://images.example:8080", "http://images.example:8080/a", True),
        ("*.example", "https://images.example/a", True),
        ("*.example", "https://a.b.example/a", True),
        ("*.example", "https://example/a", False),
        ("*.example", "https://badexample/a", False),
        ("*", "https://any.where/a", True),
        ("*", "http://any.where/a", False),
        ("[2001:db8::1]", "https://[2001:db8::1]/a", True),
    ],
)
def test_entries_of_the_list(entry: str, url: str, matches: bool) -> None:
    [host] = allowed_hosts([entry])
    assert host.has(target_of(url)) is matches


@pytest.mark.parametrize(
    "entry", ["", "a b", "https://a.example/path", "ftp://a.example", "a.*", "*.*", "ä.example"]
)
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ConfigError, match="image_hosts"):
        allowed_hosts([entry])


def test_lists_that_are_none() -> None:
    with pytest.raises(ConfigError, match="image_networks"):
        networks(["10.0.0.1/8"])
    for given in ("a.example", [3], {"a": 1}):
        with pytest.raises(ConfigError, match="must be a list of texts"):
            allowed_hosts(given)
