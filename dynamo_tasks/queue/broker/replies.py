"""One subscription for all results that a process waits for, in place of one for each.

Celery subscribes to a channel for each result, looks whether it is there already, and unsubscribes after it:
three commands, and as many replies. A call of ours names an inbox of this process, and the worker publishes
the result there as well. Invariants:

- a call names the inbox only while Redis has confirmed the subscription: it was there before the call;
- a lost connection makes all such calls plain ones: they are looked up and subscribed to, each by itself;
- a worker that does not know of it (an older release) publishes a result on its own channel alone. So each
  second that a caller waits, all that have been on their way for longer are looked up, in one command;
- a server that is away is waited for, without end, and without an error for a caller that only waits: what it
  could not be asked is asked once it is back. One attempt to reconnect at a time, so that each call ends in
  time;
- members of a set that have ended without a result (cancelled, no worker left) are looked up in the ledger;
- a result whose object is gone is dropped. Where nobody reads for a while, no more than 256 come: Redis keeps
  them in its output buffer until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from celery.backends.redis import ResultConsumer
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import ResultSet
from celery.states import READY_STATES

from dynamo_tasks.protocol.jitter import chosen
from dynamo_tasks.queue.broker.outages import while_away

__all__ = ["Replies", "is_inbox"]

_MOST_UNREAD = 256
_SOON = 0.05
"""Seconds; a caller that waits for less looks whether a result is there, and waits for no message."""
_LOOK = 1.0
"""Seconds between two looks, and that a result is on its way before it is looked for."""
_AGAIN = 0.5
"""Seconds between two attempts to reconnect."""
_MOST_MEMBERS = 32
"""Members of a set that are looked up at once."""
_NEVER = 600.0
"""Seconds after which a result does not count as one that is still to come."""
_INBOX = "client-"


def is_inbox(name: Any) -> bool:
    """Return whether a name may be an inbox: any client may have written the message that names it."""
    return isinstance(name, str) and name.startswith(_INBOX) and len(name) <= 64


class Replies(ResultConsumer):  # type: ignore[misc]
    """Celery's consumer of results, one of each backend."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._notified: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._on_the_way: dict[str, float] = {}
        self._is_refused = False
        self._looked = 0.0
        self._lost_at: float | None = None
        self._rename()

    def _rename(self) -> None:
        self._is_open, self._pid = False, os.getpid()
        self._inbox = _INBOX + uuid4().hex
        self._channel = self._get_key_for_task(self._inbox)

    def on_after_fork(self) -> None:
        """Celery callback in a child: it gets nothing of its parent's."""
        self.subscribed_to.clear()
        self._notified.clear()
        self._on_the_way.clear()
        self._rename()
        super().on_after_fork()

    def expect(self, result: Any) -> str | None:
        """Expect the result of a call that is about to be made.

        Args:
            result: Its handle. If it is gone before the result comes, that is dropped.

        Returns:
            The name of the inbox, for the message; ``None``: the result has to be fetched in Celery's way.
        """
        if not (self._is_open and self._pid == os.getpid() and self._has_room()):
            return None
        # Before the call is made: its result may come sooner than the answer to the call.
        self._notified[result.id] = result
        self._on_the_way[result.id] = time.monotonic()
        if self._is_lost():
            self.forget(result.id)
            return None
        return self._inbox

    def _is_lost(self) -> bool:
        """Return whether the connection was lost by now: the thread that noticed may have missed this call."""
        return not self._is_open

    def _has_room(self) -> bool:
        """Return whether one more may come. One that never does (cancelled calls) is forgotten in the end."""
        if len(self._on_the_way) < _MOST_UNREAD:
            return True
        with suppress(RuntimeError, StopIteration):  # another thread changes it
            oldest, since = next(iter(self._on_the_way.items()))
            if time.monotonic() - since >= _NEVER:
                return self._on_the_way.pop(oldest, None) is not None
        return False

    def forget(self, task_id: str) -> None:
        """Expect a result no more: its call was not made, or made in another way."""
        self._notified.pop(task_id, None)
        self._on_the_way.pop(task_id, None)

    def consume_from(self, task_id: str) -> None:
        """Celery's: subscribe to a result, unless it comes here anyway."""
        if self._pid != os.getpid():
            self.on_after_fork()  # where Celery does not know of it
        if task_id in self._notified:
            return
        if self._is_away(None):
            self.subscribed_to.add(self._get_key_for_task(task_id))
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
        """Subscribe, and ask whether Redis has done so."""
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

    def _reconnect(self) -> None:
        """Celery's, in one attempt instead of twenty: a caller that waits comes here again."""
        self._lost_at = time.monotonic()
        with suppress(*self._connection_errors):
            self._reconnect_pubsub()
            self._lost_at = None
            return
        # The next one is due some time after this one's end: each may wait for an answer, and a set has many members.
        self._lost_at = time.monotonic()

    def _reconnect_pubsub(self) -> None:
        self._is_open = False
        for result in self._notified.valuerefs():
            self.subscribed_to.add(self._get_key_for_task(result.key))
        self._notified.clear()
        self._on_the_way.clear()
        super()._reconnect_pubsub()

    def _is_away(self, wait: float | None) -> bool:
        """Return whether there is no connection, after a try to reconnect now and then; waits a moment then."""
        if self._lost_at is None:
            return False
        if time.monotonic() - self._lost_at >= _AGAIN:
            with self._locked():
                if self._lost_at is not None:
                    self._reconnect()
        if self._lost_at is not None and wait:
            time.sleep(min(wait, _AGAIN))
        return self._lost_at is not None

    def cancel_for(self, task_id: str) -> None:
        """Celery's: unsubscribe, where it is subscribed to. A connection that is lost has no subscriptions to end."""
        key = self._get_key_for_task(task_id)
        if self._lost_at is not None:
            # Each result that is dropped calls this: it must not try to reconnect, and wait, for every one of them.
            self.subscribed_to.discard(key)
        elif key in self.subscribed_to:
            super().cancel_for(task_id)

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Celery's: look whether it is there already; not so for the inbox, if there is time to wait."""
        is_notified = getattr(result, "id", None) in self._notified  # a set of results has none
        if not is_notified or (timeout is not None and timeout < _SOON):
            with while_away(self.backend):
                super().on_wait_for_pending(result, timeout=timeout, **kwargs)

    def drain_events(self, timeout: float | None = None) -> None:
        """Celery's: take what comes. Called once a second at the least, while somebody waits."""
        now = time.monotonic()
        if self._on_the_way and now - self._looked > _LOOK:
            self._looked = now
            self._look(now - _LOOK)
        if not self._is_away(timeout):
            super().drain_events(timeout)

    def _look(self, since: float) -> None:
        """Look up what has been on its way for so long that its worker may not know where to announce it."""
        late = [task_id for task_id, began in list(self._on_the_way.items()) if began < since]
        keys = list(map(self._get_key_for_task, late))
        if keys:
            with suppress(*self._connection_errors):
                for found in filter(None, self.backend.client.mget(keys)):
                    self.on_state_change(self._decode_result(found), None)

    def on_state_change(self, meta: Any, message: Any) -> None:
        """Celery's, for a message that came: hand it to those who wait for it.

        Celery sleeps for 0 s after each, which takes 0.1 ms on Linux, and keeps a message that came after its
        result was looked up.
        """
        if self.on_message:
            self.on_message(meta)
        if meta["status"] not in READY_STATES:
            return
        task_id = meta["task_id"]
        key = self._get_key_for_task(task_id)
        self._on_the_way.pop(task_id, None)
        announced = self._notified.pop(task_id, None)
        results = [one for kind in self._pending_results for one in list(kind.get(task_id, {}).values())]
        for result in results:
            if result._cache is None:  # another thread, which waits for it too, may have been notified before
                result._maybe_set_cache(meta)
            bucket = self.buckets.pop(result, None)
            if bucket is not None:
                bucket.append(result)
        if not results:
            if announced is not None:
                announced._maybe_set_cache(meta)
            elif key in self.subscribed_to and key not in self._pending_unsubscribe:
                self._pending_messages.put(task_id, meta)
        self.cancel_for(task_id)

    def _wait_for_pending(
        self, result: Any, timeout: float | None = None, on_interval: Any = None, on_message: Any = None, **kwargs: Any
    ) -> Any:  # fmt: skip
        """Celery's, without its sleep for 0 s after each message."""
        began = time.monotonic()
        self.on_wait_for_pending(result, timeout=timeout, **kwargs)
        if timeout is not None:
            timeout = max(0.0, timeout - (time.monotonic() - began))
        before = self.__dict__.get("on_message")
        self.on_message = on_message
        members = _Members(result, on_interval, self.on_state_change)
        try:
            yield from self.drain_events_until(result.on_ready, timeout=timeout, on_interval=members)
        except TimeoutError:
            raise CeleryTimeoutError("The operation timed out.") from None
        finally:
            self.on_message = before


