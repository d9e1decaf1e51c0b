"""A call as its message has it: what Celery asks for once it has ended."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import signals

from dynamo_tasks.protocol.trace import TRACE_HEADERS
from dynamo_tasks.queue.broker.backend import WRITTEN, ResultBackend
from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.store.ledger.ledger import KeptResult

__all__ = ["CallInfo"]

_HOOKS_BEHIND = ("on_success", "after_return")
_BEHIND = (signals.task_success, signals.task_postrun)


class CallInfo:
    """The facts that an execution needs of the message that it serves."""

    def __init__(self, request: Any, task: Any):
        self.id: str = request.id
        self.retries: int = request.retries or 0
        self.headers: dict[str, Any] = {n: value for n in TRACE_HEADERS if (value := request.get(n))}
        self.queue: str = (request.delivery_info or {}).get("routing_key") or ""
        self.tracked = bool(request.get(HEADER))
        links = request.callbacks or request.errbacks or request.chain or request.chord
        self.keeps_result = bool(links or request.group) or not request.ignore_result
        self._backend = task.backend
        alone = not links and not request.ignore_result and isinstance(self._backend, ResultBackend)
        self._result_alone = alone and all(map(task.leaves_alone, _HOOKS_BEHIND))
        self._request = request

    @property
    def has_completion(self) -> bool:
        """``True`` if Celery has work to do once the request has ended: a result to store, links to call."""
        return self.keeps_result

    def kept_result(self, result: Any) -> KeptResult | None:
        """Celery's result, where it is all that is to be done, so that it can be written together with the end.

        Not where an application has code that runs after it: that runs again if the worker dies before.
        """
        if not self._result_alone or any(signal.receivers for signal in _BEHIND):
            return None
        kept: KeptResult | None = self._backend.kept_result(self.id, result, self._request)
        return kept

    def result_is_written(self) -> None:
        """It was written together with the end."""
        setattr(self._request, WRITTEN, True)

    def message(self) -> bytes:
        """The message again, for the ledger."""
        request = self._request
        headers = {
            name: request.get(name)
            for name in (
                "lang", "task", "id", "root_id", "parent_id", "group", "group_index", "shadow", "expires", "retries",
                "timelimit", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting",
                "stamped_headers", "stamps", HEADER,
            )
        }  # fmt: skip
        headers |= self.headers
        embed = {name: request.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
        return msgspec.json.encode(
            {
                "body": msgspec.json.encode([request.args, request.kwargs, embed]).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": headers,
                "properties": {
                    "correlation_id": self.id,
                    "reply_to": request.reply_to or "",
                    "delivery_mode": 2,
                    "priority": (request.delivery_info or {}).get("priority") or 0,
                    "delivery_info": {"exchange": "", "routing_key": self.queue},
                    "body_encoding": None,
                    "delivery_tag": self.id,
                },
            }
        )
