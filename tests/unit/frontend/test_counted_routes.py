"""What each route counts for, of the limits of an API key: the table of docs/overload.md, route by route."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_tasks.errors import RateLimitError
from dynamo_tasks.frontend.access.configured import ApiKey
from dynamo_tasks.frontend.app import FrontendApp, create_app
from dynamo_tasks.frontend.batches.api import BatchesAPI
from dynamo_tasks.frontend.files.api import FilesAPI
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.frontend.usage.api import UsageAPI
from dynamo_tasks.protocol.http.limits import Allowance, KeyLimits
from dynamo_tasks.protocol.names import EndpointId
from tests.support.frontend_fakes import FakeGateway

DOCS = Path(__file__).parents[3] / "docs" / "overload.md"
KEYS = (ApiKey("k", limits=KeyLimits(requests_per_minute=1, concurrent_requests=1)),)
_ROW = re.compile(
    r"^\| `(?P<method>[A-Z]+) (?P<path>[^`]+)` \| (?P<counts>rate and place|rate|nothing) \|", re.M
)


class Counting(FakeGateway):
    """Refuses whatever is counted, and notes how."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = ""

    async def count(self, owner_key: str, limits: KeyLimits) -> Allowance:
        self.counted = "rate"
        return Allowance(limit=1, reason="full", retry_after=1)

    async def admit(self, api: str, request_id: str, owner_key: str, limits: KeyLimits) -> Allowance:
        self.counted = "rate and place"
        return Allowance(limit=1, reason="full", retry_after=1)


def application(gateway: FakeGateway) -> FrontendApp:
    nothing: Any = SimpleNamespace()
    files = FilesAPI(nothing, gateway, 1)
    batches = BatchesAPI(nothing, nothing, gateway, EndpointId("a", "B", "c"), (), 1)
    return create_app(gateway, FrontendSettings(api_keys=KEYS), wings=(files, batches, UsageAPI(nothing)))


def routes() -> list[tuple[str, str]]:
    return sorted(application(FakeGateway()).paths())


def table() -> dict[tuple[str, str], str]:
    return {(row["method"], row["path"]): row["counts"] for row in _ROW.finditer(DOCS.read_text())}


def test_each_route_is_in_the_table() -> None:
    written = {(method, re.sub(r"\{(\w+):path\}", r"{\1}", path)) for method, path in routes()}
    assert sorted(table()) == sorted(written)


@pytest.mark.parametrize(("method", "path"), routes())
def test_it_counts_for_what_the_table_says(method: str, path: str) -> None:
    async def main() -> str:
        gateway = Counting()
        status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        body = iter([{"type": "http.request", "body": b"{}", "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in body:
                return message
            await asyncio.Event().wait()  # the client stays
            raise AssertionError

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                status.set_result(message["status"])

        scope = {
            "type": "http", "method": method, "path": re.sub(r"\{[^}]*\}", "x", path), "query_string": b"",
            "headers": [(b"authorization", b"Bearer k"), (b"host", b"localhost")], "scheme": "http",
        }  # fmt: skip
        task = asyncio.create_task(application(gateway)(scope, receive, send))
        found = await asyncio.wait_for(status, 10)  # the live page has no end
        task.cancel()
        if gateway.counted:
            assert found == RateLimitError.http_status
        return gateway.counted or "nothing"

    plain = re.sub(r"\{(\w+):path\}", r"{\1}", path)
    assert asyncio.run(main()) == table()[(method, plain)]
