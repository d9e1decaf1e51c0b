"""The routes for probes, scrapers and people who ask which release answers."""

from __future__ import annotations

import contextlib
from importlib import metadata

from starlette.requests import Request
from starlette.responses import Response

from dynamo_tasks.errors import UnavailableError
from dynamo_tasks.frontend.gateway import Gateway
from dynamo_tasks.frontend.http.errors import json_response
from dynamo_tasks.observe import metrics

__all__ = ["HealthAPI"]


class HealthAPI:
    """``/health`` (also ``/ping``), ``/live``, ``/ready``, ``/metrics``, ``/version``."""

    def __init__(self, gateway: Gateway):
        self._gateway = gateway
        self._version = metadata.version("dynamo-tasks")

    async def health(self, request: Request) -> Response:
        """200 while at least one instance serves, else 503."""
        try:
            healthy, reason = await self._gateway.healthy(), "no instance serves"
        except UnavailableError as error:
            healthy, reason = False, error.message
        if healthy:
            return json_response({"status": "healthy"})
        return json_response({"status": "unhealthy", "reason": reason}, 503)

    async def live(self, request: Request) -> Response:
        """200 as long as this process answers."""
        return json_response({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """200 once every service has its instances, else 503; with detail."""
        try:
            ready, detail = await self._gateway.ready()
        except UnavailableError as error:
            ready, detail = False, {"reason": error.message}
        return json_response({"ready": ready, **detail}, 200 if ready else 503)

    async def version(self, request: Request) -> Response:
        """The release of this process."""
        return json_response({"version": self._version})

    async def metrics(self, request: Request) -> Response:
        """The metrics of this process, for Prometheus; and what waits and runs in all of them."""
        with contextlib.suppress(UnavailableError):  # all others are as true as ever
            await self._gateway.measure()
        return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)
