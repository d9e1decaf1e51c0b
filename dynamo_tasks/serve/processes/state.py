"""State files: what each running ``serve`` has started, as ``DYNAMO_HOME/serve/<pid>.json``.

For people and scripts; nothing in the running system depends on them. A file goes with its ``serve``; one
that a killed ``serve`` left behind is removed by the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from dynamo_tasks.config.host.gpus import MASK
from dynamo_tasks.config.host.home import Home, private_dir, read_json, write_json
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.observe import mask_url
from dynamo_tasks.serve.processes.process import ManagedProcess
from dynamo_tasks.serve.processes.spec import ProcessPlan

__all__ = ["StateFile"]


class StateFile:
    """The state file of this process.

    Args:
        home: The state directory.
        plan: What it runs.
        url: Redis; its password is not written.
        host: Address that HTTP is served on.
        port: Its port.
    """

    def __init__(self, home: Home, plan: ProcessPlan, url: str, host: str, port: int) -> None:
        self.path = home.path / "serve" / f"{os.getpid()}.json"
        self._head: dict[str, Any] = {
            "owner": list(ProcessId.current()),
            "started": time.time(),
            "graph": plan.graph,
            "redis_url": mask_url(url),
            "namespaces": sorted({name.partition(".")[0] for name in plan.components}),
            "http": {"service": plan.http, "host": host, "port": port} if plan.http else None,
        }

    def write(self, processes: Sequence[ManagedProcess]) -> None:
        """Write what runs now; also clears what others have left behind.

        Raises:
            ConfigError: ``DYNAMO_HOME`` cannot be used.
        """
        folder = private_dir(self.path.parent)
        if not self.path.exists():
            for other in folder.glob("*.json"):
                owner = ProcessId.from_json((read_json(other) or {}).get("owner"))
                if owner is None or not owner.alive():
                    other.unlink(missing_ok=True)
        write_json(self.path, {**self._head, "processes": [self._row(process) for process in processes]})

    def _row(self, process: ManagedProcess) -> dict[str, Any]:
        spec = process.spec
        row: dict[str, Any] = {
            "name": spec.name, "service": spec.service, "pid": process.pid, "restarts": process.restarts,
            "failure": process.failure,
        }  # fmt: skip
        if spec.port:
            row["port"] = spec.port
        if spec.gpus:
            row["gpus"] = spec.env.get(MASK)
        return row

    def remove(self) -> None:
        """Take the file away; harmless when there is none."""
        self.path.unlink(missing_ok=True)
