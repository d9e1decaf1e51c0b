"""One run of ``serve``: the Redis server, the processes, the ready line, and the way down."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from dynamo_tasks.config.host.given import grace_period, variable
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.config.host.redis_lanes import lane_url, split_lanes
from dynamo_tasks.errors import ConfigError, DynamoError, ServerUnavailableError
from dynamo_tasks.observe import mask_url
from dynamo_tasks.serve import http
from dynamo_tasks.serve.console.output import Output
from dynamo_tasks.serve.planning.gpus import GpuPins
from dynamo_tasks.serve.processes.process import ManagedProcess
from dynamo_tasks.serve.processes.spec import Deployment, Notice, ProcessPlan, ProcessSpec
from dynamo_tasks.serve.processes.state import StateFile
from dynamo_tasks.serve.processes.supervisor import Supervisor
from dynamo_tasks.serve.scaling.fleet import ManagedFleet
from dynamo_tasks.serve.scaling.follower import ScaleFollower
from dynamo_tasks.serve.scaling.sleeping import Sleeping
from dynamo_tasks.serve.server import embedded as server
from dynamo_tasks.serve.server.embedded import EmbeddedServer
from dynamo_tasks.serve.server.resp import ping
from dynamo_tasks.store.redis.refusals import PASSING

__all__ = ["Session", "Snapshot"]

_STOP_S = 3.0
"""Seconds between SIGTERM and SIGKILL, beside those of ``DYNAMO_GRACE_PERIOD``, where it is set. Few, since after
Ctrl-C one wants the prompt back: a request that is cut off goes on in the next run."""
_DRAIN_S, _DRAIN_MORE_S = 30.0, 12.0
"""Seconds that a worker which is not wanted any more lets requests run on, and then has to requeue the rest."""
_WATCH_S = 0.5
_REGISTRY_S = 0.2
_UP = ("PONG", "MISCONF")
"""Answers of a Redis server that can be read from: what it refuses, its processes wait for."""
_TWICE_S = 1.0
"""Signals closer together are one: `timeout` and terminals send them to a process and to its group."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Snapshot = Callable[[str], Mapping[str, Any]]
"""Says which instances are registered at a Redis URL."""


