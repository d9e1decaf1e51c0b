"""Which instance takes a request: pure choice over snapshots."""

from dynamo_tasks.router.policies import (
    POLICIES,
    Candidate,
    Direct,
    LeastLoaded,
    PowerOfTwo,
    Random,
    RoundRobin,
    Router,
    make_router,
    pressure,
)

__all__ = [
    "POLICIES",
    "Candidate",
    "Direct",
    "LeastLoaded",
    "PowerOfTwo",
    "Random",
    "RoundRobin",
    "Router",
    "make_router",
    "pressure",
]
