"""Remote control: commands that do more than Celery's own, and a check of what may be a command at all.

``revoke`` acts at once on what waits in a queue or for its time. ``time_limit`` holds for the next message:
Celery's own changes the task, but the worker goes on with the limits that it read when it started.
``pool_shrink`` leaves one slot.

Anybody who may publish on the channel of remote control reaches every worker. What is no command is passed over, and a
reply goes to the queue of a client that waits for one, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from celery.app.control import Control
from celery.utils.functional import maybe_list
from celery.worker.control import Panel
from kombu.pidbox import Node

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.queue.greenlets import Aside, await_, may_await
from dynamo_tasks.queue.worker.foreign import threads
from dynamo_tasks.store.redis.containment import MALFORMED, pass_over

__all__ = ["ControlNode", "JsonControl", "guarded", "install"]

_stock_revoke, _stock_time_limit = Panel.data["revoke"], Panel.data["time_limit"]
_stock_shrink = Panel.data["pool_shrink"]


class JsonControl(Control):  # type: ignore[misc]
    """Commands go out as JSON, which all workers read, whatever an application's tasks are serialized as."""

    def __init__(self, app: Any = None):
        super().__init__(app)
        self.mailbox.serializer = "json"
        self.mailbox.accept = list({*self.mailbox.accept, "json"})


def _revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    unclaimed = state.app.worker_context.unclaimed
    for one in maybe_list(task_id) or []:
        unclaimed.spawn(unclaimed.revoke(str(one)))
    # Celery's own asks the result backend three times for each of them.
    revoke = partial(_stock_revoke, state, task_id, terminate=terminate, signal=signal, **kwargs)
    return _aside(revoke)


def _aside(call: Callable[[], Any]) -> Any:
    return await_(Aside(threads()).run(call)) if may_await() else call()


def _terminate(state: Any, signal: Any = None, task_id: Any = None, **kwargs: Any) -> Any:
    return _revoke(state, task_id, terminate=True, signal=signal)


def _time_limit(state: Any, task_name: Any = None, hard: Any = None, soft: Any = None, **kwargs: Any) -> Any:
    reply = _stock_time_limit(state, task_name=task_name, hard=hard, soft=soft, **kwargs)
    state.consumer.update_strategies()
    return reply


def _pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> Any:
    return _stock_shrink(state, n=min(n, state.consumer.pool.limit - 1), **kwargs)


_Text = Annotated[str, msgspec.Meta(max_length=1024)]
_ROUTING_KEY = re.compile(r"[0-9A-Za-z-]{1,64}")
_LATEST_CLOCK = 2**53


class _ReplyTo(msgspec.Struct, frozen=True):
    exchange: str
    routing_key: str


class _Command(msgspec.Struct, frozen=True):
    """A command as Celery and Flower send it. ``pcre`` is no matcher here: a pattern could block the loop for hours."""

    method: _Text
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: _Text | None = None
    matcher: Literal["glob"] | None = None
    ticket: _Text | None = None
    reply_to: _ReplyTo | None = None


class ControlNode(Node):  # type: ignore[misc]
    """The node of one worker; takes what is a command, and passes over what is none."""

    def handle_message(self, body: Any, message: Any = None) -> Any:
        """kombu callback: something was published on the channel of remote control."""
        try:
            command = msgspec.convert(body, _Command)
            self._check(command, message)
            return super().handle_message(msgspec.to_builtins(command), message)
        except (ProtocolError, *MALFORMED) as exc:
            pass_over("control", "a command of remote control", exc)
            return None

    dispatch_from_message = handle_message

    def _check(self, command: _Command, message: Any) -> None:
        clock = message.headers.get("clock") if message is not None else None
        if clock and not (isinstance(clock, int) and 0 < clock < _LATEST_CLOCK):
            raise ProtocolError("its clock is no number")
        to = command.reply_to
        if to is None:
            return
        wanted = self.mailbox.reply_exchange.name
        if to.exchange != wanted or not _ROUTING_KEY.fullmatch(to.routing_key):
            raise ProtocolError(f"it wants its reply at {to.exchange[:50]!r}, {to.routing_key[:50]!r}")

    def reply(self, data: Any, exchange: str, routing_key: str, ticket: Any, **kwargs: Any) -> None:
        """kombu callback: answer, unless Redis refuses."""
        reply = partial(super().reply, data, exchange, routing_key, ticket, **kwargs)
        try:
            _aside(reply)
        except self.channel.ResponseError as exc:
            pass_over("control", "a reply to remote control", exc)


def guarded(function: Callable[..., Any]) -> Callable[..., None]:
    """Wrap a command so that its errors are logged: arguments of a wrong type must not end the worker."""

    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - Celery checks no arguments, and anybody may have given them
            pass_over("control", getattr(function, "__name__", "a command"), exc)

    return run


def install(app: Any) -> None:
    """Replace Celery's own commands in this process, and what takes them in this application's workers."""
    Panel.data["pool_shrink"] = _pool_shrink
    Panel.data["time_limit"] = _time_limit
    Panel.data["revoke"] = _revoke
    Panel.data["terminate"] = _terminate
    app.control.mailbox.node_cls = ControlNode
