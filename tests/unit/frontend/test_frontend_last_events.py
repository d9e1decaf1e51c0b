"""What ends a stream of an ``@api`` method, and what its events may hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.sse import header_text
from tests.support.frontend_fakes import FakeGateway, in_process, sse

runs: list[str] = []


async def count() -> AsyncIterator[Any]:
    runs.append("count")
    yield "one\u2028two\u0085three\rfour\0"
    yield {"half": "of a pair"}


async def broken() -> AsyncIterator[Any]:
    yield "\ud800"


ROUTES = [ApiRoute(name=f.__name__, path=f"/{f.__name__}", handler=f, method="GET") for f in (count, broken)]


def get(path: str, **headers: str) -> httpx.Response:
    async def main() -> httpx.Response:
        async with in_process(FakeGateway(), routes=ROUTES) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(main())


def test_an_event_source_does_not_run_the_method_again() -> None:
    runs.clear()
    first = get("/count")
    assert sse(first.text)[-1] == ("end", "[DONE]")
    assert len(first.text.splitlines()) == len(first.text.split("\n")) - 1  # no other ends of lines
    assert sse(first.text)[0][1] == "one\u2028two\u0085three\rfour\0"
    again = get("/count", **{"last-event-id": "end"})
    assert (again.status_code, again.text, runs) == (204, "", ["count"])


def test_half_of_a_surrogate_pair_ends_a_stream_with_an_error() -> None:
    found = sse(get("/broken").text)
    assert "surrogates not allowed" in found[0][1]["error"]["message"]
    assert found[-1] == ("end", "[DONE]")


def test_a_name_that_somebody_chose_fits_into_a_header() -> None:
    assert header_text("0f8a-12:x/y") == "0f8a-12:x/y"
    assert header_text("a\r\nset-cookie: b\u2028\0") == "a%0D%0Aset-cookie: b%E2%80%A8%00"
