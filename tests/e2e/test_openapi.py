"""The OpenAPI document is kept to by a live server, whatever it is sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from dynamo_tasks.frontend.openapi.document import document
from tests.support.processes import Frontend, Worker, together
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
SCHEMA = schemathesis.openapi.from_dict(document())
KEPT = [CHECKS.get_one(name) for name in (
    "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "negative_data_rejection", "unsupported_method",
)]  # fmt: skip


@pytest.fixture(scope="module")
def frontend(redis_server: RedisServer) -> Iterator[Frontend]:
    env = {"DYNAMO_NAMESPACE": "openapi"}
    url, model = redis_server.url, ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=0")
    with together(
        Worker(url, settings=model, env=env),
        Frontend(url, env=env),
    ) as (worker, frontend):
        yield frontend
        assert worker.alive
        assert "Traceback" not in worker.output + frontend.output


def test_it_is_served(frontend: Frontend) -> None:
    status, body = frontend.get("/openapi.json")
    assert status == 200
    assert body["paths"].keys() == document()["paths"].keys()


@SCHEMA.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_a_live_server_keeps_to_it(frontend: Frontend, case: schemathesis.Case) -> None:
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str) and 0 < len(body["model"]) <= 256:
        body["model"] = "mocker"  # else every request would end at "unknown model"
        for name in ("max_tokens", "max_completion_tokens"):
            if type(body.get(name, 1)) is int and 0 < body.get(name, 1) < 2**31:
                body[name] = 4
    answer = case.call(base_url=frontend.base_url, timeout=30)
    # Data may be too much before it is looked at; and a file of a form may be a number, or anything.
    loose = answer.status_code == 413 or (case.method, case.path) == ("POST", "/v1/files")
    checks = [check for check in KEPT if not loose or "negative" not in check.__name__]
    case.validate_response(answer, checks=checks)
    # A deadline of no time at all is a 504, and rightly so; an error of our own never is right.
    assert answer.status_code not in (500, 502), answer.text
