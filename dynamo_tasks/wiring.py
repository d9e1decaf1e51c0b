"""Named ports by which a lower layer calls a higher one, filled at the top (``dynamo_tasks/__init__.py``).

Imports go downwards only. Where a declaration of the sdk needs the runtime, or a worker the HTTP server of its
service, the lower layer calls a port, and nothing of it names the module above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "Port",
    "api_server",
    "default_app",
    "default_resolver",
    "plain_endpoints",
    "process_services",
    "ray_environment",
]


class Port:
    """A function of a higher layer, under a name that a lower one can call.

    Args:
        what: What it gives, for the error of a process that has nothing there.
    """

    def __init__(self, what: str):
        self._what = what
        self._function: Callable[..., Any] | None = None

    def fill(self, function: Callable[..., Any]) -> None:
        """Name the function; the last one counts."""
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it.

        Raises:
            RuntimeError: nobody has filled the port.
        """
        if self._function is None:
            raise RuntimeError(f"no {self._what} in this process; import dynamo_tasks first")
        return self._function(*args, **kwargs)


default_app = Port("dynamo-tasks application")
"""``() -> DynamoApp``: the application that handles without one use."""
default_resolver = Port("resolver")
"""``() -> Resolver``: the resolver that declarations use in a plain script."""
process_services = Port("services of a process")
"""``(service, instance) -> ProcessServices``: the dependencies of a service that BentoML hosts."""
api_server = Port("HTTP server of services")
"""``(host, address, port, reuse_port=) -> ApiServer``: the HTTP methods of a hosted service."""
plain_endpoints = Port("host of plain endpoints")
"""``(runtime) -> EmbeddedHost``: endpoints that plain code serves."""
ray_environment = Port("pipelines on Ray")
"""``() -> type[RayEnvironment]``."""
