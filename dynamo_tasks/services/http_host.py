"""The HTTP server of a service that has ``@api`` methods but is no Frontend."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.server import HttpServer
from dynamo_tasks.runtime.host import ServiceHost
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.services.http import api_routes

__all__ = ["ApiServer"]


class ApiServer:
    """Serves the ``@api`` methods of a hosted service; does nothing for one that serves HTTP by itself.

    Args:
        host: The service host.
        address: Address to listen at.
        port: Its port.
    """

    def __init__(self, host: ServiceHost, address: str, port: int):
        self._host = host
        self._address = address
        self._port = port
        self._server: HttpServer | None = None

    async def start(self) -> None:
        """Listen, if there is something to serve."""
        from dynamo_tasks.frontend.app import create_app

        instance: Any = self._host.instance
        routes = api_routes(instance)
        if not routes or hasattr(instance, "url"):
            return
        namespace = self._host.service.namespace_name
        await self._host.runtime.watch(namespace)
        gateway = RuntimeGateway(self._host.runtime, namespace, None, self._host.expected, {})
        self._server = HttpServer(create_app(gateway, None, routes), self._address, self._port)
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await self._server.stop()
