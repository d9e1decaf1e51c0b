"""The default graph: Frontend → Processor → Worker, prefill and decode in one engine; Background beside."""

from dynamo_tasks.services.background import Background
from dynamo_tasks.services.frontend import Frontend
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.worker import Worker

__all__ = ["Background", "Frontend", "Processor", "Worker"]
