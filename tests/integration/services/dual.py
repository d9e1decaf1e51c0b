"""One class with queue endpoints, methods of ours over HTTP, and real BentoML methods."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import bentoml
import pydantic

from dynamo_tasks import api, async_on_start, depends, dynamo_endpoint, on_shutdown, service


class Order(pydantic.BaseModel):
    item: str
    count: int = 1


@service(dynamo={"namespace": "dual"})
class Helper:
    @dynamo_endpoint()
    async def double(self, number: int) -> int:
        return number * 2


@service()
class Plain:
    helper = depends(Helper)

    async def quadruple(self, number: int) -> int:
        return await self.helper.double(await self.helper.double(number))


@service(
    dynamo={"enabled": True, "namespace": "dual"},
    resources={"cpu": "1"},
    workers=1,
    traffic={"timeout": 30, "concurrency": 64},
    envs=[{"name": "TONE", "value": "dry"}],
    labels={"team": "x"},
)
class Dual:
    helper = depends(Helper)
    plain = depends(Plain)
    greeting: str = "hello"

    def __init__(self) -> None:
        self.calls = 0
        self.started = 0

    @async_on_start
    async def load(self) -> None:
        self.started += 1

    @bentoml.on_startup
    def warm(self) -> None:
        self.started += 10

    @on_shutdown
    def close(self) -> None:
        self.started = 0

    @bentoml.api
    def greet(self, name: str) -> str:
        self.calls += 1
        return f"{self.greeting} {name}"

    @bentoml.api(route="/orders")
    async def order(self, order: Order) -> Order:
        return Order(item=order.item.upper(), count=order.count + 1)

    @bentoml.api
    def size(self, file: Path) -> int:
        return file.stat().st_size

    @bentoml.api
    async def letters(self, text: str) -> AsyncGenerator[str, None]:
        for letter in text:
            yield letter

    @bentoml.api(batchable=True, max_latency_ms=500)
    def batch(self, texts: list[str]) -> list[str]:
        return [f"{text} of {len(texts)}" for text in texts]

    @bentoml.api
    def raw(self, ctx: bentoml.Context) -> str:
        ctx.response.headers["x-answer"] = ctx.request.headers["x-what"]
        return "seen"

    @bentoml.api
    async def twice(self, number: int) -> int:
        return await self.helper.double(number) + await self.plain.quadruple(number)

    @bentoml.task
    def longtask(self, number: int) -> int:
        return number * 3

    @bentoml.api
    def fail(self) -> str:
        raise ValueError("broken")

    @api
    async def ask(self, number: int) -> dict[str, int]:
        return {"number": number + 1}

    @dynamo_endpoint()
    async def report(self, request: dict) -> dict:
        return {"calls": self.calls, "started": self.started, "pid": os.getpid(), "greeting": self.greeting}
