"""The routed graph, ready to be changed: Frontend → Router → Worker, and Background for batches.

``dynamo-tasks serve workers.routed:Frontend -f configs/routed.yaml``, or one process alone:
``celery -A dynamo_tasks worker --service workers.routed:Router --config configs/routed.yaml``.
"""

from dynamo_tasks.services.routed import Background, Frontend, Processor, Router, Worker

__all__ = ["Background", "Frontend", "Processor", "Router", "Worker"]
