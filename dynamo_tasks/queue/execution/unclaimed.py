"""Requests that end without an attempt: the ledger's side of what Celery drops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from dynamo_tasks.errors import RequestExpiredError, RequestNotFoundError, ServerUnavailableError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.lanes.verbs import RequestVerbs
from dynamo_tasks.store.ledger.ledger import cancelled

__all__ = ["UnclaimedMessages"]

_RETRY = 0.2
_NOT_OURS = frozenset({State.SUCCEEDED, State.FAILED})


class UnclaimedMessages:
    """Transitions of QUEUED requests, asked again until Redis answers.

    Args:
        ledger: The ledger; that of all lanes where there are several.
        find: Tells the namespace of a request.
    """

    def __init__(self, ledger: RequestVerbs, find: Callable[[str], Awaitable[str]]):
        self._ledger = ledger
        self._find = find
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Run a transition beside the consumer's loop."""
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self, timeout: float) -> None:
        """Wait for what was spawned."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def drop(self, namespace: str, request_id: str, *, expired: bool) -> bool:
        """Celery drops the message as expired or revoked: end its request, if it is still queued.

        Returns:
            Whether Celery is to record that; not where the request runs elsewhere, or has ended otherwise.
        """
        end = (
            End(State.EXPIRED, "expired", error=ErrorInfo.of(RequestExpiredError()))
            if expired
            else cancelled()
        )
        answer = await self.end_queued(namespace, request_id, end)
        # Somebody else ended it, over HTTP for example: Celery has not recorded that, or not yet.
        if answer == "ENDED":
            return await self._owes_revocation(namespace, request_id)
        return answer in ("OK", "GONE")

    async def _owes_revocation(self, namespace: str, request_id: str) -> bool:
        try:
            record = await self._asked(lambda: self._ledger.get(request_id, namespace))
        except RequestNotFoundError:
            return True
        return not record.settled and record.state not in _NOT_OURS

    async def end_queued(self, namespace: str, request_id: str, end: End) -> str:
        """End a request that no worker has started. Returns what the ``cancel`` script answers."""
        return str(
            await self._asked(lambda: self._ledger.cancel(namespace, request_id, end=end, guard="queued"))
        )

    async def revoke(self, request_id: str) -> None:
        """Somebody revoked this id: end it at once, if it is one of ours and no worker has started it."""
        try:
            namespace = await self._asked(lambda: self._find(request_id))
            await self.end_queued(namespace, request_id, cancelled())
        except RequestNotFoundError:
            return

    async def fail(self, namespace: str, request_id: str, error: Exception) -> None:
        """Celery refuses the message: unknown task, not decodable, not valid."""
        info = ErrorInfo.of(error)
        if await self.end_queued(namespace, request_id, End(State.FAILED, "error", error=info)) == "OK":
            event(
                "request.failed",
                request_id=request_id,
                endpoint=namespace,
                attempt=0,
                code=info.code,
                error=info.message,
            )
            await self._asked(lambda: self._ledger.settle(namespace, request_id))

    @staticmethod
    async def _asked(ask: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await ask()
            except ServerUnavailableError:
                await asyncio.sleep(_RETRY)

    async def settle(self, namespace: str, request_id: str) -> None:
        """Celery's completion is done."""
        await self._asked(lambda: self._ledger.settle(namespace, request_id))
