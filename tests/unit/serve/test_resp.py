import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynamo_tasks.errors import ConfigError, ServerUnavailableError
from dynamo_tasks.serve.server.resp import PingAddress, ping


@contextmanager
def peer(*replies: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that sends one reply per received command."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    seen.append(connection.recv(4096))
                    connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", seen
        thread.join()


def test_ping() -> None:
    with peer(b"+PONG\r\n") as (where, seen):
        assert ping(f"redis://{where}/0") == "PONG"
    assert seen == [b"*1\r\n$4\r\nPING\r\n"]


def test_ping_with_user_and_password() -> None:
    with peer(b"+OK\r\n", b"+PONG\r\n") as (where, seen):
        assert ping(f"redis://me:a%40b@{where}/0") == "PONG"
    assert seen[0] == b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$3\r\na@b\r\n"


def test_a_loading_server_is_not_ready() -> None:
    with peer(b"-LOADING Redis is loading the dataset in memory\r\n") as (where, _):
        assert ping(f"redis://{where}") == "LOADING"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"-NOAUTH Authentication required.\r\n", "refuses: NOAUTH"),
        (b"HTTP/1.1 400 Bad Request\r\n", "is no Redis server"),
        (b"", "is no Redis server"),
    ],
)
def test_other_answers_are_clear_errors(reply: bytes, text: str) -> None:
    with peer(reply) as (where, _), pytest.raises(ServerUnavailableError, match=text):
        ping(f"redis://{where}")


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{free.getsockname()[1]}/0"
        with pytest.raises(
            ServerUnavailableError, match=r"no Redis server answers at redis://:\*\*\*@127"
        ) as caught:
            ping(url)
    assert "secret" not in str(caught.value)


def test_unix_socket(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailableError, match="No such file"):
        ping(f"unix://{tmp_path}/none.sock")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://host", "scheme must be one of redis, rediss, unix"),
        ("localhost:6379", "scheme must be"),
        ("redis://", "names no host"),
        ("unix://", "names no socket path"),
        ("redis://host:99999", "port must be"),
    ],
)
def test_bad_urls_name_what_is_allowed(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PingAddress.parse(url)


def test_address_hides_its_password() -> None:
    assert "secret" not in repr(PingAddress.parse("redis://:secret@host:1/0"))
    assert PingAddress.parse("redis://host").port == 6379
    tls = PingAddress.parse("rediss://host?ssl_cert_reqs=none").tls
    assert tls is not None
    assert tls.cert_reqs == "none"
