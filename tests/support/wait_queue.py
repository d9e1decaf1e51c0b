"""A component's queue and line on a real server, as workers see them."""

from __future__ import annotations

import json
import uuid
from typing import Any

from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS, WAIT_QUEUE_STEP, priority_suffix
from dynamo_tasks.store.registry import Registry
from tests.support.streams import DONE, Place

__all__ = ["WaitQueue"]


class WaitQueue:
    """Submits, pops, claims and ends without a worker."""

    def __init__(self, place: Place):
        self.place = place
        self.keys = place.keys
        self.component = place.endpoint.component

    async def limits(self, **limits: int | None) -> None:
        """Tell the server, as a worker that registers does."""
        await Registry(self.place.store).register(self.place.namespace, 1 << 40, [], {self.component: limits})

    async def submit(self, *, count: int = 1, **options: Any) -> list[str]:
        """Queue requests whose messages can be told apart."""
        ids = [uuid.uuid4().hex for _ in range(count)]
        for request_id in ids:
            message = json.dumps({"headers": {"id": request_id}}).encode()
            await self.place.ledger.submit(self.place.new(request_id, message=message, **options))
        return ids

    async def pop(self) -> str | None:
        """What a worker would take next."""
        for step in PRIORITY_STEPS:
            raw = await self.place.do("RPOP", self.place.queue + priority_suffix(step))
            if raw is not None:
                return str(json.loads(raw)["headers"]["id"])
        return None

    async def claim(self, request_id: str, lease: int, nonce: str | None = None) -> Attempt | None:
        """Claim; ``None`` where it is refused."""
        try:
            return await self.place.ledger.claim(
                self.place.endpoint, request_id, lease, retries=0, tracked=True, queue=self.place.queue, message=b"",
                nonce=nonce,
            )  # fmt: skip
        except ClaimRefused:
            return None

    async def finish(self, attempt: Attempt) -> str:
        """End it well."""
        return await self.place.ledger.finish(
            attempt, top=EventId(attempt.epoch, 0), end=DONE, result=b"", settled=True
        )

    async def serve(self, count: int, lease: int) -> list[str]:
        """Pop, claim and finish so many, one after the other. Returns their ids in the order in which they ran."""
        done: list[str] = []
        while len(done) < count and (request_id := await self.pop()) is not None:
            attempt = await self.claim(request_id, lease)
            assert attempt is not None
            await self.finish(attempt)
            done.append(request_id)
        return done

    async def length(self) -> int:
        """As kombu and Flower count it."""
        steps = (*PRIORITY_STEPS, WAIT_QUEUE_STEP)
        lists = [f"{self.place.queue}{PRIORITY_SEPARATOR}{s}" if s else self.place.queue for s in steps]
        return sum([int(await self.place.do("LLEN", one)) for one in lists])

    async def running(self) -> set[str]:
        """Ids that the server counts as running."""
        return {raw.decode() for raw in await self.place.do("SMEMBERS", self.keys.running(self.component))}

    async def waiting(self) -> set[str]:
        """Ids that the server counts as waiting."""
        return {raw.decode() for raw in await self.place.do("SMEMBERS", self.keys.waiting(self.component))}

    async def admit(self) -> None:
        """What the sweeper does."""
        await script("admit").run(self.place.store.commands, [], base=self.keys.base)
