"""The page of the API: its files, its headers, and the list that stands in for it."""

from __future__ import annotations

import asyncio
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from dynamo_tasks.frontend.access.admission import OPEN_PATHS
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.openapi.page import docs_routes
from dynamo_tasks.frontend.settings import FrontendSettings
from tests.support.frontend_fakes import FakeGateway, in_process

KEYS = FrontendSettings(api_keys=("k",))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> bool:
    """Whether the package with Swagger UI is there."""
    spec = ModuleSpec("flask_swagger_ui", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    (tmp_path / "dist").mkdir()
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        (tmp_path / "dist" / name).write_text(f"/* {name} */")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if request.param else None)
    return bool(request.param)


@pytest.mark.parametrize("installed", [True, False], indirect=True)
def test_every_file_is_there_without_a_key_and_may_do_little(installed: bool) -> None:
    async def main() -> None:
        async with in_process(FakeGateway(), KEYS) as client:
            for route in docs_routes():
                assert route.path in OPEN_PATHS
                answer = await client.get(route.path)
                assert answer.status_code == 200
                policy = answer.headers["content-security-policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
                assert "unsafe" not in policy
                assert answer.headers["x-frame-options"] == "DENY"
            page = (await client.get("/docs")).text
            assert ("swagger-ui-bundle.js" in page) == installed
            assert ("dynamo-tasks[docs]" in page) == (not installed)
            assert "http:" not in page
            assert (await client.get("/docs/../pyproject.toml")).status_code in (401, 404)
            assert (await client.get("/openapi.json")).status_code == 401

    asyncio.run(main())


@pytest.mark.parametrize("installed", [False], indirect=True)
def test_the_list_shows_nothing_of_a_service(installed: bool) -> None:
    async def secret() -> str:
        return "x"

    async def main() -> None:
        routes = [ApiRoute(name="secret", path="/secret", handler=secret)]
        async with in_process(FakeGateway(), KEYS, routes=routes) as client:
            page = (await client.get("/docs")).text
            assert "/v1/chat/completions" in page
            assert "/secret" not in page

    asyncio.run(main())


def test_a_slash_at_its_end_is_taken_away() -> None:
    async def main() -> None:
        async with in_process(FakeGateway()) as client:
            answer = await client.get("/docs/")
            assert (answer.status_code, answer.headers["location"]) == (308, "../docs")

    asyncio.run(main())
