"""Ray, behind a few verbs: the only module that imports it, and only once it is used."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

from dynamo_tasks.errors import ConfigError, ServerUnavailableError, WorkerLostError

__all__ = ["NAMESPACE", "ActorWrapper", "actor_names", "ensure_ray_initialized"]

NAMESPACE = "dynamo_tasks"
"""Ray's namespace for the names of our actors."""

_AHEAD = 64
"""Values of a generator that wait for their reader; then the generator waits."""
_GONE_WITHIN = 10.0

_initializing = threading.Lock()


def ensure_ray_initialized(address: str | None = None, **options: Any) -> None:
    """Connect this process to Ray, or start a cluster that lives as long as the process; a second call does nothing.

    A cluster that is started here listens on the loopback only, has no dashboard and reports no usage.

    Args:
        address: Of a cluster (``auto``, ``host:port``, ``ray://…``); ``RAY_ADDRESS`` by default, else one is started.
        **options: Further arguments of ``ray.init``, such as ``num_cpus``.

    Raises:
        ConfigError: Ray is not installed.
        ServerUnavailableError: the cluster cannot be reached.
    """
    ray = _ray()
    with _initializing:
        if ray.is_initialized():
            return
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        if where == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", **options}
        options = {"namespace": NAMESPACE, "configure_logging": False, **options}
        try:
            ray.init(where, **options)
        except (ConnectionError, RuntimeError, TimeoutError) as exc:
            raise ServerUnavailableError(f"Ray at {where!r} cannot be reached: {exc}") from exc


def actor_names() -> list[str]:
    """Names of our actors that live, of all jobs."""
    rows = _ray().util.list_named_actors(all_namespaces=True)
    return sorted(row["name"] for row in rows if row["namespace"] == NAMESPACE)


class ActorWrapper:
    """An actor, or an object of this process, that is called like any object: ``wrapper.method(x)`` waits.

    Args:
        target: A handle of an actor, or any object.
        name: Of the actor, for what is said about it; an attribute, too.

    Example:
        >>> ActorWrapper([3, 1]).index(1)
        1
    """

    def __init__(self, target: Any, name: str = ""):
        self._target = target
        self.name = name or type(target).__name__

    @classmethod
    def start(
        cls, actor_class: type, *args: Any, name: str, max_restarts: int = 0, concurrency: int | None = None
    ) -> Self:
        """Start an actor; it needs no CPU to itself, ends with this process, and its calls outlive its restarts.

        Args:
            actor_class: A class that the cluster can import.
            *args: Of its ``__init__``.
            name: Unique among the actors that live.
            max_restarts: How often it is started again when it is lost; what it was asked is asked again then.
            concurrency: Calls at once; one by default (a class with coroutines: 1000).
        """
        options: dict[str, Any] = {
            "name": name, "namespace": NAMESPACE, "num_cpus": 0,
            "max_restarts": max_restarts, "max_task_retries": -1 if max_restarts else 0,
        }  # fmt: skip
        if concurrency is not None:
            options["max_concurrency"] = concurrency
        return cls(_ray().remote(actor_class).options(**options).remote(*args), name)

    @classmethod
    def find(cls, name: str) -> Self:
        """An actor that another process started.

        Raises:
            WorkerLostError: there is none of that name.
        """
        try:
            return cls(_ray().get_actor(name, namespace=NAMESPACE), name)
        except ValueError as exc:
            raise WorkerLostError(f"there is no actor {name} (any more)") from exc

    def __repr__(self) -> str:
        return f"<ActorWrapper {self.name}>"

    @property
    def is_actor(self) -> bool:
        """``True`` if calls go to another process."""
        return type(self._target).__module__.startswith("ray.")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self.call(method, *args, **kwargs)

    def call(self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call a method and wait.

        Args:
            method: Its name.
            *args: Its arguments.
            timeout: Seconds; applies to actors.
            **kwargs: Its arguments.

        Raises:
            WorkerLostError: the actor is gone, or does not come back.
            TimeoutError: no answer in time.
            Exception: what the method raises.
        """
        if not self.is_actor:
            return getattr(self._target, method)(*args, **kwargs)
        with _lost(self.name):
            return _ray().get(getattr(self._target, method).remote(*args, **kwargs), timeout=timeout)

    def call_async(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a method without waiting; the errors come out of the future."""
        future: Future[Any] = Future()
        if self.is_actor:
            reference = getattr(self._target, method).remote(*args, **kwargs)
            reference.future().add_done_callback(partial(_relay, future, self.name))
            return future
        try:
            future.set_result(getattr(self._target, method)(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001 - the holder of the future gets it
            future.set_exception(exc)
        return future

    def stream(self, method: str, *args: Any, first_within: float) -> Iterator[Any]:
        """Iterate over the values of a generator of the actor's, as they are made; never asked twice.

        Raises:
            TimeoutError: the first value takes longer than ``first_within`` seconds.
            WorkerLostError: the actor is lost.
        """
        ray = _ray()
        options = {
            "num_returns": "streaming", "max_task_retries": 0, "_generator_backpressure_num_objects": _AHEAD,
        }  # fmt: skip
        values = getattr(self._target, method).options(**options).remote(*args)
        return _values(ray, values, self.name, time.monotonic() + first_within)

    def restart(self) -> None:
        """Have an actor that hangs killed and started again, if it has restarts left; returns at once."""
        _ray().kill(self._target, no_restart=False)

    def kill(self) -> None:
        """End the actor and wait until it is gone; a second call does nothing."""
        if not self.is_actor:
            return
        _ray().kill(self._target, no_restart=True)
        until = time.monotonic() + _GONE_WITHIN
        while self.name in actor_names() and time.monotonic() < until:
            time.sleep(0.01)


def _values(ray: Any, values: Any, name: str, first_until: float) -> Iterator[Any]:
    ended = False
    try:
        ready, _ = ray.wait([values], timeout=max(0.0, first_until - time.monotonic()), fetch_local=False)
        if not ready:
            raise TimeoutError
        for reference in values:
            with _lost(name):
                value = ray.get(reference)
            yield value
        ended = True
    finally:
        if not ended:
            ray.cancel(values)


def _relay(future: Future[Any], name: str, answered: Future[Any]) -> None:
    try:
        with _lost(name):
            result = answered.result()
    except Exception as exc:  # noqa: BLE001 - the holder of the future gets it
        future.set_exception(exc)
    else:
        future.set_result(result)


@contextlib.contextmanager
def _lost(name: str) -> Iterator[None]:
    """Errors of Ray in our words; what a method raised goes through."""
    exceptions = _ray().exceptions
    try:
        yield
    except exceptions.GetTimeoutError as exc:
        raise TimeoutError(f"actor {name} did not answer in time") from exc
    except (exceptions.RayActorError, exceptions.RaySystemError, exceptions.ObjectLostError) as exc:
        raise WorkerLostError(f"actor {name} was lost: {type(exc).__name__}") from exc


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as exc:
        raise ConfigError("the backend 'ray' needs Ray: pip install 'dynamo-tasks[ray]'") from exc
    return ray
