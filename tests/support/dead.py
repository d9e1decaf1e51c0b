"""Dead letters without three killed workers: the ledger is told that each owner died."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from dynamo_tasks.store.ledger.recovery import Recovery
from tests.support.streams import Place

__all__ = ["make_dead"]


def make_dead(url: str, owner_key: str = "", namespace: str = "") -> str:
    """Put a request into the dead list of a namespace that nobody serves, one of its own by default; its id."""

    async def make() -> str:
        async with Place(url, namespace) as place:
            request_id = await place.submit(owner_key=owner_key)
            for _ in range(3):
                owner = await place.owner()
                await owner.run(request_id)
                await owner.die()
                outcome = await Recovery(place.store).requeue(place.namespace, request_id, owner.lease)
            assert outcome == "DEAD"
            return request_id

    with ThreadPoolExecutor(1) as thread:  # a browser under test has a loop in the caller's
        return thread.submit(asyncio.run, make()).result()
