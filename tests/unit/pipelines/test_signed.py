"""Code by value: only with a key, only with the same one, and not a byte of it changed."""

from __future__ import annotations

import logging
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines import RemoteEnvironment
from dynamo_tasks.pipelines.graph.functions import FunctionSpec
from dynamo_tasks.pipelines.plans import signed
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.pipelines.plans.portable import Reference, load, refer
from dynamo_tasks.pipelines.plans.trust import ANYTHING, Trust
from tests.support.plans import sent_plan

KEY = "k" * 32


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(signed.KEY, KEY)
    return KEY


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def sent() -> Reference:
    more = 5
    return refer(FunctionSpec(lambda record, factor: factor * record + more, (10,)))


def test_a_lambda_comes_back_as_it_was(key: str) -> None:
    spec = load(sent(), ANYTHING)
    assert spec.target(1, *spec.args) == 15


def test_an_inner_class_and_an_instance_of_it_come_back(key: str) -> None:
    class Adder:
        def __init__(self, more: int = 1) -> None:
            self.more = more

        def execute(self, record: int) -> int:
            return record + self.more

    spec = load(refer(FunctionSpec(Adder, (), {"more": 2})), ANYTHING)
    assert spec.is_class
    assert spec.kwargs == {"more": 2}
    assert load(refer(FunctionSpec(Adder(3))), ANYTHING).target.execute(1) == 4


def test_what_can_be_imported_still_travels_by_its_path(key: str) -> None:
    reference = refer(FunctionSpec(signed.enabled))
    assert reference.path == "dynamo_tasks.pipelines.plans.signed:enabled"
    assert reference.pickled == b""


def test_a_plan_with_code_survives_the_wire(key: str) -> None:
    env = RemoteEnvironment("shop")
    env.from_batch([1]).map(lambda record: record + 1, name="plus").collect()
    plan = Plan.decode(sent_plan(env).encode())
    assert plan.stages(ANYTHING)["plus"].function.target(1) == 2
    assert KEY.encode() not in plan.encode()


def test_nothing_is_unpickled_with_another_key_or_without_one(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, signature = signed.dump("a trap", Trap(tmp_path / "sprung"))
    reference = Reference(pickled=data, signature=signature)
    monkeypatch.setenv(signed.KEY, "x" * 32)
    with pytest.raises(ConfigError, match="is not signed with the DYNAMO_SIGNING_KEY of this process"):
        load(reference, ANYTHING)
    monkeypatch.delenv(signed.KEY)
    with pytest.raises(ConfigError, match="needs DYNAMO_SIGNING_KEY, which is not set"):
        load(reference, ANYTHING)
    assert not (tmp_path / "sprung").exists()
    monkeypatch.setenv(signed.KEY, key)
    signed.restore(data, signature)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_nothing_is_unpickled_that_was_changed(key: str, tmp_path: Path) -> None:
    data, signature = signed.dump("code", "harmless")
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for forged in (trap, data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(ConfigError, match="was changed on its way: refused"):
            load(Reference(pickled=forged, signature=signature), ANYTHING)
    for wrong in (b"", signature[:-1], bytes(32)):
        with pytest.raises(ConfigError, match="refused"):
            load(Reference(pickled=data, signature=wrong), ANYTHING)
    assert not (tmp_path / "sprung").exists()


def test_code_runs_only_where_all_of_its_plan_is_signed(key: str, tmp_path: Path) -> None:
    data, signature = signed.dump("code", (print, (), {}))
    with pytest.raises(ConfigError, match="is not signed with the DYNAMO_SIGNING_KEY of this process"):
        load(Reference(pickled=data, signature=signature), Trust(("builtins",)))


def test_a_seal_covers_every_byte(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = signed.seal(b'{"id":"a","name":"b"}')
    assert msgspec.json.decode(sealed)["name"] == "b"
    assert signed.is_sealed(sealed)
    assert not any(
        signed.is_sealed(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        for at in range(len(sealed))
    )
    for other in (
        sealed + b" ",
        b" " + sealed,
        sealed[:-1],
        b"",
        b"{}",
        b'{"id":"a"}',
        b'{"signature":"x","id":1}',
    ):
        assert not signed.is_sealed(other)
    monkeypatch.setenv(signed.KEY, "x" * 32)
    assert not signed.is_sealed(sealed)
    monkeypatch.delenv(signed.KEY)
    assert not signed.is_sealed(sealed)
    assert signed.seal(b"{}") == b"{}"


def test_the_way_out_names_the_key() -> None:
    with pytest.raises(ConfigError, match="or set DYNAMO_SIGNING_KEY on both sides"):
        sent()


def test_a_short_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(signed.KEY, "hunter2")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(ConfigError, match=r"at least 32 characters .*, not 7") as refused,
    ):
        sent()
    assert "hunter2" not in str(refused.value) + caplog.text


def test_what_cannot_be_pickled_is_named(key: str) -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigError, match="lambda cannot be pickled: TypeError"):
        refer(FunctionSpec(lambda record: lock))


def test_cloudpickle_that_is_not_installed(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(ConfigError, match=r"pip install 'dynamo-tasks\[pickle\]'"):
        sent()


def test_what_cannot_be_loaded_is_said(key: str) -> None:
    signature = signed._sign(key.encode(), b"no pickle")
    with pytest.raises(ConfigError, match=r"cannot be loaded here: \w+Error"):
        signed.restore(b"no pickle", signature)


def test_a_reference_without_code_is_as_small_as_before() -> None:
    assert msgspec.json.encode(Reference("a:b")) == b'{"path":"a:b"}'
