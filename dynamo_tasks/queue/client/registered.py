"""Endpoints that this process knows nothing of, called by their names: the registry says where they are.

``app.send_task("shop.Teller.greet")`` in a program that has none of the services would go to the default queue, as any
name that Celery does not know, and no worker of that component reads that one. A plain task's name may look the same
(``shop.tasks.mail``); so only what is registered counts, and is looked up at most once in a while.
"""

from __future__ import annotations

import time
from typing import Any

from kombu.exceptions import OperationalError

from dynamo_tasks.errors import DynamoError, InvalidNameError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.broker.transport import Channel

__all__ = ["Registered"]

_KNOWN_FOR, _UNKNOWN_FOR = 60.0, 5.0
"""Seconds for which an answer holds."""
_MOST = 1000
"""Names whose answers are kept."""


class Registered:
    """Names of endpoints that live instances of other processes serve.

    Args:
        app: The application, whose broker has the registry.
    """

    def __init__(self, app: Any):
        self._app = app
        self._answers: dict[str, tuple[float, EndpointId | None]] = {}

    def find(self, name: str) -> EndpointId | None:
        """The endpoint of that name; ``None`` for any other task, and where nobody can be asked."""
        until, found = self._answers.get(name, (0.0, None))
        if time.monotonic() < until:
            return found
        try:
            endpoint = EndpointId.parse(name)
        except InvalidNameError:
            return None
        found = endpoint if self._is_served(endpoint) else None
        if len(self._answers) >= _MOST:
            self._answers.clear()
        self._answers[name] = (time.monotonic() + (_KNOWN_FOR if found else _UNKNOWN_FOR), found)
        return found

    def _is_served(self, endpoint: EndpointId) -> bool:
        with self._app.producer_pool.acquire(block=True) as producer:
            connection = producer.connection
            if not isinstance(producer.channel, Channel):
                return False
            try:
                served = producer.channel.ledger.served(endpoint.namespace)
            except (DynamoError, OperationalError, *connection.connection_errors, *connection.channel_errors):
                return False  # what follows says so
        if served is None or (endpoint.component, endpoint.name) in served:
            return served is not None
        event("queue.name_unknown", endpoint=str(endpoint), queue=self._app.conf.task_default_queue)
        return False
