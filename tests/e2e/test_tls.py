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
from dynamo_tasks.serve.resp import ping
from tests.support.processes import ROOT, Frontend, Worker, environment, together
from tests.support.server import RedisServer
from tests.support.tls import Certificates, TlsDoor, make_certificates

ASK: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def door(redis_server: RedisServer, certificates: Certificates) -> Iterator[TlsDoor]:
    with TlsDoor(redis_server.port, certificates) as door:
        yield door


def url_of(port: int, **options: Path | str) -> str:
    return f"rediss://127.0.0.1:{port}/0?" + urlencode(
        {f"ssl_{key}": value for key, value in options.items()}
    )


@pytest.mark.slow
def test_the_whole_path(door: TlsDoor, certificates: Certificates) -> None:
    """Worker, frontend, a resumed stream, a Celery result and ``status``; the client's key is in the environment."""
    url = url_of(door.port, ca_certs=certificates.ca)
    env = {
        "DYNAMO_NAMESPACE": "tls",
        "DYNAMO_REDIS_CERTFILE": str(certificates.client),
        "DYNAMO_REDIS_KEYFILE": str(certificates.client_key),
    }
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
        text = _run(
            env,
            url,
            "import workers.agg as g; print(g.Worker.generate.delay({'prompt': 'a b'}).get(timeout=20))",
        )
        assert "a b" in text
        shown = json.loads(_command(env, url, "status", "--json"))
        assert {row["component"] for row in shown["instances"]} >= {"Worker"}
        assert worker.alive
        assert "Traceback" not in worker.output + frontend.output


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
    door: TlsDoor, certificates: Certificates, option: str
) -> None:
    options: dict[str, Path | str] = {
        "ca_certs": certificates.ca, "certfile": certificates.client, "keyfile": certificates.client_key
    }  # fmt: skip
    assert ping(url_of(door.port, **options)) == "PONG"
    del options[option]
    if option == "certfile":
        del options["keyfile"]
    with pytest.raises(ServerUnavailableError):
        ping(url_of(door.port, **options))


def test_a_certificate_for_another_host_is_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path, host="127.0.0.2")
    with TlsDoor(redis_server.port, foreign, client_certificate=False) as door:
        with pytest.raises(ServerUnavailableError, match="certificate is not valid"):
            ping(url_of(door.port, ca_certs=foreign.ca))
        assert ping(url_of(door.port, ca_certs=foreign.ca, check_hostname="false")) == "PONG"
        assert ping(url_of(door.port, cert_reqs="none")) == "PONG"
