"""Pipelines: services, operators that call them, and environments that run both. Names load when first used.

>>> from dynamo_tasks.pipelines import LocalEnvironment, MapFunction
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.base_service_task import BaseServiceTask
    from dynamo_tasks.pipelines.celery_service_task import CeleryServiceTask
    from dynamo_tasks.pipelines.connection import Connection, connect
    from dynamo_tasks.pipelines.context import BaseRuntimeContext, ServiceContext, TaskContext
    from dynamo_tasks.pipelines.datastream import DataStream
    from dynamo_tasks.pipelines.environment import BaseEnvironment, LocalEnvironment
    from dynamo_tasks.pipelines.factory import BaseService, ServiceFactory
    from dynamo_tasks.pipelines.functions import (
        BatchFunction,
        FilterFunction,
        FlatMapFunction,
        KeyByFunction,
        MapFunction,
        SinkFunction,
        SourceFunction,
    )
    from dynamo_tasks.pipelines.job import Job, JobState, JobStatus
    from dynamo_tasks.pipelines.job_services import create_service_task
    from dynamo_tasks.pipelines.local_service_task import LocalServiceTask
    from dynamo_tasks.pipelines.messages import ServiceRequest, ServiceResponse
    from dynamo_tasks.pipelines.proxy import ProxyManager
    from dynamo_tasks.pipelines.ray_cluster import ActorWrapper, ensure_ray_initialized
    from dynamo_tasks.pipelines.ray_service_task import RayServiceTask
    from dynamo_tasks.pipelines.remote_environment import RemoteEnvironment
    from dynamo_tasks.pipelines.remote_job import RemoteJob
    from dynamo_tasks.pipelines.service_caller import ServiceManager

_WHERE = {
    "ActorWrapper": "ray_cluster",
    "BaseEnvironment": "environment",
    "BaseRuntimeContext": "context",
    "BaseService": "factory",
    "BaseServiceTask": "base_service_task",
    "BatchFunction": "functions",
    "CeleryServiceTask": "celery_service_task",
    "Connection": "connection",
    "DataStream": "datastream",
    "FilterFunction": "functions",
    "FlatMapFunction": "functions",
    "Job": "job",
    "JobState": "job",
    "JobStatus": "job",
    "KeyByFunction": "functions",
    "LocalEnvironment": "environment",
    "LocalServiceTask": "local_service_task",
    "MapFunction": "functions",
    "ProxyManager": "proxy",
    "RayServiceTask": "ray_service_task",
    "RemoteEnvironment": "remote_environment",
    "RemoteJob": "remote_job",
    "ServiceContext": "context",
    "ServiceFactory": "factory",
    "ServiceManager": "service_caller",
    "ServiceRequest": "messages",
    "ServiceResponse": "messages",
    "SinkFunction": "functions",
    "SourceFunction": "functions",
    "TaskContext": "context",
    "connect": "connection",
    "create_service_task": "job_services",
    "ensure_ray_initialized": "ray_cluster",
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
