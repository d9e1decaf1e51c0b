"""The default graph, ready to be changed: Frontend → Processor → Worker.

``dynamo-tasks serve workers.agg:Frontend -f configs/agg.yaml``, or one worker alone:
``celery -A dynamo_tasks worker --service workers.agg:Worker --config configs/agg.yaml``.
"""

from dynamo_tasks.services.agg import Frontend, Processor, Worker

__all__ = ["Frontend", "Processor", "Worker"]
