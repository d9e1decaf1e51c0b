"""The whole path over TLS: the server asks for our certificate, and we for the server's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.serve.server.resp import ping
from tests.support.faults import kill_redis
from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.readers import PACED, check, start
from tests.support.sentinel import SentinelGroup
from tests.support.server import RedisServer, free_port
from tests.support.tls import Certificates, TlsDoor, make_certificates, server_options, server_program

ASK_BY_CELERY = "import workers.agg as g; print(g.Worker.generate.delay({'prompt': 'a b'}).get(timeout=20))"
ASK: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def door(redis_server: RedisServer, certificates: Certificates) -> Iterator[TlsDoor]:
    with TlsDoor(redis_server.port, certificates) as door:
        yield door


@pytest.fixture(params=["a server", "a door"])
def port(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> Iterator[int]:
    """Where TLS is spoken: by the server itself, and in front of one that does not."""
    if request.param == "a door":
        yield request.getfixturevalue("door").port
        return
    binary, port = server_program(), free_port()
    settings = server_options(certificates, port)
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    with RedisServer(tmp_path, *options, binary=binary):
        yield port


def url_of(port: int, **options: Path | str) -> str:
    return f"rediss://127.0.0.1:{port}/0?{_query(**options)}"


def _query(**options: Path | str) -> str:
    return urlencode({f"ssl_{key}": value for key, value in options.items()})


@pytest.mark.slow
def test_the_whole_path(port: int, certificates: Certificates) -> None:
    """Worker, frontend, a resumed stream, a Celery result and ``status``; the client's key is in the environment."""
    url = url_of(port, ca_certs=certificates.ca)
    env = {"DYNAMO_NAMESPACE": "tls", **_who_we_are(certificates)}
    with together(
        Worker(url, env=env),
        Frontend(url, env=env),
    ) as (worker, frontend):
        events = list(frontend.events("POST", "/v1/chat/completions", ASK | {"stream": True}))
        assert events[-1][1] == "[DONE]"
        request = json.loads(events[0][1])["id"].removeprefix("chatcmpl-")
        rest = frontend.events(
            "GET", f"/v1/requests/{request}/stream", headers={"Last-Event-ID": events[0][0]}
        )
        assert list(rest) == events[1:]
        assert "a b" in _run(env, url, ASK_BY_CELERY)
        shown = json.loads(_command(env, url, "status", "--json"))
        assert {row["component"] for row in shown["instances"]} >= {"Worker"}
        assert worker.alive
        assert "Traceback" not in worker.output + frontend.output


@pytest.mark.slow
def test_sentinels_and_a_failover(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections find the new master over TLS: streams go on, Celery's results come."""
    env = _who_we_are(certificates)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with SentinelGroup(tmp_path, certificates) as group:
        url = f"{group.url}&{_query(ca_certs=certificates.ca)}"
        assert ping(url) == "PONG"
        with pytest.raises(ServerUnavailableError, match="no Sentinel says where the master 'themaster' is"):
            ping(f"{group.url}&ssl_cert_reqs=required")
        with together(
            Worker(url, env=env, settings=PACED),
            Frontend(url, env=env),
        ) as (worker, frontend):
            assert "text" in _run(env, url, ASK_BY_CELERY)
            readers = start(frontend, n=4, tokens=200)
            kill_redis(group.master)
            until(group.promoted, 20.0, "a new master")
            check(readers)
            assert "text" in _run(env, url, ASK_BY_CELERY)
            assert "Traceback" not in worker.output + frontend.output
            assert worker.alive


def _who_we_are(certificates: Certificates) -> dict[str, str]:
    return {
        "DYNAMO_REDIS_CERTFILE": str(certificates.client),
        "DYNAMO_REDIS_KEYFILE": str(certificates.client_key),
    }


def _run(env: dict[str, str], url: str, code: str) -> str:
    return _output([sys.executable, "-c", code], env, url)


def _command(env: dict[str, str], url: str, *words: str) -> str:
    return _output([sys.executable, "-m", "dynamo_tasks", *words], env, url)


def _output(argv: list[str], env: dict[str, str], url: str) -> str:
    done = subprocess.run(
        argv, env=environment(url, **env), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("option", ["ca_certs", "certfile"])
def test_without_the_ca_or_our_certificate_there_is_no_connection(
    port: int, certificates: Certificates, option: str
) -> None:
    options: dict[str, Path | str] = {
        "ca_certs": certificates.ca, "certfile": certificates.client, "keyfile": certificates.client_key
    }  # fmt: skip
    assert ping(url_of(port, **options)) == "PONG"
    del options[option]
    if option == "certfile":
        del options["keyfile"]
    with pytest.raises(ServerUnavailableError):
        ping(url_of(port, **options))


def test_a_certificate_for_another_host_is_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path, host="127.0.0.2")
    with TlsDoor(redis_server.port, foreign, client_certificate=False) as door:
        with pytest.raises(ServerUnavailableError, match="certificate is not valid"):
            ping(url_of(door.port, ca_certs=foreign.ca))
        assert ping(url_of(door.port, ca_certs=foreign.ca, check_hostname="false")) == "PONG"
        assert ping(url_of(door.port, cert_reqs="none")) == "PONG"
