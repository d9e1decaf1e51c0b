"""The resolver, which gives the sdk's declarations what is behind them in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.queue.client.task import EndpointTask, make_task
from dynamo_tasks.queue.execution.retry import RETRY_OPTIONS
from dynamo_tasks.runtime.components.client import RemoteClient
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.graphs import configure_alone
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService, TaskLike

if TYPE_CHECKING:
    from dynamo_tasks.runtime.hosting.instance_host import InstanceHost

__all__ = ["RuntimeResolver", "task_of"]


def task_of(app: DynamoApp, endpoint: EndpointId, declared: DynamoEndpoint | None) -> EndpointTask:
    """The Celery task of an endpoint, registered with the application."""
    given = dict(declared.options) if declared is not None else {}
    options = {name: value for name, value in given.items() if name not in RETRY_OPTIONS}
    return make_task(app, endpoint, declared, **options)


class RuntimeResolver:
    """The resolver of one process.

    Args:
        app: The Celery application.
        runtime: Connections for calls from the event loop; ``None`` in a plain script, which can only
            queue calls with ``delay`` and its like.
        instances: Service instances that live in this process, by service.

    Attributes:
        instance_id: Lease id of the hosted service, in hex; empty in a process that hosts none.
        host: What serves the endpoints of this process, and further ones; ``None`` in one that is no worker.
        expected: Component address → number of instances that the graph is configured with.
    """

    def __init__(
        self,
        app: DynamoApp,
        runtime: DistributedRuntime | None = None,
        instances: dict[DynamoService[Any], object] | None = None,
    ):
        self.app = app
        self.runtime = runtime
        self.instances = instances if instances is not None else {}
        self.instance_id = ""
        self.host: InstanceHost | None = None
        self.expected: dict[tuple[str, str], int] = {}

    def remote(self, target: DynamoService[Any] | EndpointId) -> RemoteClient:
        """A client of a service in another process."""
        if self.runtime is None:
            raise RuntimeError(
                "no runtime in this process: in a script use `DistributedRuntime.create()` or `.delay()`"
            )
        return RemoteClient(self.runtime, target)

    def task(self, endpoint: EndpointId, declared: DynamoEndpoint | None) -> TaskLike:
        """The Celery task of an endpoint.

        Raises:
            ConfigError: the environment has settings for its service that are not valid.
        """
        if declared is not None and declared.service is not None:
            configure_alone(declared.service)
            endpoint = declared.id
        return task_of(self.app, endpoint, declared)

    def local(self, service: DynamoService[Any]) -> object | None:
        """The instance of a service in this process, or ``None``."""
        return self.instances.get(service)
