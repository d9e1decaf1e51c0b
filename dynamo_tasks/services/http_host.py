"""The HTTP server of a service that has ``@api`` or ``@bentoml.api`` methods but is no Frontend."""

from __future__ import annotations

import socket
from typing import Any

from dynamo_tasks.frontend.http.server import HttpServer
from dynamo_tasks.runtime.hosting.service_host import ServiceHost
from dynamo_tasks.sdk.bento import MountedBento, bento_apis
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.services.http import api_routes, http_settings, serves_http, warn_if_open

__all__ = ["ApiServer"]

_EVERY = ("0.0.0.0", "::")


class ApiServer:
    """Serves the HTTP methods of a hosted service; does nothing for one that serves HTTP by itself.

    Args:
        host: The service host.
        address: Address to listen at.
        port: Its port.
        reuse_port: Share it with other processes of the service.
    """

    def __init__(self, host: ServiceHost, address: str, port: int, *, reuse_port: bool = False):
        self._host = host
        self._address = address
        self._port = port
        self._reuse_port = reuse_port
        self._bento: MountedBento | None = None
        self._server: HttpServer | None = None

    @property
    def url(self) -> str | None:
        """The URL at which others reach it: with the host's name, if it listens on every address."""
        if self._server is None:
            return None
        if self._address in _EVERY:
            return f"http://{socket.gethostname()}:{self._server.port}"
        return self._server.url

    async def start(self) -> None:
        """Listen, if there is something to serve."""
        from dynamo_tasks.frontend.app import create_app

        instance: Any = self._host.instance
        routes = api_routes(instance)
        if not self._host.service.apis or serves_http(self._host.service.inner):
            return
        if bento_apis(self._host.service.inner):
            self._bento = MountedBento(self._host.service, instance)
            await self._bento.start()
        namespace = self._host.service.namespace_name
        await self._host.runtime.watch(namespace)
        gateway = RuntimeGateway(self._host.runtime, namespace, None, self._host.expected)
        settings = http_settings(instance, self._address)
        warn_if_open(settings)
        app = create_app(gateway, settings, routes, self._bento.app if self._bento else None)
        self._server = HttpServer(app, self._address, self._port, reuse_port=self._reuse_port)
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            await self._server.stop()
        if self._bento is not None:
            await self._bento.stop()
        self._server = self._bento = None
