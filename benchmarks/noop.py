"""What does nothing, for benchmarks.pipelines: in a module of its own, since workers import it."""

from __future__ import annotations

from typing import Any

from dynamo_tasks import dynamo_endpoint, service


@service(dynamo={"namespace": "benchmark"})
class Plain:
    """The plain endpoint beside it."""

    @dynamo_endpoint()
    def noop(self, request: Any) -> Any:
        """Does nothing."""
        return request


class Noop:
    """Does nothing."""

    def process(self, value: Any) -> Any:
        return value
