"""What travels to a worker, and what is refused with the way out."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines import MapFunction, RemoteEnvironment
from dynamo_tasks.pipelines.graph.functions import FunctionSpec, Items
from dynamo_tasks.pipelines.plans.plan import Plan, make_plan
from dynamo_tasks.pipelines.plans.portable import load, refer
from dynamo_tasks.pipelines.plans.trust import Trust
from tests.support import pipeline_parts as parts
from tests.support.plans import sent_plan

TRUST = Trust(("tests.support",))


class OfMain(MapFunction):
    """Pretends to be of a script."""


OfMain.__module__ = "__main__"


def test_functions_classes_and_instances_come_back() -> None:
    spec = load(refer(FunctionSpec(parts.plus, (2,), {})), TRUST)
    assert (spec.target, spec.args) == (parts.plus, (2,))
    spec = load(refer(FunctionSpec(parts.AskAll, (3,))), TRUST)
    assert (spec.target, spec.args) == (parts.AskAll, (3,))
    spec = load(refer(FunctionSpec(parts.AskAll(7))), TRUST)
    assert spec.is_instance
    assert spec.target.count == 7
    assert list(load(refer(FunctionSpec(Items(range(3)))), TRUST).target()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            FunctionSpec(lambda record: record),
            r"is a lambda and cannot travel .*: move it to the top of a module",
        ),
        (FunctionSpec(OfMain), "move it into a module that the worker can import"),
        (FunctionSpec(parts.plus, (object(),)), "the arguments of .*plus must be JSON"),
        (FunctionSpec(parts.AskAll(object())), "the attributes of .*; give the class and its arguments"),  # type: ignore[arg-type]
        (FunctionSpec(Items([object()])), "the records of from_batch must be JSON"),
        (FunctionSpec(Items(["x" * (17 << 20)])), "take 17 MiB; give a BatchFunction"),
    ],
)
def test_what_cannot_travel_is_refused(given: FunctionSpec, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        refer(given)


def test_an_inner_function_is_refused() -> None:
    def inner(record: Any) -> Any:
        return record

    with pytest.raises(ConfigError, match="is an inner function or class"):
        refer(FunctionSpec(inner))


def test_a_job_is_refused_before_anything_is_sent() -> None:
    env = RemoteEnvironment("shop", {"redis_url": "redis://127.0.0.1:1/0"})
    env.from_batch([1]).map(lambda record: record).collect()
    with pytest.raises(ConfigError, match="is a lambda"):
        env.submit()


def test_a_plan_survives_the_wire() -> None:
    env = RemoteEnvironment("shop", {"redis_url": "redis://:secret@127.0.0.1:1/0"})
    env.register_service("profile", parts.Profile, 0.5)
    env.register_service("llm", "dyn://dynamo.Worker.generate")
    env.from_batch([1]).keyby(parts.evens).map(parts.plus, 1, parallelism=2, name="plus").collect()
    plan = sent_plan(env)
    assert Plan.decode(plan.encode()) == plan
    assert b"secret" not in plan.encode()
    assert plan.producers() == {"batch-1.0": 0, "keyby-1.0": 1, "plus.0": 1, "plus.1": 1, "collect-1.0": 2}
    assert [one.keyed for one in plan.operators] == [False, False, True, True]
    assert set(plan.requests) == {*plan.producers(), "@profile"}
    assert plan.services[0].streams == ["count"]
    again = make_plan(plan.id, plan.name, plan.settings, plan.stages(TRUST).values(), [], [])
    assert again.operators == plan.operators


def test_a_backend_that_does_not_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"has no backend 'rai'; did you mean 'ray'\? \(known: celery, ray\)"
    ):
        RemoteEnvironment("shop", backend="rai")


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    env = RemoteEnvironment("shop", backend="ray")
    env.from_batch([1]).map(parts.plus).collect()
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'dynamo-tasks\[ray\]'"):
        env.submit()


def test_jobs_of_one_environment_share_the_labels_of_their_metrics() -> None:
    env = RemoteEnvironment("shop")
    env.register_service("profile", parts.Profile)
    env.from_batch([1]).collect()
    first, second = (sent_plan(env).endpoint("profile", "process") for _ in range(2))
    assert first.queue != second.queue
    assert first.label == second.label == "pipelines.shop-profile.process"
