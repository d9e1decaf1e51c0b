"""Web pages, as browsers let them speak: other origins, names that point here, readers without headers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import web
from tests.support.processes import Frontend, Worker, together, until
from tests.support.raw_http import Answer, answers, chat_body, raw
from tests.support.serve import Serve
from tests.support.server import RedisServer

CHAT = "/v1/chat/completions"
PAGE, EVIL = "https://app.example", "https://evil.example"


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """One request; ``Sec_Fetch_Site="x"`` is the header ``Sec-Fetch-Site``."""
    given = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    lines.append(f"Content-Length: {len(body)}")
    (only,) = answers(raw(port, "\r\n".join([*lines, "", ""]).encode() + body))
    return only


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """``dynamo-tasks serve``, as it stands."""
    with Serve(tmp_path_factory.mktemp("home")) as serve:
        yield serve


KNOWN = """
127.0.0.1 127.0.0.1:{port} localhost LOCALHOST:{port} localhost. [::1]:{port} 10.1.2.3 [2001:db8::1]
app.localhost:{port} frontend:8000 frontend_1 gpu.local host.docker.internal
"""
FOREIGN = """
evil.example evil.example:{port} localhost.evil.example 127.0.0.1.nip.io 127.0.0.1.evil.example evil.example.
0x7f.example internal.evil.example
"""


def test_a_server_without_keys_answers_to_names_of_its_own_only(keyless: Serve) -> None:
    for host in KNOWN.split():
        assert ask(keyless.port, "GET", "/v1/models", Host=host.format(port=keyless.port)).status == 200, host
    for host in FOREIGN.split():
        for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/metrics"), ("OPTIONS", CHAT)):
            found = ask(keyless.port, method, path, chat_body(), Host=host.format(port=keyless.port))
            assert (found.status, found.code) == (403, "forbidden"), host
            assert "allowed_hosts" in found.message
    target = ask(keyless.port, "GET", "http://evil.example/v1/models")
    assert target.status == 403


def test_other_sites_cannot_use_a_server_without_keys(keyless: Serve) -> None:
    """What browsers send without asking first: forms, plain text, images, scripts, beacons."""
    port, here = keyless.port, f"http://127.0.0.1:{keyless.port}"
    for origin in (
        EVIL,
        "null",
        "http://127.0.0.1:1",
        "http://localhost:3000",
        f"http://evil.example:{port}",
        "http://",
    ):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
            found = ask(port, "POST", CHAT, chat_body(), Origin=origin, Content_Type=kind)
            assert (found.status, found.code) == (403, "forbidden"), origin
            assert "access-control-allow-origin" not in found.headers
        assert ask(port, "DELETE", "/v1/requests/x", Origin=origin).status == 403
        assert ask(port, "OPTIONS", CHAT, Origin=origin, Access_Control_Request_Method="POST").status == 403
    for mode in ("no-cors", "cors"):
        assert ask(port, "GET", "/v1/models", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode=mode).status == 403
    assert (
        ask(port, "POST", CHAT, chat_body(), Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status
        == 403
    )
    for site in ("Cross-Site", "cross-site, same-origin", "anything"):
        assert ask(port, "POST", CHAT, chat_body(), Sec_Fetch_Site=site).status == 403
    # A link that is followed, the server's own pages, and programs are as before.
    assert ask(port, "GET", "/live", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    assert ask(port, "POST", CHAT, chat_body(), Origin=here, Sec_Fetch_Site="same-origin").status == 200
    assert ask(port, "POST", CHAT, chat_body()).status == 200
    assert ask(port, "POST", CHAT, chat_body(), Sec_Fetch_Mode="cors").status == 200  # Node's fetch


def test_trailing_and_doubled_slashes(keyless: Serve) -> None:
    for path in ("/v1/models/", "//v1/models", "//v1/models//", "/live/"):
        assert ask(keyless.port, "GET", path).status == 200, path
    assert ask(keyless.port, "GET", "/v1/models/echo/").status == 200
    for path in ("//v1/chat/completions", "/v1/chat/completions/"):
        assert ask(keyless.port, "POST", path, chat_body()).status == 200
    missing = ask(keyless.port, "GET", "/v1//models")
    assert (missing.status, missing.code) == (404, "not_found")


@pytest.fixture(scope="module")
def pair(redis_server: RedisServer) -> Iterator[tuple[Frontend, Frontend]]:
    """Two frontends of one deployment, with keys and pages of their own."""
    env = {"DYNAMO_NAMESPACE": "browsers", "DYNAMO_API_KEYS": "one-key,two-key"}
    pages = (f'Frontend.cors_origins=["{PAGE}", "http://localhost:3000"]',)
    url = redis_server.url
    with together(
        Worker(url, env=env, settings=("Worker.engine=echo",)),
        Frontend(url, env=env, settings=pages),
        Frontend(url, env={**env, "DYNAMO_CORS_ORIGINS": "*"}),
    ) as (_, one, two):
        yield one, two


def test_a_preflight_is_answered_before_the_key_is_asked_for(pair: tuple[Frontend, Frontend]) -> None:
    one, two = pair
    wanted = "authorization, content-type, idempotency-key, last-event-id, x-stainless-lang"
    for path in (CHAT, "/v1/models", "/v1/requests/x/stream", "/nowhere"):
        found = ask(one.port, "OPTIONS", path, Origin=PAGE, Access_Control_Request_Method="POST",
                    Access_Control_Request_Headers=wanted, Access_Control_Request_Private_Network="true")  # fmt: skip
        assert found.status == 204
        assert found.headers["access-control-allow-origin"] == PAGE
        assert found.headers["access-control-allow-headers"] == wanted
        assert {"GET", "POST", "DELETE"} <= set(found.headers["access-control-allow-methods"].split(", "))
        assert found.headers["access-control-allow-private-network"] == "true"
        assert "Origin" in found.headers["vary"]
    for origin in (EVIL, "null", PAGE + ":444", "http://app.example", "https://app.example.evil.example"):
        found = ask(one.port, "OPTIONS", CHAT, Origin=origin, Access_Control_Request_Method="POST")
        assert (found.status, "access-control-allow-origin" in found.headers) == (403, False)
    anybody = ask(two.port, "OPTIONS", CHAT, Origin=EVIL, Access_Control_Request_Method="POST")
    assert (anybody.status, anybody.headers["access-control-allow-origin"]) == (204, "*")


def test_a_page_reads_answers_streams_and_errors(pair: tuple[Frontend, Frontend]) -> None:
    one, _ = pair
    key = "Bearer one-key"
    for body, status in (
        (chat_body(), 200),
        (chat_body(stream=True), 200),
        (b"{", 400),
        (chat_body(model="x"), 404),
    ):
        found = ask(one.port, "POST", CHAT, body, Origin=PAGE, Authorization=key)
        assert (found.status, found.headers["access-control-allow-origin"]) == (status, PAGE)
        exposed = found.headers["access-control-expose-headers"].split(", ")
        assert {"x-request-id", "retry-after", "x-should-retry"} <= set(exposed)
        assert found.headers["vary"] == "Origin"
    unknown = ask(one.port, "POST", CHAT, chat_body(), Origin=PAGE)
    assert (unknown.status, unknown.headers["access-control-allow-origin"]) == (401, PAGE)
    # With a key, another page gets its answer, which its browser does not show it.
    other = ask(one.port, "POST", CHAT, chat_body(), Origin=EVIL, Authorization=key)
    assert (other.status, "access-control-allow-origin" in other.headers) == (200, False)
    # And the name does not matter: who asks has a key.
    assert ask(one.port, "GET", "/v1/models", Host="api.example", Authorization=key).status == 200


def started(frontend: Frontend, **more: Any) -> str:
    """A request of the first key, begun in the background."""
    body = chat_body(background=True, **more)
    found = ask(frontend.port, "POST", CHAT, body, Authorization="Bearer one-key")
    return str(json.loads(found.body)["id"])


def token_for(frontend: Frontend, request_id: str, key: str = "one-key", **body: Any) -> Answer:
    given = json.dumps(body).encode() if body else b""
    path = f"/v1/requests/{request_id}/stream-token"
    return ask(frontend.port, "POST", path, given, Authorization=f"Bearer {key}", Origin=PAGE)


def test_a_stream_token_opens_one_stream_for_a_while_at_any_frontend(pair: tuple[Frontend, Frontend]) -> None:
    one, two = pair
    mine, other = started(one), started(one)
    made = token_for(one, mine, expires_in=60)
    shown = json.loads(made.body)
    assert (made.status, made.headers["cache-control"], shown["id"]) == (200, "no-store", mine)
    assert abs(shown["expires_at"] - time.time() - 60) < 20
    url = urlsplit(shown["stream"])
    for frontend in pair:
        whole = list(web.events(frontend.port, "GET", shown["stream"]))
        assert whole[-1][1] == "[DONE]"
        rest = list(web.events(frontend.port, "GET", f"{shown['stream']}&after={whole[0][0]}"))
        assert rest == whole[1:]
        assert ask(frontend.port, "HEAD", shown["stream"]).status == 200
    token, late = shown["token"], json.loads(token_for(one, mine, expires_in=1).body)
    path = url.path
    refused = {
        "another stream": f"/v1/requests/{other}/stream?token={token}",
        "the request itself": f"/v1/requests/{mine}?token={token}",
        "the API": f"/v1/models?token={token}",
        "none": path,
        "an empty one": f"{path}?token=",
        "a longer life": f"{path}?token={int(token[:10]) + 1}{token[10:]}",
        "another key's": f"{path}?token={token.split('.')[0]}.{'0' * 12}.{token.split('.')[2]}",
        "garbage": f"{path}?token=%00%ff%20",
        "a wrong signature": f"{path}?token={token[:-2]}AA",
    }
    for why, target in refused.items():
        assert ask(two.port, "GET", target).status == 401, why
    assert ask(two.port, "DELETE", f"/v1/requests/{mine}?token={token}").status == 401
    until(lambda: ask(one.port, "GET", late["stream"]).status == 401, 20)
    assert "expired" in ask(one.port, "GET", late["stream"]).message
    for frontend in pair:  # nothing of it is in any log
        assert token not in frontend.output
        assert token.split(".")[2] not in frontend.output


def test_who_gets_no_stream_token(pair: tuple[Frontend, Frontend]) -> None:
    one, _ = pair
    mine = started(one)
    assert token_for(one, mine, "two-key").status == 404
    assert token_for(one, "unknown").status == 404
    assert token_for(one, mine, "wrong").status == 401
    for wrong in (0, -1, 3601, 1.5, "60", True, None):
        found = token_for(one, mine, expires_in=wrong)
        assert (found.status, "expires_in" in found.message) == (400, True)
    assert token_for(one, mine, lifetime=5).status == 400


def test_without_keys_the_stream_needs_no_token(keyless: Serve) -> None:
    body = chat_body(background=True)
    made = json.loads(ask(keyless.port, "POST", CHAT, body).body)["id"]
    shown = json.loads(ask(keyless.port, "POST", f"/v1/requests/{made}/stream-token").body)
    assert (shown["token"], shown["stream"]) == (None, f"/v1/requests/{made}/stream")
    assert list(web.events(keyless.port, "GET", shown["stream"]))[-1][1] == "[DONE]"
