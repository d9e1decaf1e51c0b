"""Models that take turns on one device: a ``serve`` for each, and what is awake at any moment."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis

from tests.support.processes import Frontend, until
from tests.support.serve import Serve
from tests.support.server import RedisServer

__all__ = ["Turns"]


class Turns:
    """A Redis server, a frontend, and a ``serve`` for each of some models, all with one device.

    Args:
        server: The Redis server.
        home: Of all of them.
        models: Name of each, and its settings beside those that all have.
        common: Settings that all have.
    """

    def __init__(self, server: RedisServer, home: Path, models: dict[str, tuple[str, ...]], *common: str):
        self.server = server
        self.home = home
        self.device = home / "device"
        self.device.touch()
        self.violations: list[str] = []
        self._settings = {name: (*common, *settings) for name, settings in models.items()}
        self._entered = ExitStack()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self.serves: dict[str, Serve] = {}

    def __enter__(self) -> Turns:
        with ExitStack() as entered:
            settings = ("Worker.scale.min=0",)
            self.http = entered.enter_context(Frontend(self.server.url, settings=settings, ready="/live"))
            for name in self._settings:
                self.serves[name] = entered.enter_context(self._serve(name))
            self._entered = entered.pop_all()
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._watch.join()
        self._entered.close()

    def _serve(self, name: str) -> Serve:
        settings = [
            f"--Worker.dynamo.name={name}", f"--Worker.served_model_name={name}", "--Worker.scale.min=0",
            "--Worker.scale.share=gpu0", f"--Worker.engine_args.device={self.device}",
            "--Worker.ServiceArgs.resources.gpu=1", *self._settings[name],
        ]  # fmt: skip
        env = {"DYNAMO_REDIS_URL": self.server.url, "DYNAMO_FAKE_GPUS": "1"}
        return Serve(self.home, "--service", "Worker", *settings, wait=False, **env)

    def restart(self, name: str) -> None:
        """Kill the ``serve`` of a model, and start it again."""
        self.serves[name].kill()
        self.serves[name] = self._entered.enter_context(self._serve(name))

    def scale(self) -> dict[str, str]:
        """What stands in Redis."""
        with redis.Redis(port=self.server.port, decode_responses=True) as client:
            return dict(client.hgetall("dt:dynamo:scale"))

    def fleet(self, name: str) -> dict[str, Any]:
        """What the ``serve`` of a model has said last."""
        rows = [
            json.loads(text) for field, text in self.scale().items() if field.startswith(f"{name}:fleet:")
        ]
        empty = {"running": 0, "starting": 0, "draining": 0, "asleep": 0, "at": 0.0}
        return empty | max(rows, key=lambda row: row["at"], default={})

    def awake(self, name: str) -> int:
        """Processes of a model that may use the device."""
        fleet = self.fleet(name)
        return int(fleet["running"] + fleet["starting"] + fleet["draining"])

    def workers(self, name: str) -> list[int]:
        """Process ids of a model's workers."""
        with suppress(
            OSError, ValueError
        ):  # written when one starts or dies by itself, not when one is drained
            shown = json.loads((self.home / "serve" / f"{self.serves[name].popen.pid}.json").read_text())
            return [
                row["pid"]
                for row in shown["processes"]
                if row["pid"] and Path(f"/proc/{row['pid']}").exists()
            ]
        return []

    def kill_worker(self, name: str) -> bool:
        """SIGKILL to a worker of a model, if there is one."""
        for pid in self.workers(name)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def until_asleep(self, name: str) -> None:
        """Wait until a model's worker sleeps."""
        until(lambda: self.fleet(name)["asleep"] == 1, 60, lambda: f"{name} asleep: {self.scale()}")

    @property
    def wrong(self) -> list[str]:
        """Signs that two were awake at once: in the registry, in what is wanted, and at the device itself."""
        return [*self.violations, *self.device.read_text().splitlines()]

    def _look(self) -> None:
        """Watch all the time that the registry never shows two of them awake, and Redis never two wanted."""
        with redis.Redis(port=self.server.port, decode_responses=True) as client:
            while not self._stop.wait(0.02):
                with suppress(redis.ConnectionError):
                    members = client.smembers("dt:dynamo:instances")
                    rows = client.mget([f"dt:dynamo:inst:{one}" for one in members]) if members else []
                    self._check([json.loads(row) for row in rows if row], client.hgetall("dt:dynamo:scale"))

    def _check(self, infos: list[dict[str, Any]], scale: dict[str, str]) -> None:
        awake = {one["component"] for one in infos if one["endpoint"] != "asleep"} & self._settings.keys()
        wanted = [name for name in self._settings if int(scale.get(f"{name}:wanted", 0))]
        for what in (awake, wanted):
            if len(what) > 1:
                self.violations.append(f"{sorted(what)}: {scale}")
