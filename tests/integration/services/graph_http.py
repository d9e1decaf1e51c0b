"""A component that has HTTP methods and no endpoints, behind an entry."""

from dynamo_tasks import api, depends, service


@service(dynamo={"namespace": "http"})
class Alone:
    @api
    async def ask(self) -> str:
        return "alone"


@service()
class Entry:
    alone = depends(Alone)

    @api
    async def ask(self) -> str:
        return "entry"
