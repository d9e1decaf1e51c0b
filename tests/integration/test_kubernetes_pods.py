"""The pods of ``docker/k8s`` as processes: their commands, environment, probes, drain and user, on a real server.

What a cluster adds is not here: the kubelet, its network, its scheduler. A pod is what its manifest says, started as
the manifest's user without capabilities, which may write into its own two volumes only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support import web
from tests.support.kustomize import K8S, build, named
from tests.support.processes import START, Process, environment, together, until
from tests.support.server import RedisServer, free_port

BIN = Path(sys.executable).parent
ASK: dict[str, Any] = {
    "model": "echo", "max_tokens": 150, "stream": True, "messages": [{"role": "user", "content": "go on"}]
}  # fmt: skip
COUNT = """
local listName = KEYS[1]
local listType = redis.call('type', listName).ok
if listType == 'zset' then
    return redis.call('zcard', listName)
elseif listType == 'set' then
    return redis.call('scard', listName)
elseif listType == 'hash' then
    return redis.call('hlen', listName)
elseif listType == 'list' or listType == 'none' then
    return redis.call('llen', listName)
else
    return redis.error_reply('ERR unsupported key type: ' .. listType)
end
"""
"""The script of KEDA's Redis scaler (``pkg/scalers/redis_scaler.go`` at 8b4f083ca)."""


BOX = """
home=$1 tmp=$2 user=$3 group=$4; shift 4
mount --bind "$home" "$home"; mount --bind "$tmp" "$tmp"
while read -r _ _ _ _ at _; do
  case "$at" in "$home" | "$tmp" | /proc* | /dev* | /sys*) ;; *) mount -o remount,bind,ro "$at" 2> /dev/null ;; esac
done < /proc/self/mountinfo
cd "$home"
exec unshare --user --map-user="$user" --map-group="$group" setpriv --no-new-privs "$@"
"""
_BOXES = (
    os.getuid() == 0
    and shutil.which("setpriv") is not None
    and subprocess.run(
        ["unshare", "--mount", "unshare", "--user", "--map-user=10001", "true"], capture_output=True
    ).returncode
    == 0
)


