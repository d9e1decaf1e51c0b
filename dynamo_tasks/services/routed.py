"""The routed graph: Frontend → Router → Worker; the Processor lives with the Frontend."""

from __future__ import annotations

from dynamo_tasks.sdk import depends, service
from dynamo_tasks.services.frontend import Frontend as DirectFrontend
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.router import Router
from dynamo_tasks.services.worker import Worker

__all__ = ["Frontend", "Processor", "Router", "Worker"]


@service()
class Frontend(DirectFrontend):
    """Serves HTTP as the Frontend of the default graph does, and sends what it gets to the Router."""

    router = depends(Router)
