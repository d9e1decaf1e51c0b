"""The rules of NVIDIA Dynamo's planner (1.6.1), under its names and with its defaults.

They are here to be compared with, and for those who move from there. They are written after its source
(``components/src/dynamo/planner/core``), mode ``agg``: one kind of worker, which does prefill and decode.
"""

from dynamo_tasks.planner.dynamo.settings import DynamoSettings
from dynamo_tasks.planner.dynamo.sla import SlaPolicy
from dynamo_tasks.planner.dynamo.thresholds import ThresholdPolicy

__all__ = ["DynamoSettings", "SlaPolicy", "ThresholdPolicy"]
