"""Bad input of every kind, end to end: each gives one clear error that names what is wrong, and harms nobody."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.e2e.conftest import Stack
from tests.support.processes import START, Worker, together
from tests.support.server import RedisServer

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
USER = [{"role": "user", "content": "hi"}]

RAW: list[tuple[str, bytes, int]] = [
    (CHAT, b"", 400),
    (CHAT, b"{", 400),
    (CHAT, b"[]", 400),
    (CHAT, b"null", 400),
    (CHAT, b'"text"', 400),
    (CHAT, b"\xff\xfe", 400),
    (CHAT, b'{"model": NaN}', 400),
    (CHAT, b"[" * 5000, 400),
    (TEXT, b"{}", 400),
    (EMBED, b"{}", 400),
]


@pytest.mark.parametrize(
    ("path", "body", "status"), RAW, ids=[repr(body[:12]) + path for path, body, _ in RAW]
)
def test_bodies_that_are_no_request(stack: Stack, path: str, body: bytes, status: int) -> None:
    found, _, answer = stack.one.request("POST", path, body)
    assert found == status
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]


FIELDS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"model": 5}, "model"),
    (CHAT, {"model": ""}, "model"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [{}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (CHAT, {"max_tokens": 10**12}, "max_tokens"),
    (CHAT, {"max_tokens": 1.5}, "max_tokens"),
    (CHAT, {"max_tokens": True}, "max_tokens"),
    (CHAT, {"temperature": "hot"}, "temperature"),
    (CHAT, {"stop": [""]}, "stop"),
    (CHAT, {"stop": [1]}, "stop[0]"),
    (CHAT, {"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    (CHAT, {"background": "yes"}, "background"),
    (CHAT, {"retention": -1}, "retention"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": {"a": 1}}, "prompt"),
    (TEXT, {"prompt": [-1]}, "prompt[0]"),
    (TEXT, {"prompt": [10**9]}, "prompt[0]"),
    (EMBED, {"input": []}, "input"),
    (EMBED, {"input": 5}, "input"),
    (EMBED, {"input": [""]}, "input[0]"),
    (EMBED, {"dimensions": 0}, "dimensions"),
    (EMBED, {"encoding_format": "hex"}, "encoding_format"),
]


@pytest.mark.parametrize(
    ("path", "fields", "param"), FIELDS, ids=[f"{json.dumps(f)[:40]}" for _, f, _ in FIELDS]
)
def test_fields_are_named(stack: Stack, path: str, fields: dict[str, Any], param: str) -> None:
    base = {CHAT: {"messages": USER}, TEXT: {"prompt": "hi"}, EMBED: {"input": "hi"}}[path]
    status, _, answer = stack.one.request("POST", path, {"model": "mocker", **base, **fields})
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405), ("PUT", "/v1/models", 405), ("GET", "/v1/nothing", 404), ("GET", "/nothing", 404),
        ("GET", "/v1/models/gpt-17", 404), ("POST", "/v1/chat/completions/", 400), ("GET", "/v1/requests/%00", 404),
        ("GET", "/v1/requests/" + "x" * 5000, 404),
    ],
)  # fmt: skip
def test_wrong_paths_and_methods(stack: Stack, method: str, path: str, status: int) -> None:
    found, _, answer = stack.one.request(method, path, {} if method != "GET" else None)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_never_ends_is_cut_off(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.one.port), timeout=10) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        answer = b""
        try:
            for _ in range(200):
                sock.sendall(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
        except OSError:
            pass
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_healthy_request_still_works(stack: Stack) -> None:
    """After all of the above; runs last."""
    assert stack.one.request("POST", CHAT, {"model": "mocker", "messages": USER, "max_tokens": 2})[0] == 200
    assert stack.worker.alive


SETTINGS: list[tuple[list[str], str]] = [
    (["--set", "Worker.engin=mocker"], "engine"),
    (["--service", "workers.agg:Nobody"], "Nobody"),
    (["--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
]
MORE: list[tuple[list[str], str]] = [
    (["--set", "Worker.engine=vlm"], "engine"),
    (["--set", "Worker.ServiceArgs.workers=0"], "workers"),
    (["--set", "Worker.ServiceArgs.workers=many"], "workers"),
    (["--set", "Worker.dynamo.namespace=No Such"], "No Such"),
    (["--set", "Worker.engine=mocker", "--set", "Worker.engine_args.token_delay=3"], "token_delay_ms"),
    (["--service", "no.such.module:X"], "no.such.module"),
]


@pytest.mark.parametrize(
    "cases", [SETTINGS, pytest.param(MORE, marks=pytest.mark.slow)], ids=["some", "more"]
)
def test_settings_that_are_wrong_stop_a_worker_with_one_line(
    redis_server: RedisServer, cases: list[tuple[list[str], str]]
) -> None:
    workers = [
        Worker(
            redis_server.url, *arguments, service="" if "--service" in arguments else "workers.agg:Worker", wait=False
        )
        for arguments, _ in cases
    ]  # fmt: skip
    with together(*workers):
        for worker, (arguments, message) in zip(workers, cases, strict=True):
            assert worker.popen.wait(START) == 2, arguments
            lines = [line for line in worker.output.splitlines() if line.strip()]
            assert message in lines[-1], arguments
            assert "Traceback" not in "\n".join(lines)
