"""``/v1/files`` with the real client: streamed both ways, an owner's alone, nothing left behind."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.processes import Frontend, until
from tests.support.server import RedisServer

KEYS = ("sk-one-0123456789abcdef", "sk-two-0123456789abcdef")
NAMESPACE = "files-api"
LINES = b"".join(b'{"custom_id": "%d"}\n' % i for i in range(1000))


class Place:
    """A frontend with two keys, without any worker, and the folder of its files."""

    def __init__(self, frontend: Frontend, server: RedisServer, folder: Path):
        self.frontend, self.server, self.folder = frontend, server, folder
        self.one, self.two = (
            openai.OpenAI(api_key=key, base_url=f"{frontend.base_url}/v1", max_retries=0) for key in KEYS
        )

    def contents(self) -> set[str]:
        """Ids of files that have contents."""
        return {path.name for path in (self.folder / NAMESPACE).glob("*")}

    def raw(self, body: bytes, kind: str = 'multipart/form-data; boundary="x"') -> tuple[int, dict]:
        headers = {"authorization": f"Bearer {KEYS[0]}", "content-type": kind}
        status, _, answer = self.frontend.request("POST", "/v1/files", body, headers)
        return status, answer.get("error", answer)

    def age(self, file_id: str) -> None:
        """The time of an upload that nobody renews has passed."""
        key = f"dt:{NAMESPACE}:object-remains:file"
        assert self.server.command("ZADD", key, "XX", "CH", "1", file_id) == b":1\r\n"


@pytest.fixture(scope="module")
def place(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("storage")
    env = {
        "DYNAMO_NAMESPACE": NAMESPACE,
        "DYNAMO_FILES_URL": folder.as_uri(),
        "DYNAMO_API_KEYS": ",".join(KEYS),
    }
    settings = ("Frontend.max_file_bytes=20000000",)
    with Frontend(redis_server.url, env=env, settings=settings, ready="/live") as frontend:
        yield Place(frontend, redis_server, folder)


def test_a_file_comes_back_as_it_went(place: Place) -> None:
    made = place.one.files.create(file=("in put.jsonl", LINES), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(LINES),
        "in put.jsonl",
        "batch",
        "processed",
    )
    assert place.one.files.retrieve(made.id) == made
    assert place.one.files.content(made.id).read() == LINES
    assert made.expires_at is None
    gone = place.one.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with pytest.raises(openai.NotFoundError, match="no file"):
        place.one.files.content(made.id)
    until(lambda: made.id not in place.contents(), 60)


def test_parts_and_ranges_of_a_large_file(place: Place) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB: three parts
    made = place.one.files.create(file=("big", data), purpose="user_data")
    assert len(list((place.folder / NAMESPACE / made.id).glob("*"))) == 3
    assert place.one.files.content(made.id).read() == data

    def part(asked: str) -> httpx.Response:
        url = f"{place.frontend.base_url}/v1/files/{made.id}/content"
        return httpx.get(url, headers={"range": asked, "authorization": f"Bearer {KEYS[0]}"})

    for asked, found in (
        ("bytes=4194300-4194310", data[4194300:4194311]),
        ("bytes=-7", data[-7:]),
        ("bytes=10239990-", data[10239990:]),
    ):
        answer = part(asked)
        assert (answer.status_code, answer.content) == (206, found)
    assert part("bytes=99999999-").status_code == 416
    head = httpx.head(
        f"{place.frontend.base_url}/v1/files/{made.id}/content",
        headers={"authorization": f"Bearer {KEYS[0]}"},
    )
    assert head.headers["content-length"] == str(len(data))


def test_a_key_sees_its_own_alone(place: Place) -> None:
    made = place.one.files.create(file=("mine", b"secret"), purpose="batch")
    for ask in (place.two.files.retrieve, place.two.files.content, place.two.files.delete):
        with pytest.raises(openai.NotFoundError) as foreign:
            ask(made.id)
        with pytest.raises(openai.NotFoundError) as unknown:
            ask("file-" + "0" * 32)
        assert foreign.value.code == unknown.value.code == "not_found"
    assert made.id not in {file.id for file in place.two.files.list()}
    assert made.id in {file.id for file in place.one.files.list()}


def test_lists_are_paged_by_creation_and_purpose(place: Place) -> None:
    made = [
        place.two.files.create(file=(f"f{i}", b"x"), purpose=purpose).id
        for i, purpose in enumerate(("batch", "vision", "batch", "vision", "batch"))
    ]
    assert [file.id for file in place.two.files.list(order="asc", limit=2)] == made  # the client asks on
    assert [file.id for file in place.two.files.list()] == made[::-1]
    page = place.two.files.list(purpose="batch", limit=2, order="asc")
    assert ([file.id for file in page.data], page.has_more) == ([made[0], made[2]], True)
    assert [file.id for file in place.two.files.list(purpose="batch", limit=2)] == [made[4], made[2], made[0]]
    for file in place.two.files.list(limit=2):
        place.two.files.delete(file.id)
    assert place.two.files.list().data == []


def test_a_file_expires(place: Place) -> None:
    made = place.one.files.create(
        file=("short", b"x"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - 3600) <= 1
    key = f"dt:{NAMESPACE}:object:file:{made.id}"
    assert place.server.command("PEXPIRE", key, "1") == b":1\r\n"  # its hour has passed
    place.age(made.id)
    until(lambda: made.id not in place.contents(), 60)
    with pytest.raises(openai.NotFoundError):
        place.one.files.retrieve(made.id)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("..", ".."),
        ("a\x00b\x1b[31m\u202egnp.exe", "ab[31mgnp.exe"),
        ("x" * 5000, None),
        ("", "file"),
        ('"; rm -rf /', "file"),
        ("日本語.jsonl", "日本語.jsonl"),
    ],
)
def test_names_of_files_are_hostile(place: Place, name: str, kept: str | None) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n{}\r\n--x--\r\n'
    ) % name.replace('"', '\\"').encode()
    status, answer = place.raw(body)
    if kept is None:  # larger than a header may be
        assert (status, answer["code"]) == (400, "invalid_request_error")
        return
    assert (status, answer["filename"]) == (200, kept)
    assert place.one.files.content(answer["id"]).read() == b"{}"
    assert {path.name for path in place.folder.glob("*")} == {NAMESPACE}


FIELD = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n'


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        (FIELD % (b"purpose", b"batch") + b"--x--\r\n", "file", "no file"),
        (FILE + b"--x--\r\n", "purpose", "purpose is missing"),
        (FILE + FIELD % (b"purpose", b"magic") + b"--x--\r\n", "purpose", "one of assistants"),
        (FILE + FILE + b"--x--\r\n", "file", "one file"),
        (FIELD % (b"purpose", b"x" * 5000) + FILE + b"--x--\r\n", "purpose", "more than 1024"),
        (FIELD % (b"nonsense", b"1") + FILE + b"--x--\r\n", "nonsense", "unknown field"),
        (FIELD % (b"expires_after[seconds]", b"5") + FILE + b"--x--\r\n", "expires_after[seconds]", "3600"),
        (FIELD % (b"expires_after[seconds]", b"3600") + FILE + FIELD % (b"purpose", b"batch") + b"--x--\r\n",
         "expires_after", "anchor"),
        (FIELD % (b"purpose", b"batch") + FILE.replace(b"{}", b"") + b"--x--\r\n", "file", "empty"),
        (FIELD % (b"purpose", b"batch") + FILE, None, "cut off"),
        (b"not a form at all", None, "not a form"),
        (b'--x\r\nX: y\r\n\r\n1\r\n--x--\r\n', None, "no name"),
        (b'--x\r\n' + b"X: y\r\n" * 50 + b'\r\n1\r\n--x--\r\n', None, "not a form"),
        (FIELD % (b"purpose", b"batch") * 20, None, "16 parts"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_form_is_said(place: Place, body: bytes, param: str | None, text: str) -> None:
    status, error = place.raw(body)
    assert (status, error["param"]) == (400, param)
    assert text in error["message"]


def test_only_forms_are_taken(place: Place) -> None:
    status, error = place.raw(b"{}", "application/json")
    assert (status, error["param"]) == (400, "content-type")
    status, error = place.raw(b"{}", "multipart/form-data")
    assert "boundary" in error["message"]


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused(place: Place) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        place.one.files.create(file=("huge", b"x" * 20_100_000), purpose="batch")
    assert refused.value.status_code == 413
    before = place.contents()

    def chunks() -> Iterator[bytes]:
        yield FIELD % (b"purpose", b"batch") + FILE.removesuffix(b"{}\r\n")
        for _ in range(21):
            yield b"x" * 1_000_000

    headers = {"authorization": f"Bearer {KEYS[0]}", "content-type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(f"{place.frontend.base_url}/v1/files", content=chunks(), headers=headers)
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # cut off while it sends
    until(lambda: place.contents() <= before, 60)


def half_upload(place: Place) -> http.client.HTTPConnection:
    """A client that has sent 9 MB of a file, and goes on never."""
    connection = http.client.HTTPConnection("127.0.0.1", place.frontend.port, timeout=30)
    connection.putrequest("POST", "/v1/files")
    for name, value in (
        ("authorization", f"Bearer {KEYS[0]}"),
        ("content-type", "multipart/form-data; boundary=x"),
        ("content-length", "18000000"),
    ):
        connection.putheader(name, value)
    connection.endheaders(FIELD % (b"purpose", b"batch") + FILE.removesuffix(b"{}\r\n"))
    connection.send(b"x" * 9_000_000)
    return connection


def test_what_a_client_leaves_half_way_is_deleted(place: Place) -> None:
    before = place.contents()
    listed = {file.id for file in place.one.files.list()}
    connection = half_upload(place)
    until(lambda: place.contents() - before, 60)
    connection.close()
    until(lambda: place.contents() <= before, 60)
    assert {file.id for file in place.one.files.list()} == listed


@pytest.mark.slow
def test_what_a_killed_frontend_leaves_half_way_is_deleted(place: Place) -> None:
    env = {"DYNAMO_NAMESPACE": NAMESPACE, "DYNAMO_FILES_URL": place.folder.as_uri()}
    before = place.contents()
    with Frontend(place.server.url, env=env, ready="/live") as other:
        connection = half_upload(Place(other, place.server, place.folder))
        [left] = until(lambda: place.contents() - before, 60)
        other.kill()
    connection.close()
    assert left in place.contents()
    place.age(left)  # the ten minutes for which an upload that nobody renews is kept
    until(lambda: left not in place.contents(), 60)


@pytest.mark.slow
def test_a_large_upload_is_never_in_memory(place: Place) -> None:
    env = {"DYNAMO_NAMESPACE": NAMESPACE, "DYNAMO_FILES_URL": place.folder.as_uri()}

    class Source(io.RawIOBase):
        """200 MB that are made as they are read."""

        left, name = 200_000_000, "large.jsonl"

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            size = min(len(buffer), self.left)
            buffer[:size] = b"x" * size
            self.left -= size
            return size

    def memory(pid: int, what: str) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) << 10

    with Frontend(place.server.url, env=env, ready="/live") as other:
        before = memory(other.pid, "VmRSS:")
        answer = httpx.post(
            f"{other.base_url}/v1/files",
            data={"purpose": "batch"},
            files={"file": ("large.jsonl", Source())},
            timeout=180,
        )
        assert answer.json()["bytes"] == 200_000_000, json.dumps(answer.json())
        assert memory(other.pid, "VmHWM:") - before < 100_000_000
        size = 0
        with httpx.stream(
            "GET", f"{other.base_url}/v1/files/{answer.json()['id']}/content", timeout=180
        ) as found:
            for piece in found.iter_raw():
                size += len(piece)
        assert size == 200_000_000
        assert memory(other.pid, "VmHWM:") - before < 100_000_000
        httpx.delete(f"{other.base_url}/v1/files/{answer.json()['id']}")