class Session:
    """Runs a plan until a signal comes or a service fails; then takes everything down.

    That takes 5 s at most, and ``DYNAMO_GRACE_PERIOD`` besides, where it is set.
    """

    def __init__(
        self,
        make: Callable[[str], ProcessPlan],
        *,
        host: str,
        port: int,
        api_key: str | None = None,
        output: Output | None = None,
        snapshot: Snapshot | None = None,
        environ: Mapping[str, str] | None = None,
        gpu_mode: str | None = None,
    ) -> None:
        """Prepare; :meth:`run` does it all.

        Args:
            make: Gives the plan for a suffix of node names (``""`` while nobody shares the Redis server).
            host: Address that HTTP is served on.
            port: Its port.
            api_key: Key that the frontend asks for; reaches it through its environment.
            output: Where lines go.
            snapshot: Tells when the components are up where no HTTP process says so.
            environ: ``os.environ`` by default.
            gpu_mode: One of ``auto``, ``require``, ``off``; ``DYNAMO_GPU_ALLOCATION`` by default.
        """
        self._make = make
        self._host = host
        self._port = port
        self._api_key = api_key
        self._output = output or Output()
        self._snapshot = snapshot
        self._environ = os.environ if environ is None else environ
        self._home = Home.from_environ(self._environ)
        self._gpus = GpuPins(self._home, self._environ, gpu_mode)
        self._state: StateFile | None = None
        self._stop = asyncio.Event()
        self._asked_at = 0.0
        self._server: EmbeddedServer | None = None
        self._supervisor: Supervisor | None = None
        self._follower: ScaleFollower | None = None

    async def run(self) -> int:
        """Serve.

        Returns:
            Exit code: 0 after a signal, 1 when a service failed after everything was ready.

        Raises:
            ConfigError: the plan is not valid.
            ServerUnavailableError: no Redis server.
            UnavailableError: a service did not start.
        """
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        # Under nohup a hang-up stays ignored.
        handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        if signal.SIGINT not in handled:
            # A shell that starts us in the background ignores it for us, but `kill -INT` is meant.
            handled.append(signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self._signalled)
        try:
            # Before the server: a mistake in the graph or its settings must not start anything.
            plan = self._make("")
            if problem := self._gpus.claim([spec for spec in plan.processes if not spec.elastic]):
                self._output.say("gpu", problem, style="yellow")
            url = await self._connect()
            return 0 if self._stop.is_set() else await self._serve(plan, url, start)
        finally:
            await self._down()
            for number in handled:
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._asked_at = now
        elif now - self._asked_at >= _TWICE_S and self._supervisor is not None:
            # Asked twice: no more patience.
            for process in self._supervisor.processes:
                process.kill()
        self._stop.set()
        if self._server is not None:
            self._server.abort()

    async def _connect(self) -> str:
        """Find the Redis server to use; the embedded one is joined, and started if need be."""
        if url := variable("DYNAMO_REDIS_URL", self._environ):
            first, *others = split_lanes(url)
            await self._until_up(first)
            for one in others:
                await self._look_at_lane(lane_url(one)[0])
            self._output.say("server", f"{mask_url(url)} (DYNAMO_REDIS_URL)")
            return url
        self._server = EmbeddedServer(self._home)
        try:
            url = await asyncio.to_thread(self._server.join)
        except ServerUnavailableError:
            if self._stop.is_set():
                return ""
            raise
        self._output.say("server", f"{mask_url(url)} (embedded, data in {self._home.server})")
        return url

    async def _look_at_lane(self, url: str) -> None:
        """Say so where a further lane is away: all others go on without it."""
        try:
            answer = await asyncio.to_thread(ping, url)
        except ServerUnavailableError as error:
            answer = error.message
        if answer not in _UP:
            self._output.say("server", f"lane {mask_url(url)}: {answer}", style="yellow")

    async def _until_up(self, url: str) -> None:
        """Wait for a Redis server that is there and does not serve yet, until somebody stops us."""
        said = ""
        while (answer := await asyncio.to_thread(ping, url)) not in _UP and not self._stop.is_set():
            if answer != said:
                self._output.say("server", f"{PASSING[answer].message}; waiting", style="yellow")
            said = answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_S):
                    await self._stop.wait()

    async def _serve(self, plan: ProcessPlan, url: str, start: float) -> int:
        if self._server is not None and self._server.shared:
            # Others have workers at this server: two of one node name would take each other's commands.
            plan = self._make(f"-{os.getpid()}")
        follower = self._follower = ScaleFollower(
            url, plan.deployments, partial(self._output.say, "scale"), partial(self._scrape, plan)
        )
        specs = self._first(plan, url, await follower.prepare())
        self._output.names([spec.name for spec in plan.processes])
        supervisor = Supervisor(
            specs, on_line=self._output.log, on_notice=self._noticed, last_will=self._last_will()
        )
        self._supervisor = supervisor
        self._state = StateFile(self._home, plan, url, self._host, self._port)
        await supervisor.start()
        watch = asyncio.create_task(self._watch_server())
        follow = asyncio.create_task(follower.run(self._fleets(plan, url, supervisor)))
        try:
            if await self._unless_stopped(self._ready(supervisor, plan, url, start)):
                return 0
            reason = await self._until_end(supervisor)
        finally:
            watch.cancel()
            follow.cancel()
        if reason is None:
            return 0
        self._output.say("failed", reason, style="bold red")
        return 1

    async def _scrape(self, plan: ProcessPlan) -> str:
        """The metrics of our frontend."""
        if plan.http is None:
            return ""
        _, body = await http.get_bytes(self._host, self._port, "/metrics")
        return body.decode(errors="replace")

    def _first(self, plan: ProcessPlan, url: str, wanted: Mapping[str, int]) -> list[ProcessSpec]:
        """The processes to begin with: without those that are not wanted now, or that may be missing."""
        specs, counts = [], dict(wanted)
        for spec in plan.processes:
            left = counts.get(spec.service, 1)
            if spec.elastic:
                continue
            if left > 0:
                specs.append(self._complete(spec, url, spec.service == plan.http))
            else:
                self._gpus.release_one(spec.name)
            if spec.service in counts:
                counts[spec.service] = left - 1
        return specs

    def _fleets(self, plan: ProcessPlan, url: str, supervisor: Supervisor) -> list[ManagedFleet]:
        def complete(spec: ProcessSpec) -> ProcessSpec:
            return self._complete(spec, url, spec.service == plan.http)

        return [
            ManagedFleet(one, supervisor, self._gpus, complete, self._patience, self._sleeping(one))
            for one in plan.deployments
        ]

    def _sleeping(self, deployment: Deployment) -> Sleeping | None:
        bounds = deployment.bounds
        if bounds is None or not bounds.share or self._follower is None:
            return None
        command = partial(self._follower.command, deployment.namespace)
        return Sleeping(bounds.sleep, self._drain_for(deployment.spec(0)), command, bounds.start)

    def _drain_for(self, spec: ProcessSpec) -> float:
        """Seconds that requests may run on in a process that is not wanted any more."""
        given = grace_period({**self._environ, **spec.env})
        return _DRAIN_S if given is None else given

    def _patience(self, spec: ProcessSpec) -> float:
        """Seconds that a process has to end what it runs and then itself, while all others go on."""
        return self._drain_for(spec) + _STOP_S + _DRAIN_MORE_S

    def _noticed(self, notice: Notice) -> None:
        self._output.notice(notice)
        if self._state is not None and self._supervisor is not None:
            self._state.write(self._supervisor.processes)

    def _last_will(self) -> list[str]:
        """The command that gives the embedded server up for us if we are killed."""
        if self._server is None:
            return []
        return [sys.executable, "-m", server.__name__, str(self._server.home.path), str(os.getpid())]

    def _complete(self, spec: ProcessSpec, url: str, is_http: bool) -> ProcessSpec:
        """Add what only a run knows: the URL of Redis, the API key, how to ask for readiness."""
        env = {**spec.env, **self._gpus.environment(spec.name), "DYNAMO_REDIS_URL": url}
        if self._api_key and spec.port is not None:
            env["DYNAMO_API_KEYS"] = self._api_key
        # The entry's answer speaks for the whole graph.
        port, path = (self._port, "/ready") if is_http else (spec.port, "/live")
        ready = partial(self._answers, port, path) if port else None
        return dataclasses.replace(spec, env=env, ready=ready)

    async def _answers(self, port: int, path: str) -> bool:
        status, _ = await http.get(self._host, port, path)
        return status == 200

    async def _unless_stopped(self, work: Awaitable[None]) -> bool:
        """Do ``work``; True when a signal came first."""
        stopped = asyncio.create_task(self._stop.wait())
        task = asyncio.ensure_future(work)
        await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return True
        task.result()
        return False

    async def _ready(self, supervisor: Supervisor, plan: ProcessPlan, url: str, start: float) -> None:
        if plan.http is None:
            await supervisor.wait_ready(lambda: self._registered(supervisor, url))
            names = plan.components or dict.fromkeys(spec.service for spec in plan.processes)
            self._output.say("ready", f"{', '.join(names)} ({time.monotonic() - start:.1f} s)")
            return
        await supervisor.wait_ready()
        address = http.base_url(self._host, self._port)
        self._output.say("ready", f"{address} ({time.monotonic() - start:.1f} s)", style="bold green")
        if example := await self._example(address):
            self._output.say("try", example)

    async def _registered(self, supervisor: Supervisor, url: str) -> None:
        """Wait until the registry lists every process of ours that enters it."""
        while self._snapshot is not None:
            shown = await asyncio.to_thread(self._snapshot, url)
            specs = ((process.pid, process.spec) for process in supervisor.processes)
            ours = {pid for pid, spec in specs if spec.registers and not spec.elastic}
            if ours <= {item["pid"] for item in shown["instances"]}:
                return
            await asyncio.sleep(_REGISTRY_S)

    async def _example(self, address: str) -> str:
        """A line to paste; empty where no model is served."""
        keys = self._api_key or self._environ.get("DYNAMO_API_KEYS", "")
        first = keys.partition(",")[0].strip()
        _, listed = await http.get(self._host, self._port, "/v1/models", api_key=first or None)
        models = [item["id"] for item in (listed or {}).get("data", [])]
        if not models:
            return ""
        body = {
            "model": models[0],
            "messages": [{"role": "user", "content": "Hello!"}],
            "stream": True,
        }
        # The line may end up in a log: the key itself is not in it.
        key = ' -H "Authorization: Bearer $DYNAMO_API_KEY"' if first else ""
        return (
            f"curl -N {address}/v1/chat/completions{key} "
            f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
        )

    async def _until_end(self, supervisor: Supervisor) -> str | None:
        """Wait for a signal (``None``) or for a service to fail (why)."""
        failed = asyncio.create_task(supervisor.wait_failed())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if failed.done():
            return failed.result()
        failed.cancel()
        return None

    async def _watch_server(self) -> None:
        while self._server is not None:
            await asyncio.sleep(_WATCH_S)
            try:
                if await asyncio.to_thread(self._server.revive):
                    self._output.say("server", "had ended, started again on its data", style="yellow")
            except (ServerUnavailableError, ConfigError) as error:
                self._output.say("server", f"cannot be started again: {error.message}", style="bold red")

    def _grace(self, process: ManagedProcess) -> float:
        """Seconds for which a process was told to let requests run on; 0 where nobody said anything."""
        return grace_period({**self._environ, **process.spec.env}) or 0.0

    async def _down(self) -> None:
        start = time.monotonic()
        if self._follower is not None:
            await self._follower.close()
        if self._supervisor is not None:
            if self._stop.is_set():
                self._output.say("stop", "stopping")
            grace = max(map(self._grace, self._supervisor.processes), default=0.0)
            await self._supervisor.stop(_STOP_S + grace)
        if self._state is not None:
            self._state.remove()
        self._gpus.release()
        if self._server is not None:
            self._server.abort()
            try:
                last = await asyncio.to_thread(self._server.leave)
            except DynamoError as error:
                self._output.say("server", error.message, style="bold red")
            else:
                self._output.say("server", "stopped" if last else "left running for its other users")
        if self._stop.is_set():
            self._output.say("stop", f"done ({time.monotonic() - start:.1f} s)")