class _Members:
    """Asks the ledger about members of a set that may have ended without a result, once a second.

    Args:
        result: What is waited for.
        on_interval: Whom Celery calls at the same time.
        notify: Takes what Celery's backend would have passed on.
    """

    def __init__(self, result: Any, on_interval: Any, notify: Callable[[Any, Any], None]):
        self._set = result if isinstance(result, ResultSet) else None
        self._on_interval, self._notify = on_interval, notify
        self._asked = time.monotonic()

    def __call__(self) -> None:
        """Celery callback: some time has passed, or something has come."""
        if self._on_interval:
            self._on_interval()
        if self._set is None or time.monotonic() - self._asked < _LOOK:
            return
        open_ones = [one for one in _requests(self._set) if one._cache is None]
        until = time.monotonic() + _LOOK  # one question may take as long; the caller has a timeout of his own
        for one in chosen(open_ones, _MOST_MEMBERS):
            if time.monotonic() > until:
                break
            meta = one.overdue()
            if meta is not None:
                self._notify(meta, None)
        self._asked = time.monotonic()


def _requests(result: Any) -> list[Any]:
    """All members of a set, and of the sets in it, that the ledger may know."""
    if isinstance(result, ResultSet):
        return [found for member in result.results for found in _requests(member)]
    return [result] if hasattr(result, "overdue") else []
