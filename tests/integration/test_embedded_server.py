"""The embedded server with the real program."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_tasks.config.host.home import Home, read_json
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.config.host.redis_server import resolve_redis_url, running_url
from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.serve.server.embedded import EmbeddedServer
from dynamo_tasks.serve.server.resp import PingAddress, ping

USER = """
import sys
from pathlib import Path
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.serve.server.embedded import EmbeddedServer
server = EmbeddedServer(Home(Path(sys.argv[1])))
print(server.join(), flush=True)
sys.stdin.readline()
print(server.leave(), flush=True)
"""


class User:
    """Another process that uses the server of a home until it is asked to leave."""

    def __init__(self, home: Home) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(home.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self.read()

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def leave(self) -> bool:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        stopped = self.read() == "True"
        self.close()
        return stopped

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    if server := server_of(home):
        os.kill(server.pid, signal.SIGKILL)


def server_of(home: Home) -> ProcessId | None:
    state = read_json(home.server / "server.json") or {}
    server = ProcessId.from_json([state.get("pid"), state.get("started")])
    return server if server and server.alive() else None


def ask(url: str, *words: str) -> str:
    """One command whose reply is one line."""
    address = PingAddress.parse(url)
    lines = f"AUTH {address.password}\r\n{' '.join(words)}\r\n"
    with socket.create_connection((address.host, address.port), 5) as connection:
        connection.sendall(lines.encode())
        with connection.makefile("r", encoding="utf-8") as replies:
            assert replies.readline().strip() == "+OK"
            head = replies.readline().strip()
            return replies.readline().strip() if head.startswith("$") and head != "$-1" else head


def test_starts_answers_and_stops(home: Home) -> None:
    server = EmbeddedServer(home)
    assert running_url(home) is None
    url = server.join()
    assert ping(url) == "PONG"
    assert running_url(home) == url
    running = server_of(home)
    assert running is not None
    assert os.getpgid(running.pid) == running.pid  # out of the reach of a terminal's Ctrl-C
    assert os.getsid(running.pid) == os.getsid(0)  # and no session of its own, see ManagedProcess
    assert resolve_redis_url({"DYNAMO_HOME": str(home.path)}) == url
    assert server.leave() is True
    assert running_url(home) is None
    assert server_of(home) is None
    with pytest.raises(ServerUnavailableError):
        ping(url)
    assert server.leave() is True


def test_the_password_is_private(home: Home) -> None:
    server = EmbeddedServer(home)
    url = server.join()
    password = PingAddress.parse(url).password
    try:
        found = server_of(home)
        assert found
        assert password not in Path(f"/proc/{found.pid}/cmdline").read_text()
        assert password not in Path(f"/proc/{found.pid}/environ").read_text()
        with pytest.raises(ServerUnavailableError, match="NOAUTH"):
            ping(url.replace(f":{password}@", ""))
        for name in ("password", "server.conf", "server.json", "server.log"):
            assert stat.S_IMODE((home.server / name).stat().st_mode) == 0o600, name
    finally:
        server.leave()


def test_configuration_is_the_durable_one(home: Home) -> None:
    server = EmbeddedServer(home)
    url = server.join()
    try:
        info = {}
        address = PingAddress.parse(url)
        with socket.create_connection((address.host, address.port), 5) as connection:
            connection.sendall(f"AUTH {address.password}\r\nCONFIG GET appendonly\r\n".encode())
            connection.sendall(
                b"CONFIG GET appendfsync\r\nCONFIG GET maxmemory-policy\r\nCONFIG GET save\r\n"
            )
            connection.sendall(b"CONFIG GET bind\r\n")
            with connection.makefile("r", encoding="utf-8") as replies:
                assert replies.readline() == "+OK\n"
                for _ in range(5):
                    _, _, name, _, value = (replies.readline().strip() for _ in range(5))
                    info[name] = value
        assert info == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "bind": "127.0.0.1",
        }
    finally:
        server.leave()


def test_two_users_share_and_the_last_one_stops_it(home: Home) -> None:
    server = EmbeddedServer(home)
    url = server.join()
    other = User(home)
    assert other.url == url
    assert server.leave() is False
    assert ping(url) == "PONG"
    assert other.leave() is True
    assert running_url(home) is None


def test_a_killed_user_leaves_the_server_to_the_others(home: Home) -> None:
    first = User(home)
    server = EmbeddedServer(home)
    assert server.join() == first.url
    first.kill()
    assert ping(first.url) == "PONG"
    assert server.leave() is True
    assert running_url(home) is None


def test_the_next_user_takes_over_from_a_killed_one(home: Home) -> None:
    first = User(home)
    before = server_of(home)
    first.kill()
    assert running_url(home) == first.url
    server = EmbeddedServer(home)
    assert server.join() == first.url
    assert server_of(home) == before
    assert server.leave() is True


def test_users_that_start_together_get_one_server(home: Home) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USER, str(home.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    urls = {process.stdout.readline() for process in processes if process.stdout}
    stopped = [process.communicate("\n", timeout=20)[0].strip() for process in processes]
    assert len(urls) == 1
    assert sorted(stopped) == ["False", "False", "True"]


def test_a_restart_keeps_data_port_and_password(home: Home) -> None:
    server = EmbeddedServer(home)
    url = server.join()
    assert ask(url, "SET", "dt:test:key", "kept") == "+OK"
    server.leave()
    assert server.join() == url
    assert ask(url, "GET", "dt:test:key") == "kept"
    server.leave()


def test_a_killed_server_is_revived_with_its_data(home: Home) -> None:
    server = EmbeddedServer(home)
    url = server.join()
    assert server.revive() is False
    assert ask(url, "XADD", "dt:test:log", "7-1", "c", "x") == "7-1"
    dead = server_of(home)
    assert dead
    os.kill(dead.pid, signal.SIGKILL)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    assert server.revive() is True
    assert running_url(home) == url
    assert ask(url, "XLEN", "dt:test:log") == ":1"
    assert server.leave() is True


def test_a_taken_port_is_left_to_its_owner(home: Home) -> None:
    server = EmbeddedServer(home)
    port = PingAddress.parse(server.join()).port
    server.leave()
    with socket.create_server(("127.0.0.1", port)):
        other = PingAddress.parse(server.join()).port
        assert other != port
        server.leave()


def test_a_server_that_cannot_start_says_why(home: Home, tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho 'out of paper'\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ServerUnavailableError, match=r"out of paper; see .*server\.log"):
        EmbeddedServer(home, binary=broken).join()
    assert read_json(home.server / "users.json") == []


def test_without_a_server_the_error_says_what_to_do(home: Home) -> None:
    with pytest.raises(ServerUnavailableError, match=r"dynamo-tasks serve.*DYNAMO_REDIS_URL"):
        resolve_redis_url({"DYNAMO_HOME": str(home.path)})
    assert not home.path.exists()


def test_a_given_url_goes_first(home: Home) -> None:
    assert (
        resolve_redis_url({"DYNAMO_REDIS_URL": "redis://h:1/2", "DYNAMO_HOME": str(home.path)})
        == "redis://h:1/2"
    )
