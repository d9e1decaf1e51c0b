"""The default graph, ready to be changed: Frontend → Processor → Worker, and Background for batches.

``dynamo-tasks serve workers.agg:Frontend -f configs/agg.yaml``, or one worker alone:
``celery -A dynamo_tasks worker --service workers.agg:Worker --config configs/agg.yaml``.
"""

from dynamo_tasks.services.agg import Background, Frontend, Processor, Worker

__all__ = ["Background", "Frontend", "Processor", "Worker"]
