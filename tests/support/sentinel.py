"""A master, a replica, and three Sentinels that watch over them, as processes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import redis

from dynamo_tasks.serve.server.binary import find_binary
from tests.support.processes import until
from tests.support.server import RedisServer, free_port
from tests.support.tls import Certificates, server_options, server_program

__all__ = ["MASTER", "SentinelGroup"]

MASTER = "themaster"
_CONFIG = """
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 4000
sentinel parallel-syncs {name} 1
"""


class SentinelGroup:
    """Use as ``with SentinelGroup(tmp_path) as group: Worker(group.url)``.

    Args:
        folder: Of their data.
        certificates: All of them speak TLS with these. (Master and replica have a plain port for the test as well.)
    """

    def __init__(self, folder: Path, certificates: Certificates | None = None):
        self._folder = folder
        self._certificates = certificates
        self._binary = server_program() if certificates else find_binary()
        self.master, port = self._server("one")
        self._monitored = port
        self.replica, _ = self._server("two", replicaof=f"127.0.0.1 {port}")
        self._ports = [free_port() for _ in range(3)]
        self._sentinels: list[subprocess.Popen[bytes]] = []

    def _server(self, name: str, **more: str) -> tuple[RedisServer, int]:
        """A server, and the port at which others find it."""
        settings, port = more | {"repl-diskless-sync-delay": "0"}, free_port()
        if self._certificates:
            settings |= server_options(self._certificates, port)
        options = [word for key, value in settings.items() for word in (f"--{key}", value)]
        server = RedisServer(self._make(name), *options, binary=self._binary)
        return server, port if self._certificates else server.port

    def _make(self, name: str) -> Path:
        made = self._folder / name
        made.mkdir()
        return made

    def __enter__(self) -> SentinelGroup:
        self.master.start()
        self.replica.start()
        until(
            lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"), what="a replica"
        )
        for port in self._ports:
            folder = self._make(f"sentinel-{port}")
            config = folder / "sentinel.conf"
            settings = {"port": str(port)}
            if self._certificates:
                settings = {"port": "0"} | server_options(self._certificates, port)
            lines = [f"{key} {value}" for key, value in settings.items()]
            common = _CONFIG.format(folder=folder, name=MASTER, master=self._monitored)
            config.write_text("\n".join([*lines, common]))
            argv = [str(self._binary), str(config), "--sentinel"]
            quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self._sentinels.append(subprocess.Popen(argv, **quiet))
        until(
            lambda: all(self._sees_all(port) for port in self._ports), 30.0, "Sentinels that know each other"
        )
        return self

    def _client(self, port: int) -> redis.Redis:
        """Of a Sentinel."""
        if (given := self._certificates) is None:
            return redis.Redis(port=port)
        return redis.Redis(
            host="127.0.0.1", port=port, ssl=True, ssl_ca_certs=str(given.ca),
            ssl_certfile=str(given.client), ssl_keyfile=str(given.client_key),
        )  # fmt: skip

    def _sees_all(self, port: int) -> bool:
        try:
            with self._client(port) as sentinel:
                state = sentinel.sentinel_master(MASTER)
        except redis.RedisError:
            return False
        return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 1

    def __exit__(self, *exc: object) -> None:
        for process in self._sentinels:
            process.kill()
            process.wait()
        self.master.stop()
        self.replica.stop()

    @property
    def url(self) -> str:
        """As kombu and Celery write it."""
        nodes = ";".join(f"sentinel://127.0.0.1:{port}" for port in self._ports)
        return f"{nodes}/0?master_name={MASTER}"

    def kill_sentinel(self) -> None:
        """The first one, which is asked first by whoever asks one by one, goes with its machine."""
        self._sentinels[0].kill()
        self._sentinels[0].wait()

    def failover(self) -> None:
        """Planned: the master steps down."""
        with self._client(self._ports[1]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", MASTER)

    def promoted(self) -> bool:
        """Whether the replica is the master. While it becomes one, it may close connections."""
        try:
            return b"role:master" in self.replica.command("INFO", "replication")
        except ConnectionError:
            return False
