"""An HTTP service of our own before the shop's endpoints."""

from __future__ import annotations

from dynamo_tasks import api, depends, service

__all__ = ["Front"]


@service()
class Front:
    """Asks the shop's worker."""

    teller = depends("dyn://shop.Teller.who")

    @api
    async def ask(self) -> str:
        return str(await self.teller.who(None))
