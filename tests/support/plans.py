"""Plans of pipelines as they are sent: looked at, or forged."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dynamo_tasks.pipelines import RemoteEnvironment, RemoteJob
from dynamo_tasks.pipelines.celery import environment
from dynamo_tasks.pipelines.celery.queue import Remote
from dynamo_tasks.pipelines.plans.plan import Plan

__all__ = ["launched", "sent_plan"]


def sent_plan(env: RemoteEnvironment) -> Plan:
    """The plan that a submit sends; it reaches nobody."""
    sent: list[Plan] = []

    async def launch(plan: Plan, remote: Remote) -> None:
        sent.append(plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "launch", launch)
        patch.setattr(environment, "RemoteJob", lambda plan, remote: SimpleNamespace(is_over=True))
        patch.setattr(Remote, "open", lambda url: None)
        env.submit()
    return sent[0]


def launched(env: RemoteEnvironment, forge: Callable[[Plan], Plan]) -> RemoteJob:
    """Submit what is made of a plan, as nobody's client would write it."""
    sent: list[tuple[Plan, Remote]] = []
    real = environment.launch

    async def launch(plan: Plan, remote: Remote) -> None:
        sent.append((forge(plan), remote))
        await real(*sent[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "launch", launch)
        env.submit()
    return RemoteJob(*sent[0])
