"""Which process gets which system port."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.serve.planning.plan import PlanOptions, make_plan
from dynamo_tasks.serve.processes.spec import ProcessPlan

GRAPH = "dynamo_tasks.services.agg:Frontend"


def ports(*flags: str, first: int | None = None) -> dict[str, str | None]:
    plan: ProcessPlan = make_plan(PlanOptions(graph=GRAPH, flags=flags, system_port=first), {})
    found = {}
    for spec in plan.processes:
        given = [arg for arg in spec.argv if arg.startswith(f"{spec.service}.ServiceArgs.system_port=")]
        found[spec.name] = given[-1].partition("=")[2] if given else None
    return found


TWO = "--Worker.ServiceArgs.workers=2"


def test_off_by_default() -> None:
    assert ports(TWO) == {"Worker-0": None, "Worker-1": None, "Frontend": None, "Background-0": None}


def test_processes_count_on_from_the_first() -> None:
    assert ports(TWO, first=9100) == {
        "Worker-0": "9100",
        "Worker-1": "9101",
        "Frontend": "9102",
        "Background-0": "9103",
    }


def test_zero_is_a_free_port_for_each() -> None:
    assert ports(TWO, first=0) == {"Worker-0": "0", "Worker-1": "0", "Frontend": "0", "Background-0": "0"}


def test_a_service_may_have_ports_of_its_own() -> None:
    own = "--Worker.ServiceArgs.system_port=9500"
    assert ports(TWO, own) == {"Worker-0": "9500", "Worker-1": "9501", "Frontend": None, "Background-0": None}
    assert ports(TWO, own, first=9100) == {
        "Worker-0": "9500",
        "Worker-1": "9501",
        "Frontend": "9100",
        "Background-0": "9101",
    }


@pytest.mark.parametrize(
    ("flags", "first", "message"),
    [
        (("--Worker.ServiceArgs.system_port=9100",), 9100, "Worker-0 and Frontend would both get port 9100"),
        ((TWO,), 65535, "Worker-1 would get port 65536; the highest is 65535"),
        (("--Worker.ServiceArgs.system_port=70000",), None, "Worker.ServiceArgs.system_port"),
    ],
)
def test_what_cannot_be_is_refused(flags: tuple[str, ...], first: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ports(*flags, first=first)
