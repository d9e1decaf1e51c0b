"""A job as it is sent to workers."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterable
from typing import Annotated

import msgspec

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.calls.factory import ServiceEndpoint, ServiceFactory
from dynamo_tasks.pipelines.calls.service_methods import method_names
from dynamo_tasks.pipelines.calls.settings import Settings
from dynamo_tasks.pipelines.graph.functions import FunctionSpec
from dynamo_tasks.pipelines.graph.operators import SOURCES, ErrorPolicy, Stage, StageKind
from dynamo_tasks.pipelines.plans.portable import Reference, load, refer
from dynamo_tasks.pipelines.plans.trust import Trust
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.names import RUN, EndpointId

__all__ = ["COMPONENT", "OperatorPlan", "Plan", "ServicePlan", "make_plan", "plan_operator", "plan_service"]

COMPONENT = "Operators"
"""The component that runs the tasks of all jobs of a namespace."""
Parallelism = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
"""Each task of an operator is a request: more than that is a mistake, or meant to fill a worker's memory."""


class OperatorPlan(msgspec.Struct, frozen=True):
    """An operator; see :class:`~dynamo_tasks.pipelines.graph.operators.Stage`."""

    name: str
    kind: StageKind
    function: Reference
    parallelism: Parallelism
    on_error: ErrorPolicy
    inputs: list[str]
    keyed: bool

    @property
    def tasks(self) -> list[str]:
        """Names of its tasks."""
        return [f"{self.name}.{index}" for index in range(self.parallelism)]


class ServicePlan(msgspec.Struct, frozen=True):
    """A service.

    Attributes:
        name: Of the service.
        function: Its class and arguments.
        parallelism: Calls at once.
        methods: What can be called.
        streams: Those of them that are generators.
        endpoint: Address of a service that other workers serve; then nothing is hosted for it.
        endpoint_streams: Whether that yields values.
    """

    name: str
    function: Reference = Reference()
    parallelism: Parallelism = 1
    methods: list[str] = []
    streams: list[str] = []
    endpoint: str = ""
    endpoint_streams: bool = True


class Plan(msgspec.Struct, frozen=True):
    """A job: what its workers need to know.

    Attributes:
        id: Of the job.
        name: Of its environment.
        namespace: Where it runs.
        settings: Of its environment.
        operators: In the order of their declaration.
        services: The same.
    """

    id: str
    name: str
    namespace: str
    settings: Settings
    operators: list[OperatorPlan]
    services: list[ServicePlan]

    @property
    def hosted(self) -> list[ServicePlan]:
        """The services that live with the job."""
        return [one for one in self.services if not one.endpoint]

    @property
    def requests(self) -> dict[str, str]:
        """The ids of the requests that run on workers, by name: a task, or ``@`` and a service."""
        names = [task for one in self.operators for task in one.tasks]
        names += [f"@{one.name}" for one in self.hosted]
        return {name: self.request_id(name) for name in names}

    def encode(self) -> bytes:
        """Encode as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Plan:
        """Read :meth:`encode`, sealed or not.

        Raises:
            ConfigError: it is something else, or what another release wrote.
        """
        try:
            plan = msgspec.json.decode(data, type=cls)
        except UNREADABLE as exc:
            raise ConfigError(f"the plan of a job cannot be read: {exc}") from exc
        plan._check_inputs()
        return plan

    def _check_inputs(self) -> None:
        before: set[str] = set()
        for one in self.operators:
            if unknown := set(one.inputs) - before:
                raise ConfigError(
                    f"operator {one.name!r} takes records from {sorted(unknown)}, none before it"
                )
            before.add(one.name)

    def operator(self, name: str) -> OperatorPlan:
        """One of its operators.

        Raises:
            ConfigError: it has none of that name.
        """
        for one in self.operators:
            if one.name == name:
                return one
        raise ConfigError(f"the plan of job {self.id!r} has no operator {name!r}")

    def producers(self) -> dict[str, int]:
        """Each task, and how many tasks send it records."""
        tasks = {one.name: one.parallelism for one in self.operators}
        return {task: sum(tasks[name] for name in one.inputs) for one in self.operators for task in one.tasks}

    def following(self, name: str) -> list[OperatorPlan]:
        """The operators that take records from one."""
        return [one for one in self.operators if name in one.inputs]

    def stages(self, trust: Trust) -> dict[str, Stage]:
        """The operators as declarations again, with what they run.

        Raises:
            ConfigError: something may not be run here, or cannot be imported.
        """
        made: dict[str, Stage] = {}
        for one in self.operators:
            inputs = [made[name] for name in one.inputs]
            made[one.name] = Stage(
                one.name, one.kind, load(one.function, trust), one.parallelism, one.on_error, inputs
            )
        return made

    def request_id(self, what: str) -> str:
        """Id of the request that runs a task or hosts a service: the same in every process."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.namespace}/{self.id}/{what}"))

    def component(self, service: str) -> str:
        """The component that a service is."""
        return f"{self.name}-{service}{RUN}{self.id.rpartition('-')[2]}"

    def endpoint(self, service: str, method: str) -> EndpointId:
        """The endpoint at which a method of a service is called."""
        return EndpointId(self.namespace, self.component(service), method)


def make_plan(
    job_id: str,
    name: str,
    settings: Settings,
    stages: Iterable[Stage],
    factories: Iterable[ServiceFactory],
    endpoints: Iterable[ServiceEndpoint] = (),
) -> Plan:
    """Describe a job.

    Raises:
        ConfigError: something cannot travel to a worker; says what to do.
    """
    operators = [plan_operator(stage) for stage in stages]
    services = [plan_service(one) for one in factories]
    services += [
        ServicePlan(one.name, endpoint=str(one.endpoint), endpoint_streams=one.streams) for one in endpoints
    ]
    return Plan(job_id, name, settings.namespace, settings, operators, services)


def plan_operator(stage: Stage) -> OperatorPlan:
    """Describe an operator; raises as :func:`make_plan`."""
    keyed = stage.kind not in SOURCES and all(one.keyed for one in stage.inputs)
    inputs = [one.name for one in stage.inputs]
    return OperatorPlan(
        stage.name, stage.kind, refer(stage.function), stage.parallelism, stage.on_error, inputs, keyed
    )


def plan_service(factory: ServiceFactory) -> ServicePlan:
    """Describe a service; raises as :func:`make_plan`."""
    cls = factory.service_class
    methods = method_names(cls)
    kinds = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    streams = [name for name in methods if any(is_kind(getattr(cls, name)) for is_kind in kinds)]
    reference = refer(FunctionSpec(cls, factory.args, factory.kwargs))
    return ServicePlan(factory.name, reference, factory.parallelism, methods, streams)
