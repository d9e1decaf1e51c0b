"""One subscription for all results that a process waits for, in place of one for each.

Celery subscribes to a channel for each result, looks whether it is there already, and unsubscribes behind it: three
commands, and as many answers. A call of ours tells its worker where results of this process go, and its result comes
there as well. Invariants:

- who is told so, is told only while the server has confirmed the subscription: the channel was there before the call;
- a lost connection makes all such calls usual ones: they are looked up and subscribed to, each by itself;
- a worker that does not know of it (an older release) tells a result on its own channel alone. So each second that
  somebody waits, all that have been on their way for longer are looked up, in one command;
- a result whose object is gone is dropped. Where nobody reads for a while, no more than 256 come: the server keeps
  them for us until then.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from celery.backends.redis import ResultConsumer
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.states import READY_STATES

__all__ = ["Replies", "is_inbox"]

_MOST_UNREAD = 256
_SOON = 0.05
"""Who waits for less than so many seconds looks whether a result is there, and does not wait until he is told."""
_LOOK = 1.0
"""Seconds between two looks, and that a result is on its way before it is looked for."""
_NEVER = 600.0
"""Seconds after which a result does not count as one that is still to come."""
_INBOX = "client-"


def is_inbox(name: Any) -> bool:
    """Whether a message may name this as the place of its result; anybody may have written it."""
    return isinstance(name, str) and name.startswith(_INBOX) and len(name) <= 64


class Replies(ResultConsumer):  # type: ignore[misc]
    """Celery's consumer of results, one of each backend."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._told: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._on_the_way: dict[str, float] = {}
        self._is_refused = False
        self._looked = 0.0
        self._rename()

    def _rename(self) -> None:
        self._is_open, self._pid = False, os.getpid()
        self._inbox = _INBOX + uuid4().hex
        self._channel = self._get_key_for_task(self._inbox)

    def on_after_fork(self) -> None:
        """Celery callback in a child: it gets nothing of its parent's."""
        self.subscribed_to.clear()
        self._told.clear()
        self._on_the_way.clear()
        self._rename()
        super().on_after_fork()

    def expect(self, result: Any) -> str | None:
        """Say that a call is made whose result shall come here.

        Args:
            result: Its handle. If it is gone before the result comes, that is dropped.

        Returns:
            The name of the place, for the message; ``None``: the result will have to be fetched as usual.
        """
        if not (self._is_open and self._pid == os.getpid() and self._has_room()):
            return None
        self._told[result.id] = result
        self._on_the_way[result.id] = time.monotonic()
        if self._is_lost():
            self.forget(result.id)
            return None
        return self._inbox

    def _is_lost(self) -> bool:
        """Whether the connection was lost since it was looked at: whoever noticed may have missed this call."""
        return not self._is_open

    def _has_room(self) -> bool:
        """Whether one more may come. What never does, since its call was cancelled, is forgotten in the end."""
        if len(self._on_the_way) < _MOST_UNREAD:
            return True
        with suppress(RuntimeError, StopIteration):  # another thread changes it
            oldest, since = next(iter(self._on_the_way.items()))
            if time.monotonic() - since >= _NEVER:
                return self._on_the_way.pop(oldest, None) is not None
        return False

    def forget(self, task_id: str) -> None:
        """Expect a result no more: its call was not made, or made in another way."""
        self._told.pop(task_id, None)
        self._on_the_way.pop(task_id, None)

    def consume_from(self, task_id: str) -> None:
        """Celery's: subscribe to a result, unless it comes here anyway."""
        if self._pid != os.getpid():
            self.on_after_fork()  # where Celery was not told of it
        if task_id in self._told:
            return
        super().consume_from(task_id)
        if not (self._is_open or self._is_refused or self.backend.waits):
            self._open()

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Celery's: the first subscription of a connection."""
        self._is_open = False
        self.subscribed_to.discard(self._channel)
        super().start(initial_task_id, **kwargs)

    def _open(self) -> None:
        """Subscribe, and see whether the server did."""
        with self._locked():
            if self._pubsub is not None and self._channel not in self.subscribed_to:
                self.subscribed_to.add(self._channel)
                with self.reconnect_on_error():
                    self._pubsub.subscribe(self._channel)
        with suppress(*self._connection_errors):
            try:
                ((_, receivers),) = self.backend.client.pubsub_numsub(self._channel)
                self._is_open = receivers > 0
            except self.backend.redis.exceptions.ResponseError:
                self._is_refused = True  # an ACL that does not allow it

    def _reconnect_pubsub(self) -> None:
        self._is_open = False
        for told in self._told.valuerefs():
            self.subscribed_to.add(self._get_key_for_task(told.key))
        self._told.clear()
        self._on_the_way.clear()
        super()._reconnect_pubsub()

    def cancel_for(self, task_id: str) -> None:
        """Celery's: unsubscribe, where it is subscribed to."""
        if self._get_key_for_task(task_id) in self.subscribed_to:
            super().cancel_for(task_id)

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Celery's: look whether it is there already. What comes here is told, if there is time for that."""
        is_told = getattr(result, "id", None) in self._told  # a set of results has none
        if not is_told or (timeout is not None and timeout < _SOON):
            super().on_wait_for_pending(result, timeout=timeout, **kwargs)

    def drain_events(self, timeout: float | None = None) -> None:
        """Celery's: take what comes. Called once a second at the least, while somebody waits."""
        now = time.monotonic()
        if self._on_the_way and now - self._looked > _LOOK:
            self._looked = now
            self._look(now - _LOOK)
        super().drain_events(timeout)

    def _look(self, since: float) -> None:
        """Look up what has been on its way for so long that its worker may not know where to tell it."""
        late = [task_id for task_id, began in list(self._on_the_way.items()) if began < since]
        keys = list(map(self._get_key_for_task, late))
        if keys:
            with suppress(*self._connection_errors):
                for found in filter(None, self.backend.client.mget(keys)):
                    self.on_state_change(self._decode_result(found), None)

    def on_state_change(self, meta: Any, message: Any) -> None:
        """Celery's, for a message that came: hand it to who waits for it.

        Celery sleeps for 0 s behind each, which takes 0.1 ms on Linux, and keeps what came behind the moment when it
        was looked up.
        """
        if self.on_message:
            self.on_message(meta)
        if meta["status"] not in READY_STATES:
            return
        task_id = meta["task_id"]
        key = self._get_key_for_task(task_id)
        self._on_the_way.pop(task_id, None)
        told = self._told.pop(task_id, None)
        results = [one for kind in self._pending_results for one in list(kind.get(task_id, {}).values())]
        for result in results:
            result._maybe_set_cache(meta)
            bucket = self.buckets.pop(result, None)
            if bucket is not None:
                bucket.append(result)
        if not results:
            if told is not None:
                told._maybe_set_cache(meta)
            elif key in self.subscribed_to and key not in self._pending_unsubscribe:
                self._pending_messages.put(task_id, meta)
        self.cancel_for(task_id)

    def _wait_for_pending(
        self, result: Any, timeout: float | None = None, on_interval: Any = None, on_message: Any = None, **kwargs: Any
    ) -> Any:  # fmt: skip
        """Celery's, without its sleep for 0 s behind each message."""
        self.on_wait_for_pending(result, timeout=timeout, **kwargs)
        before = self.__dict__.get("on_message")
        self.on_message = on_message
        try:
            yield from self.drain_events_until(result.on_ready, timeout=timeout, on_interval=on_interval)
        except TimeoutError:
            raise CeleryTimeoutError("The operation timed out.") from None
        finally:
            self.on_message = before
