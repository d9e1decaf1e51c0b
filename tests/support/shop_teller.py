"""The service of the shop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from dynamo_tasks import dynamo_endpoint, service

__all__ = ["Teller"]


@service(dynamo={"namespace": "shop"})
class Teller:
    """Tells whose worker it is, word by word."""

    @dynamo_endpoint(policy="replay")
    async def tell(self, words: int) -> AsyncIterator[str]:
        for number in range(words):
            yield f"{os.environ.get('SHOP_NAME', 'nobody')}-{number}"
            await asyncio.sleep(0)

    @dynamo_endpoint
    async def who(self, request: None = None) -> str:
        return os.environ.get("SHOP_NAME", "nobody")
