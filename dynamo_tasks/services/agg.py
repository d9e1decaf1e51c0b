"""The default graph: Frontend → Processor → Worker, aggregated (prefill and decode in one engine)."""

from dynamo_tasks.services.frontend import Frontend
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.worker import Worker

__all__ = ["Frontend", "Processor", "Worker"]
