"""The routed graph: Frontend → Router → Worker; the Processor lives with the Frontend."""

from __future__ import annotations

from dynamo_tasks.config import DefaultName
from dynamo_tasks.sdk import depends, service
from dynamo_tasks.services.background import Background as DirectBackground
from dynamo_tasks.services.frontend import Frontend as DirectFrontend
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.router import Router
from dynamo_tasks.services.worker import Worker

__all__ = ["Background", "Frontend", "Processor", "Router", "Worker"]


@service(dynamo={"namespace": DefaultName("dynamo")})
class Background(DirectBackground):
    """Runs batches as that of the default graph does, and sends their lines to the Router."""

    router = depends(Router)


@service()
class Frontend(DirectFrontend):
    """Serves HTTP as the Frontend of the default graph does, and sends what it gets to the Router."""

    router = depends(Router)
    background = depends(Background)
