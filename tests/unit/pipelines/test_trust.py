"""Which names of a plan become code on a worker."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from celery import Celery

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.celery.worker import Operators
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.pipelines.plans.portable import Reference, load
from dynamo_tasks.pipelines.plans.trust import ANYTHING, Trust, own_modules

PARTS = Trust(("tests.support",))

NOT_ALLOWED = [
    "os:system", "posix:system", "subprocess:run", "builtins:eval", "builtins:exec", "builtins:__import__",
    "builtins:open",
    "builtins:getattr", "builtins:str.format", "importlib:import_module", "pickle:loads", "shutil:rmtree",
    "dynamo_tasks.pipelines.plans.signed:dump", "dynamo_tasks.pipelines.celery.worker:Operators",
    "workers.rag:main", "tests:x",
    "tests.supporter:x", "testsXsupport:x", "", ":", "os", ":system",
    "dynamo_tasks.pipelines.datastream:print_record.__globals__",
]  # fmt: skip
NOT_DEFINED_THERE = [
    "os.system", "sys.exit", "os", "time.sleep", "Path", "Path.cwd", "sqlite3.connect", "BaseService",
    "MapFunction.execute", "Profile.__init__.__globals__", "Profile.__class__", "Profile.__base__",
    "plus.__globals__", "plus.__class__",
    "plus.__code__", "__builtins__", "__loader__", "__spec__.loader", "__all__", "Profile.lookup.__call__", "Any",
]  # fmt: skip


@pytest.mark.parametrize("path", NOT_ALLOWED)
def test_what_is_not_allowed_is_refused_and_not_even_imported(path: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"this worker may not run .*--operators"):
        load(Reference(path), PARTS)
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", NOT_DEFINED_THERE)
@pytest.mark.parametrize("trust", [PARTS, ANYTHING])
def test_an_allowed_module_gives_what_it_defines_and_nothing_that_it_imports(name: str, trust: Trust) -> None:
    with pytest.raises(ConfigError, match=r"tests\.support\.pipeline_parts"):
        load(Reference(f"tests.support.pipeline_parts:{name}"), trust)


@pytest.mark.parametrize(
    "path",
    [
        "tests.support:b:c",
        "tests.support..x:y",
        "tests.support.:y",
        "tests.support.x:",
        "tests.support.x:a b",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="is no path of the form module:qualified"):
        load(Reference(path), PARTS)


def test_there_is_no_instance_of_a_function() -> None:
    with pytest.raises(ConfigError, match="is no class"):
        load(Reference("tests.support.pipeline_parts:plus", state={"x": 1}), PARTS)


def test_what_every_worker_runs() -> None:
    for path in ("builtins:print", "builtins:str", "dynamo_tasks.pipelines.datastream:print_record"):
        assert callable(load(Reference(path), Trust()).target)


def test_a_module_that_fails_to_load_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_steps.py").write_text("raise RuntimeError('no')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="broken_steps:x cannot be imported here: no"):
        load(Reference("broken_steps:x"), Trust(("broken_steps",)))


def test_by_default_an_application_allows_what_it_names_itself() -> None:
    app = Celery("shop", set_as_current=False, include=["shop.steps"])
    app.conf.imports = ("shop.more",)
    made = types.FunctionType((lambda: None).__code__, {"__name__": "shop.tasks"}, "pack")
    made.__module__ = "shop.tasks"
    app.task(made, name="pack")
    app.finalize()
    # Tasks that modules share (``shared_task``) are in every application of their process.
    own = [module for module in own_modules(app) if not module.startswith("tests.")]
    assert own == ["shop.more", "shop.steps", "shop.tasks"]


@pytest.mark.parametrize("name", ["shop/steps.py", "shop.", "", "shop steps", "*"])
def test_a_setting_that_names_no_module_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operators.inner, "modules", [name])
    with pytest.raises(ConfigError, match=r"Operators.modules: .* is no name of a module"):
        Operators.inner()


PLANS = [
    (b"[]", "Expected `object`"),
    (b"[" * 100_000, "cannot be read"),
    (b"\xff", "cannot be read"),
    (b'{"id":"a"}', "missing required field"),
    (
        b'{"id":"a","name":"b","namespace":"c","settings":{},"services":[],"operators":[{"name":"x","kind":"map","function":{},'
        b'"parallelism":1000000000,"on_error":"fail","inputs":[],"keyed":false}]}',
        "parallelism|<= 65536",
    ),
    (
        b'{"id":"a","name":"b","namespace":"c","settings":{},"services":[],"operators":[{"name":"x","kind":"map","function":{},'
        b'"parallelism":1,"on_error":"fail","inputs":["x"],"keyed":false}]}',
        "takes records from .'x'., none before it",
    ),
    (
        b'{"id":"a","name":"b","namespace":"c","settings":{},"services":[],"operators":[{"name":"x","kind":"__init__",'
        b'"function":{},"parallelism":1,"on_error":"fail","inputs":[],"keyed":false}]}',
        "Invalid enum value '__init__'",
    ),
    (
        b'{"id":"a","name":"b","namespace":"c","settings":{},"services":[],"operators":[{"name":"x","kind":"map",'
        b'"function":{},"parallelism":1,"on_error":"os:system","inputs":[],"keyed":false}]}',
        "Invalid enum value 'os:system'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "why"), PLANS)
def test_a_plan_that_is_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Plan.decode(data)
