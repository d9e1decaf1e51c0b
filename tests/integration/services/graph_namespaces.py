"""One graph whose services live in several namespaces, with GPUs."""

import os

from dynamo_tasks import api, depends, dynamo_endpoint, service


@service(dynamo={"namespace": "left"}, resources={"gpu": 1}, workers=2)
class Left:
    @dynamo_endpoint()
    async def who(self, request: dict) -> dict:
        return {"side": "left", "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}

    @api(route="/left")
    async def left(self) -> dict:
        return {"pid": os.getpid()}


@service(dynamo={"namespace": "right", "name": "Left"}, resources={"gpu": 0.5})
class Right:
    url: str = "its own business"

    @dynamo_endpoint()
    async def who(self, request: dict) -> dict:
        return {"side": "right", "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}

    @api
    async def right(self) -> dict:
        return {"pid": os.getpid(), "url": self.url}


@service()
class Both:
    left = depends(Left)
    right = depends(Right)

    @api
    async def ask(self) -> list[dict]:
        return [await self.left.who({}), await self.right.who({})]
