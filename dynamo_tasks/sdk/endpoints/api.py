"""``@api``: a method that is served over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.sdk.endpoints.declared import Declared

__all__ = ["HTTP_METHODS", "ApiMethod", "api"]

HTTP_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class ApiMethod(Declared):
    """An HTTP method of a service; on an instance it is the method itself.

    Attributes:
        route: Path, e.g. ``/generate``.
        method: One of :data:`HTTP_METHODS`.
    """

    def __init__(self, func: Callable[..., Any], route: str | None = None, method: str = "POST") -> None:
        """Declare ``func``.

        Raises:
            ConfigError: a route that does not begin with ``/``, or an unknown method.
        """
        super().__init__(func)
        self.route = f"/{self.name}" if route is None else route
        if not isinstance(self.route, str) or not self.route.startswith("/") or " " in self.route:
            raise ConfigError(f"api route must be a path that begins with '/', not {route!r}")
        self.method = str(method).upper()
        if self.method not in HTTP_METHODS:
            raise ConfigError(f"api method {method!r}{suggest(self.method, HTTP_METHODS, label='allowed')}")


@overload
def api(route: Callable[..., Any], /) -> ApiMethod: ...
@overload
def api(route: str | None = None, *, method: str = "POST") -> Callable[[Callable[..., Any]], ApiMethod]: ...
def api(
    route: str | Callable[..., Any] | None = None, *, method: str = "POST"
) -> ApiMethod | Callable[[Callable[..., Any]], ApiMethod]:
    """Serve a method over HTTP, as ``@api`` or ``@api(route="/ask", method="POST")``.

    Args:
        route: Path; ``/<function name>`` by default.
        method: HTTP method.

    Raises:
        ConfigError: a route that does not begin with ``/``, or an unknown method.
    """
    if callable(route):
        return ApiMethod(route)
    return lambda func: ApiMethod(func, route, method)
