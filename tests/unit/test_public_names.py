"""Public names: what users import. One that comes, goes or is renamed is a decision, and shows here."""

import importlib

import pytest

PUBLIC = {
    "dynamo_tasks": (
        "Context DistributedRuntime ServiceConfig StreamResult api app async_on_start current_context "
        "depends dynamo_endpoint endpoint install liveness on_shutdown readiness service"
    ),
    "dynamo_tasks.sdk": (
        "ApiMethod Call DynamoConfig DynamoDependency DynamoEndpoint DynamoService Graph LocalClient "
        "LocalEndpoint Resolver ServiceConfig ServiceState TaskLike api async_on_start collect_hooks "
        "depends dynamo_endpoint endpoint get_resolver liveness load_graph load_service on_shutdown "
        "probe readiness run_hooks service set_resolver to_plain"
    ),
    "dynamo_tasks.runtime": (
        "Client Component DistributedRuntime Endpoint EndpointConfig Item Namespace default_app "
        "default_resolver"
    ),
    "dynamo_tasks.pipelines": (
        "ActorWrapper BaseEnvironment BaseRuntimeContext BaseService BaseServiceTask BatchFunction "
        "CeleryServiceTask Connection DataStream FilterFunction FlatMapFunction Job JobState JobStatus "
        "KeyByFunction LocalEnvironment LocalServiceTask MapFunction ProxyManager RayServiceTask "
        "RemoteEnvironment RemoteJob ServiceContext ServiceFactory ServiceManager ServiceRequest "
        "ServiceResponse SinkFunction SourceFunction TaskContext connect create_service_task "
        "ensure_ray_initialized"
    ),
    "dynamo_tasks.engines": (
        "EmbedRequest EmbeddingResult Engine EngineStats GenerateRequest check_engine create_engine "
        "parse_embed parse_generate"
    ),
    "dynamo_tasks.router": (
        "Candidate Direct LeastLoaded POLICIES PowerOfTwo Random Recent RoundRobin RoutingPolicy make_router "
        "pressure"
    ),
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == PUBLIC[package].split()
    for name in module.__all__:
        assert getattr(module, name) is not None
