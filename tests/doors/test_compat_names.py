"""The names that the tables of Dynamo's and SAGE's names claim are names that exist here."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

import dynamo_tasks
from dynamo_tasks import errors, pipelines, runtime, sdk
from dynamo_tasks.pipelines.calls import base_service_task, context, factory, messages, proxy, service_caller
from dynamo_tasks.pipelines.local import job as local_job
from dynamo_tasks.runtime.components import component, endpoint_config
from dynamo_tasks.runtime.components.client import Client, RemoteClient
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.serve.cli import cli

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`]+)`")
DOTTED = re.compile(r"@?([A-Za-z_][\w.]*)")


@sdk.service(dynamo={"namespace": "compat"})
class Sample:
    @sdk.dynamo_endpoint()
    async def generate(self, request: Any) -> Any:
        return request


SERVICE: Any = Sample
MODULES = (
    dynamo_tasks, sdk, runtime, pipelines, base_service_task, context, factory, local_job, messages, proxy,
    service_caller, component, endpoint_config, errors, builtins,
)  # fmt: skip
CLASSES: dict[str, tuple[Any, ...]] = {
    "dynamo": (
        SERVICE, sdk.LocalEndpoint,
        sdk.DynamoDependency, sdk.ServiceConfig, sdk.LocalClient, runtime.DistributedRuntime,
        component.Namespace, component.Component, component.Endpoint, Client, RemoteClient, Context,
    ),
    "sage": (
        pipelines.LocalEnvironment, context.ServiceContext, context.TaskContext, pipelines.BaseService,
        pipelines.BaseServiceTask, pipelines.LocalServiceTask, pipelines.MapFunction, pipelines.ServiceManager,
        proxy.ProxyManager, local_job.LocalJob,
        messages.ServiceRequest, messages.ServiceResponse, pipelines.ServiceFactory, pipelines.DataStream,
        pipelines.RayServiceTask,
    ),
}  # fmt: skip
"""Whose members a bare name may be."""
SPOKEN = {
    "service": SERVICE, "runtime": runtime.DistributedRuntime, "client": Client,
    "env": pipelines.LocalEnvironment,
    "component": component.Component, "endpoint": component.Endpoint, "ctx": context.ServiceContext, "A": SERVICE,
}  # fmt: skip
"""What the documents' variables are."""
OTHER = {
    "(namespace, component)", "default", "dyn://…", 'transport: {"celery": …}', "/", "[A-Za-z0-9_-]+", "bentoml",
    "ServiceArgs.http.port", "(topic, group=…)", "Common", "common-configs", 'backend="ray"', "*args, **kwargs",
    "@bentoml.api", "ctx: bentoml.Context",
    "config_extras", "process", "(address=None, **options of ray.init)", "retries=", "retry_on=", "max_restarts",
    "dynamo.Processor.chat/completions", "router_mode: kv",
    "{component, endpoint, namespace, lease_id, transport: {nats_tcp}}",
}  # fmt: skip
"""Keys, values and arguments: other tests read them."""


