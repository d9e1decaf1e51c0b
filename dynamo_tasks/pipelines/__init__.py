"""Pipelines: services, operators that call them, and environments that run both. Names load when first used.

>>> from dynamo_tasks.pipelines import LocalEnvironment, MapFunction
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
    from dynamo_tasks.pipelines.calls.context import BaseRuntimeContext, ServiceContext, TaskContext
    from dynamo_tasks.pipelines.calls.factory import BaseService, ServiceFactory
    from dynamo_tasks.pipelines.calls.messages import ServiceRequest, ServiceResponse
    from dynamo_tasks.pipelines.calls.proxy import ProxyManager
    from dynamo_tasks.pipelines.calls.service_caller import ServiceManager
    from dynamo_tasks.pipelines.celery.environment import RemoteEnvironment
    from dynamo_tasks.pipelines.celery.job import RemoteJob
    from dynamo_tasks.pipelines.celery.service_task import CeleryServiceTask
    from dynamo_tasks.pipelines.datastream import DataStream
    from dynamo_tasks.pipelines.environment import BaseEnvironment, LocalEnvironment
    from dynamo_tasks.pipelines.graph.functions import (
        BatchFunction,
        FilterFunction,
        FlatMapFunction,
        KeyByFunction,
        MapFunction,
        SinkFunction,
        SourceFunction,
    )
    from dynamo_tasks.pipelines.graph.job import Job, JobState, JobStatus
    from dynamo_tasks.pipelines.job_services import create_service_task
    from dynamo_tasks.pipelines.local.service_task import LocalServiceTask
    from dynamo_tasks.pipelines.ray.cluster import ActorWrapper, ensure_ray_initialized
    from dynamo_tasks.pipelines.ray.service_task import RayServiceTask
    from dynamo_tasks.pipelines.service_connection import Connection, connect

_WHERE = {
    "ActorWrapper": "ray.cluster",
    "BaseEnvironment": "environment",
    "BaseRuntimeContext": "calls.context",
    "BaseService": "calls.factory",
    "BaseServiceTask": "calls.base_service_task",
    "BatchFunction": "graph.functions",
    "CeleryServiceTask": "celery.service_task",
    "Connection": "service_connection",
    "DataStream": "datastream",
    "FilterFunction": "graph.functions",
    "FlatMapFunction": "graph.functions",
    "Job": "graph.job",
    "JobState": "graph.job",
    "JobStatus": "graph.job",
    "KeyByFunction": "graph.functions",
    "LocalEnvironment": "environment",
    "LocalServiceTask": "local.service_task",
    "MapFunction": "graph.functions",
    "ProxyManager": "calls.proxy",
    "RayServiceTask": "ray.service_task",
    "RemoteEnvironment": "celery.environment",
    "RemoteJob": "celery.job",
    "ServiceContext": "calls.context",
    "ServiceFactory": "calls.factory",
    "ServiceManager": "calls.service_caller",
    "ServiceRequest": "calls.messages",
    "ServiceResponse": "calls.messages",
    "SinkFunction": "graph.functions",
    "SourceFunction": "graph.functions",
    "TaskContext": "calls.context",
    "connect": "service_connection",
    "create_service_task": "job_services",
    "ensure_ray_initialized": "ray.cluster",
}

__all__ = [
    "ActorWrapper",
    "BaseEnvironment",
    "BaseRuntimeContext",
    "BaseService",
    "BaseServiceTask",
    "BatchFunction",
    "CeleryServiceTask",
    "Connection",
    "DataStream",
    "FilterFunction",
    "FlatMapFunction",
    "Job",
    "JobState",
    "JobStatus",
    "KeyByFunction",
    "LocalEnvironment",
    "LocalServiceTask",
    "MapFunction",
    "ProxyManager",
    "RayServiceTask",
    "RemoteEnvironment",
    "RemoteJob",
    "ServiceContext",
    "ServiceFactory",
    "ServiceManager",
    "ServiceRequest",
    "ServiceResponse",
    "SinkFunction",
    "SourceFunction",
    "TaskContext",
    "connect",
    "create_service_task",
    "ensure_ray_initialized",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
