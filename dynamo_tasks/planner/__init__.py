"""The planner: how many workers a component needs, by pure rules over observations.

``serve`` looks at a component, asks :meth:`Policy.wanted`, and starts or drains workers until there are so many.
"""

from dynamo_tasks.planner.latency import BOUNDS, Latency, LatencyCounts, summed_up
from dynamo_tasks.planner.observation import ForwardPass, Observation, WorkerLoad
from dynamo_tasks.planner.policies import POLICIES, make_policy
from dynamo_tasks.planner.policy import Policy
from dynamo_tasks.planner.settings import PlannerSettings

__all__ = [
    "BOUNDS",
    "POLICIES",
    "ForwardPass",
    "Latency",
    "LatencyCounts",
    "Observation",
    "PlannerSettings",
    "Policy",
    "WorkerLoad",
    "make_policy",
    "summed_up",
]
