"""Services that return and yield values of every make, and one that depends on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from dynamo_tasks import api, depends, dynamo_endpoint, service
from tests.support.plain_values import is_plain, make


class Gives:
    """Each endpoint gives the value of a name."""

    @dynamo_endpoint()
    async def one(self, name: str) -> Any:
        return make(name)

    @dynamo_endpoint()
    def one_in_thread(self, name: str) -> Any:
        return make(name)

    @dynamo_endpoint()
    async def many(self, name: str) -> AsyncIterator[Any]:
        for _ in range(2):
            yield make(name)

    @dynamo_endpoint()
    def many_in_thread(self, name: str) -> Iterator[Any]:
        for _ in range(2):
            yield make(name)


class Last:
    """An aggregate as people write it: of plain values, giving what is not."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.plain = True

    def add(self, value: Any) -> None:
        self.plain = self.plain and is_plain(value)
        self.values.append(value)

    def result(self) -> Any:
        return {"plain": self.plain, "last": self.values[-1], "count": make("enums")}


Near = service()(Gives)


@service(dynamo={"namespace": "plain-values"})
class Edges(Gives):
    """They through the queue, and what a dependency in the same process gives."""

    near = depends(Near)
    far = depends("dyn://plain-values.Edges.many")

    @dynamo_endpoint(aggregate=Last)
    async def whole(self, name: str) -> AsyncIterator[Any]:
        yield make(name)

    @dynamo_endpoint()
    async def asked(self, name: str) -> list[Any]:
        """What a dependency gives in each way, and whether it is plain before it crosses anything."""
        answers = [await self.near.one(name), *await self.near.many(name)]
        answers += [value async for value in self.near.one_in_thread.generate(name)]
        answers += [value async for value in self.near.many_in_thread(name)]
        answers += [value async for value in self.far.many(name)]
        return [all(map(is_plain, answers)), *answers]

    @dynamo_endpoint()
    async def prompted(self, request: dict[str, Any]) -> Any:
        """As pipelines ask."""
        return make(request["prompt"])

    @dynamo_endpoint()
    async def echo(self, request: Any) -> Any:
        return request

    @api
    async def json(self, name: str) -> Any:
        return make(name)

    @api
    async def sse(self, name: str) -> AsyncIterator[Any]:
        yield make(name)