class Pod(Process):
    """The container of a Deployment.

    Args:
        name: Of the Deployment.
        url: Redis, for what the Secret would say.
        folder: Its volumes are made here.
        settings: More arguments, as a patch of the Deployment would add them.
        overlay: Of which the Deployment is.
    """

    def __init__(self, name: str, url: str, folder: Path, *settings: str, overlay: str = "local"):
        manifests = build(K8S / "overlays" / overlay)
        self.spec = named(manifests, "Deployment", name)["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self.port = free_port()
        self.folder = folder
        self.writable = (folder / "home", folder / "tmp")
        self._volumes(named(manifests, "ConfigMap", "dynamo-tasks-graph")["data"])
        # Two pods of one machine cannot have the same port, as they would have in a cluster.
        argv = [
            self._local(word) for word in (*self.container["command"], *self.container["args"], *settings)
        ]
        argv[0] = str(BIN / argv[0])
        super().__init__([*self._box(), *argv], self._environment(url), name=name, cwd=folder / "home")

    def _volumes(self, files: dict[str, str]) -> None:
        for folder in self.writable:
            folder.mkdir(parents=True)
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def _local(self, word: str) -> str:
        for place, here in (("/etc/dynamo-tasks", ""), ("/var/lib/dynamo-tasks", "/home")):
            word = word.replace(place, f"{self.folder}{here}")
        return word.replace("--port=8000", f"--port={self.port}")

    def _ids(self) -> tuple[int, int]:
        context = self.spec["securityContext"]
        return context["runAsUser"], context["runAsGroup"]

    def _box(self) -> list[str]:
        """What a container is: the manifest's user, no capabilities, a tree that cannot be written but for two folders.

        Where the kernel does not let us: the user who runs the test.
        """
        if not _BOXES:
            return []
        ids = [str(one) for one in self._ids()]
        return ["unshare", "--mount", "sh", "-c", BOX, "box", *map(str, self.writable), *ids]

    def _environment(self, url: str) -> dict[str, str]:
        secrets = {"frontend-url": url, "worker-url": url, "api-keys": "k8s-key"}
        given = {
            one["name"]: one["value"] if "value" in one else secrets[one["valueFrom"]["secretKeyRef"]["key"]]
            for one in self.container["env"]
        }
        if "DYNAMO_SYSTEM_PORT" in given:
            given["DYNAMO_SYSTEM_PORT"] = str(self.port)
        image = {
            "DYNAMO_HOME": str(self.folder / "home" / "home"),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return environment(url, **image, **given)

    def probe(self, name: str) -> int:
        """The status that a probe of the manifest sees; 0 while nobody listens."""
        asked = self.container[f"{name}Probe"]["httpGet"]
        assert asked["port"] in {one["name"] for one in self.container["ports"]}
        return web.look(self.port, asked["path"])[0]

    def wait_ready(self, timeout: float = START) -> None:
        for name in ("startup", "readiness", "liveness"):
            until(lambda name=name: self.probe(name) == 200 or not self.alive, timeout, lambda: self.output)  # type: ignore[misc]
            assert self.alive, self.output

    def delete(self) -> float:
        """What the kubelet does: the preStop command, SIGTERM, and SIGKILL after the grace; returns seconds it took."""
        began = time.monotonic()
        if hook := self.container.get("lifecycle", {}).get("preStop"):
            subprocess.run(hook["exec"]["command"], check=True, timeout=60)
        self.signal(signal.SIGTERM)
        left = self.spec["terminationGracePeriodSeconds"] - (time.monotonic() - began)
        self.popen.wait(left)
        return time.monotonic() - began


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with KEDA's user."""
    (tmp_path / "redis").mkdir()
    user = (K8S / "keda.acl").read_text().replace("@KEDA_PASSWORD@", "k-secret")
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* &* +@all\n{user}")
    with RedisServer(tmp_path / "redis", "--aclfile", str(tmp_path / "users.acl")) as server:
        yield server


MOCKER = ("--set=Worker.engine=mocker", "--set=Worker.engine_args.token_delay_ms=20")


@pytest.mark.slow
def test_a_pod_that_is_deleted_ends_its_stream_first(server: RedisServer, tmp_path: Path) -> None:
    """Worker and frontend are deleted while one stream runs: nothing of it is lost, and both end in time."""
    worker = Pod("dynamo-worker", server.url, tmp_path / "w", *MOCKER)
    with together(worker, Pod("dynamo-frontend", server.url, tmp_path / "f")) as (worker, frontend):
        stream = streamed(frontend)
        next(stream)
        assert worker.delete() < worker.spec["terminationGracePeriodSeconds"] / 2
        assert worker.popen.returncode == 0, worker.output
        texts = [json.loads(data) for _, data in stream if data != "[DONE]"]
        assert texts[-1]["choices"][0]["finish_reason"] == "length"
        assert "Traceback" not in worker.output


@pytest.mark.skipif(not _BOXES, reason="needs root, and the kernel's name spaces")
def test_a_box_has_what_the_manifest_says(tmp_path: Path) -> None:
    """The test's own container: otherwise a pod that writes where it must not would pass."""
    code = (
        "import os; print(os.getuid(), os.getgid()); open('x', 'w')\n"
        "try: open('/tmp/x', 'w')\nexcept OSError as e: print(e.errno)"
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        BOX,
        "box",
        str(tmp_path / "home"),
        str(tmp_path / "tmp"),
        "10001",
        "10001",
    ]
    done = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["10001", "10001", "30"], done.stderr


def streamed(frontend: Pod) -> Iterator[tuple[str, str]]:
    return web.events(frontend.port, "POST", "/v1/chat/completions", ASK, {"authorization": "Bearer k8s-key"})


@pytest.mark.slow
def test_a_frontend_serves_on_until_its_streams_end(server: RedisServer, tmp_path: Path) -> None:
    worker = Pod("dynamo-worker", server.url, tmp_path / "w", *MOCKER)
    frontend = Pod("dynamo-frontend", server.url, tmp_path / "f")
    with together(worker, frontend):
        stream = streamed(frontend)
        next(stream)
        assert frontend.delete() < frontend.spec["terminationGracePeriodSeconds"]
        assert json.loads(list(stream)[-2][1])["choices"][0]["finish_reason"] == "length"


@pytest.mark.slow
def test_from_zero_and_back(server: RedisServer, tmp_path: Path) -> None:
    """What KEDA would do, with its own question to Redis as its own user: one that waits, a pod, none."""
    client = redis.Redis(port=server.port, username="keda", password="k-secret")
    triggers = named(build(K8S / "overlays" / "production"), "ScaledObject", "dynamo-worker")["spec"][
        "triggers"
    ]

    def counts() -> list[int]:
        return [int(client.eval(COUNT, 1, one["metadata"]["listName"])) for one in triggers]  # type: ignore[arg-type]

    at_zero = (*MOCKER, "--set=Worker.scale.min=0")
    with Pod("dynamo-frontend", server.url, tmp_path / "f") as frontend:
        with Pod("dynamo-worker", server.url, tmp_path / "w1", *at_zero) as first:
            assert counts() == [0, 0]
            first.delete()
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(lambda: list(streamed(frontend)))
            until(lambda: counts() == [1, 0], 30, "one waits")
            assert frontend.probe("readiness") == 200
            with Pod("dynamo-worker", server.url, tmp_path / "w2", *at_zero) as second:
                until(lambda: counts() == [0, 1], 30, "it runs")
                assert answer.result(60)[-1][1] == "[DONE]"
                until(lambda: counts() == [0, 0], 30, "nobody asks")
                second.delete()
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.get("dt:dynamo:scale")
    client.close()
