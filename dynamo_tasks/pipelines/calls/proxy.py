"""Proxies of services: cached, with default time-outs, callable like objects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from dynamo_tasks.pipelines.calls.service_caller import ASYNC_TIMEOUT, SYNC_TIMEOUT, ServiceManager
from dynamo_tasks.pipelines.calls.settings import Settings

__all__ = ["DEFAULT_METHOD", "ProxyManager", "ServiceProxy", "Services"]

DEFAULT_METHOD = "process"


class ServiceProxy:
    """One service; its methods are attributes: ``proxy.lookup(x, timeout=2.0)``."""

    def __init__(self, manager: ProxyManager, name: str):
        self._manager = manager
        self._name = name

    def __repr__(self) -> str:
        return f"<ServiceProxy {self._name}>"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call ``process``."""
        return self._manager.call_sync(self._name, *args, **options)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **options: Any) -> Any:
            return self._manager.call_sync(self._name, *args, method=method, **options)

        call.__name__ = method
        self.__dict__[method] = call
        return call


class Services:
    """All services as attributes, or by name in brackets."""

    def __init__(self, manager: ProxyManager):
        self._manager = manager

    def __getattr__(self, name: str) -> ServiceProxy:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._manager.proxy(name)

    __getitem__ = __getattr__

    def __dir__(self) -> list[str]:
        return sorted(self._manager.manager.service_qds)


class ProxyManager:
    """Calls of services with default time-outs.

    Args:
        manager: Sends the requests.
        sync_timeout: Seconds that ``call_sync`` waits by default.
        async_timeout: Seconds after which a future of ``call_async`` fails by default.
    """

    def __init__(
        self,
        manager: ServiceManager,
        *,
        sync_timeout: float = SYNC_TIMEOUT,
        async_timeout: float = ASYNC_TIMEOUT,
    ):
        self.manager = manager
        self.services = Services(self)
        self._sync_timeout = sync_timeout
        self._async_timeout = async_timeout
        self._proxies: dict[str, ServiceProxy] = {}

    @classmethod
    def of(cls, manager: ServiceManager, settings: Settings) -> Self:
        """Make a manager with the time-outs of an environment's settings."""
        return cls(manager, sync_timeout=settings.timeout, async_timeout=settings.async_timeout)

    def proxy(self, name: str) -> ServiceProxy:
        """The proxy of a service; the same at each call until :meth:`reset`.

        Raises:
            UnknownServiceError: no such service.
        """
        found = self._proxies.get(name)
        if found is None:
            self.manager.check(name)
            found = self._proxies[name] = ServiceProxy(self, name)
        return found

    def call_sync(
        self, name: str, *args: Any, timeout: float | None = None, method: str | None = None, **options: Any
    ) -> Any:
        """Call and wait; see :meth:`dynamo_tasks.pipelines.calls.context.Calls.call_service`."""
        wait = self._sync_timeout if timeout is None else timeout
        return self.manager.call_sync(name, method or DEFAULT_METHOD, args, options, timeout=wait)

    def call_async(
        self, name: str, *args: Any, timeout: float | None = None, method: str | None = None, **options: Any
    ) -> Future[Any]:
        """Call without waiting."""
        wait = self._async_timeout if timeout is None else timeout
        return self.manager.call_async(name, method or DEFAULT_METHOD, args, options, timeout=wait)

    def reset(self) -> None:
        """Forget all proxies and queues."""
        self._proxies.clear()
        self.manager.forget_queues()
