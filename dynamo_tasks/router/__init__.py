"""Which instance takes a request: pure choice over snapshots."""

from dynamo_tasks.router.policies import (
    POLICIES,
    Candidate,
    Direct,
    LeastLoaded,
    PowerOfTwo,
    Random,
    RoundRobin,
    RoutingPolicy,
    make_router,
    pressure,
)
from dynamo_tasks.router.recent import Recent

__all__ = [
    "POLICIES",
    "Candidate",
    "Direct",
    "LeastLoaded",
    "PowerOfTwo",
    "Random",
    "Recent",
    "RoundRobin",
    "RoutingPolicy",
    "make_router",
    "pressure",
]
