"""GPUs of the processes of one ``serve``: claimed before anything starts, passed by environment variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamo_tasks.config.host.gpus import (
    ALLOCATION,
    MASK,
    PINNED,
    GpuClaims,
    allocate,
    allocation_mode,
    missing,
    visible_gpus,
)
from dynamo_tasks.config.host.home import Home
from dynamo_tasks.serve.processes.spec import ProcessSpec

__all__ = ["GpuPins"]


class GpuPins:
    """The GPUs of each process; it keeps them over new starts.

    Args:
        home: Where claims are noted.
        environ: Environment of ``serve``; its ``CUDA_VISIBLE_DEVICES`` is the outer mask.
        mode: One of ``auto``, ``require``, ``off``; what ``environ`` says by default.
    """

    def __init__(self, home: Home, environ: Mapping[str, str], mode: str | None = None) -> None:
        self._claims = GpuClaims(home)
        self._environ = environ
        self._mode = mode
        self._devices: dict[str, str] = {}

    def check(self, specs: Sequence[ProcessSpec]) -> str:
        """Check a :meth:`claim` as if no other process had any GPU; nothing is taken."""
        mode, wanted = self._asked(specs)
        if mode == "off" or not wanted:
            return ""
        devices = visible_gpus(self._environ)
        if not devices:
            return missing(wanted, mode)
        elastic = {spec.name for spec in specs if spec.elastic}
        allocate({name: need for name, need in wanted.items() if name not in elastic}, devices, {})
        for name in elastic & wanted.keys():  # they may take turns: each must fit alone
            allocate({name: wanted[name]}, devices, {})
        return ""

    def _asked(self, specs: Sequence[ProcessSpec]) -> tuple[str, dict[str, float]]:
        mode = self._mode or allocation_mode(self._environ)
        # A service whose settings name devices knows what it wants.
        return mode, {spec.name: spec.gpus for spec in specs if spec.gpus and MASK not in spec.env}

    def claim(self, specs: Sequence[ProcessSpec]) -> str:
        """Take GPUs for all processes of these that need some, beside those that others have.

        Returns:
            What to warn of; empty if all is well.

        Raises:
            ConfigError: there are too few; or none, and one is required.
        """
        mode, wanted = self._asked(specs)
        if mode == "off" or not wanted:
            return ""
        # One at a time where devices are shared by turns: their processes come and go.
        turn = next((spec.turn for spec in specs if spec.turn), None)
        found = self._claims.claim(wanted, self._environ, turn=turn)
        self._devices |= found
        return "" if found else missing(wanted, mode)

    def release_one(self, name: str) -> None:
        """Release the GPUs of one process, which has ended."""
        if self._devices.pop(name, None) is not None:
            self._claims.release(name)

    def environment(self, name: str) -> dict[str, str]:
        """Variables for a process."""
        # Who was started by us must not look for devices itself.
        mask = self._devices.get(name)
        return {ALLOCATION: "off"} if mask is None else {ALLOCATION: "off", MASK: mask, PINNED: mask}

    def release(self) -> None:
        """Give all of them back."""
        if self._devices:
            self._claims.release()