def rows(table: str) -> Iterator[tuple[str, str]]:
    for line in (ROOT / "docs" / f"{table}-compat.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and "---" not in line and cells[-1] != "shown by":
            yield cells[0], cells[1]


def claims(table: str) -> Iterator[str]:
    """Everything in the column *here*, and of a line that says "the same" what it is the same as."""
    for there, here in rows(table):
        yield from CODE.findall(here)
        if re.match(r"the same\b", here) or "of the same names" in here:
            yield from CODE.findall(there)


CONTEXT = click.Context(cli)
COMMANDS = {name: found for name in cli.list_commands(CONTEXT) if (found := cli.get_command(CONTEXT, name))}
ALL = [(table, claim) for table in CLASSES for claim in dict.fromkeys(claims(table))]


def _commands(claim: str) -> bool:
    """``dynamo-tasks serve``, ``--service``: commands and their options."""
    words = claim.split()
    if words[0] == "dynamo-tasks":
        return words[1] in COMMANDS
    options = {option for one in COMMANDS.values() for param in one.params for option in param.opts}
    return claim in options or claim in COMMANDS


def _file(claim: str) -> bool:
    return (ROOT / claim).exists() or (ROOT / "dynamo_tasks" / claim).exists()


def _module(claim: str) -> bool:
    try:
        return find_spec(claim if claim.startswith("dynamo_tasks") else f"dynamo_tasks.{claim}") is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _has(owner: Any, name: str) -> bool:
    kind = owner if isinstance(owner, type) else type(owner)
    if (
        inspect.getattr_static(owner, name, None) is not None
        or inspect.getattr_static(kind, name, None) is not None
    ):
        return True
    ours = [base for base in kind.__mro__ if base.__module__.startswith("dynamo_tasks")]
    annotated = any(name in vars(base).get("__annotations__", {}) for base in ours)
    return annotated or any(re.search(rf"\bself\.{name}\b *[:=]", inspect.getsource(base)) for base in ours)


def _path(table: str, dotted: str) -> bool:
    """A dotted name: of a module, of a class that it may belong to, or of one of the documents' variables."""
    first, _, rest = dotted.partition(".")
    part = rest.partition(".")[0]
    if first == "self":
        return any(
            _has(owner, name) for owner in CLASSES[table] for name in (part, dotted.rpartition(".")[2])
        )
    if first in SPOKEN and rest:
        return _has(SPOKEN[first], part) or _imported(dotted)
    found = [getattr(module, first) for module in MODULES if hasattr(module, first)]
    if found and not inspect.ismodule(found[0]):
        return not rest or _has(found[0], part)
    return _imported(dotted) or (not rest and any(_has(owner, first) for owner in CLASSES[table]))


def _imported(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    for path in (module, f"dynamo_tasks.{module}"):
        try:
            if hasattr(import_module(path), name):
                return True
        except (ImportError, ValueError, TypeError):
            continue
    return False


def _functions(claim: str) -> bool:
    """``Filter-``: the beginning of a name of a function class."""
    return claim.endswith("-") and hasattr(pipelines, f"{claim[:-1]}Function")


def _signature(claim: str) -> bool:
    """``(name, config=None)``: the arguments that an environment takes."""
    given = re.findall(r"(\w+)(?:=|,|\))", claim) if claim.startswith("(name") else []
    wanted = [
        inspect.signature(one.__init__).parameters
        for one in (pipelines.LocalEnvironment, pipelines.RemoteEnvironment)
    ]
    return bool(given) and any(set(re.findall(r"\b[a-z_]+(?=[=,)])", claim)) <= set(p) for p in wanted)


def exists(table: str, claim: str) -> bool:
    if (
        claim in OTHER
        or _commands(claim)
        or _file(claim)
        or _module(claim)
        or _functions(claim)
        or _signature(claim)
    ):
        return True
    code = re.sub(r"^(await|ctx:) ", "", claim)
    code = re.sub(r"\(.*", "", code) if not code.startswith("env.from_batch") else "env.from_batch"
    match = DOTTED.fullmatch(code.lstrip("."))
    return match is not None and (_path(table, match[1]) or _external(match[1]))


def _external(dotted: str) -> bool:
    """A name of the standard library or of BentoML."""
    module, _, name = dotted.rpartition(".")
    if module == "bentoml" and find_spec("bentoml") is None:
        return True
    try:
        return bool(module) and hasattr(import_module(module), name)
    except ImportError:
        return False


@pytest.mark.parametrize(("table", "claim"), ALL)
def test_every_claimed_name_exists(table: str, claim: str) -> None:
    assert exists(table, claim), f"{table}-compat.md claims `{claim}`"


@pytest.mark.parametrize(
    "claim",
    ["sdk.DynamoServce", "env.servce_factories", "dynamo_tasks.engines.create_engin", "dynamo-tasks serv",
     "Filtr-", ".foo()",
     "runtime/lifecycl.py", "component.scrape_stat(timeout)", "--servic", "@apii", "pipelines.plan.Plann"],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_found_out(claim: str) -> None:
    assert not exists("dynamo", claim)
    assert not exists("sage", claim)
