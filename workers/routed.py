"""The routed graph, ready to be changed: Frontend → Router → Worker.

``dynamo-tasks serve workers.routed:Frontend -f configs/routed.yaml``, or one process alone:
``celery -A dynamo_tasks worker --service workers.routed:Router --config configs/routed.yaml``.
"""

from dynamo_tasks.services.routed import Frontend, Processor, Router, Worker

__all__ = ["Frontend", "Processor", "Router", "Worker"]
