"""GPUs that a process may see: devices of this host, shared out so that no two workers get the same one.

Devices are named as ``CUDA_VISIBLE_DEVICES`` names them. What is given to whom stands in one file of
``DYNAMO_HOME``, so that several ``serve`` and single workers of a host keep out of each other's way; what
belongs to a process that has ended is free again.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.config.host.home import Home, file_lock, private_dir, read_json, write_json
from dynamo_tasks.config.host.identity import ProcessId
from dynamo_tasks.errors import ConfigError

__all__ = [
    "ALLOCATION",
    "FAKE",
    "MASK",
    "PINNED",
    "GpuClaims",
    "allocate",
    "allocation_mode",
    "missing",
    "visible_gpus",
]

MASK = "CUDA_VISIBLE_DEVICES"

FAKE = "DYNAMO_FAKE_GPUS"
"""Number of GPUs to believe in, whatever the host has; for tests."""

PINNED = "DYNAMO_GPUS"
"""Set to the mask of a process whose devices were chosen for it alone: an engine may use all of them."""

ALLOCATION = "DYNAMO_GPU_ALLOCATION"
"""``auto``: without any GPU a warning, and unpinned; ``require``: that is an error; ``off``: nothing is pinned."""

_NVML = "libnvidia-ml.so.1"
_LOCK_S = 10.0
_ROUNDING = 1e-9


def allocation_mode(environ: Mapping[str, str]) -> str:
    """The mode that ``DYNAMO_GPU_ALLOCATION`` names, ``auto`` by default.

    Raises:
        ConfigError: it is none of them.
    """
    return variable(ALLOCATION, environ) or "auto"


def visible_gpus(environ: Mapping[str, str]) -> list[str]:
    """Devices that a process with this environment may use, each as the outer mask names it.

    Raises:
        ConfigError: ``DYNAMO_FAKE_GPUS`` is no number.
    """
    count = _count(environ)
    mask = environ.get(MASK)
    if mask is None or not count:
        return [str(index) for index in range(count)]
    found: list[str] = []
    for name in (part.strip() for part in mask.split(",")):
        # As CUDA has it: what follows the first index that does not exist is hidden too.
        if not name or (name.lstrip("-").isdigit() and not 0 <= int(name) < count):
            break
        found.append(name)
    return list(dict.fromkeys(found))


def missing(names: Iterable[str], mode: str) -> str:
    """Return the warning for processes that need GPUs where none can be seen.

    Raises:
        ConfigError: ``mode`` is ``require``.
    """
    needy = ", ".join(names)
    if mode == "require":
        raise ConfigError(f"no GPU can be seen on this host, and {needy} needs one")
    return f"no GPU can be seen on this host: {needy} start{'' if ',' in needy else 's'} unpinned"


def _count(environ: Mapping[str, str]) -> int:
    fake = variable(FAKE, environ)
    return _nvml_count() if fake is None else int(fake)


def _nvml_count() -> int:
    """GPUs that the driver knows; it is asked through its own library, which does not touch them."""
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    try:
        return count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    finally:
        nvml.nvmlShutdown()


def allocate(
    wanted: Mapping[str, float], devices: Iterable[str], taken: Mapping[str, float] | None = None
) -> dict[str, list[str]]:
    """Share devices out.

    Args:
        wanted: Name of a process → GPUs that it needs: a whole number, or a share below 1.
        devices: What there is.
        taken: Device → share that others have of it.

    Returns:
        Name → its devices. Whole ones are nobody else's; shares of several may fall on one device.

    Raises:
        ConfigError: there are not enough; says how many are asked for, there, and taken.

    Example:
        >>> allocate({"a": 1, "b": 0.5, "c": 0.5}, ["0", "1"])
        {'a': ['0'], 'b': ['1'], 'c': ['1']}
    """
    used = {device: (taken or {}).get(device, 0.0) for device in devices}
    found: dict[str, list[str]] = {}
    # Whole devices first: shares would otherwise break into those that are still needed.
    for name, need in sorted(wanted.items(), key=lambda item: item[1] < 1):
        found[name] = _take(used, need)
        if not found[name]:
            raise _too_few(wanted, used, taken or {})
    return {name: found[name] for name in wanted}


def _take(used: dict[str, float], need: float) -> list[str]:
    if need >= 1:
        free = [device for device, share in used.items() if not share]
        chosen = free[: int(need)] if len(free) >= need else []
    else:
        # A device that is shared already comes before one that is untouched.
        room = [device for device, share in used.items() if share + need <= 1 + _ROUNDING]
        chosen = sorted(room, key=lambda device: used[device] == 0)[:1]
    for device in chosen:
        used[device] += min(need, 1.0)
    return chosen


def _too_few(
    wanted: Mapping[str, float], used: Mapping[str, float], taken: Mapping[str, float]
) -> ConfigError:
    asked = ", ".join(f"{name}: {need:g}" for name, need in wanted.items())
    others = [f"{device} ({taken[device]:g})" for device in used if taken.get(device)]
    held = f"; in use by other processes: {', '.join(others)}" if others else ""
    return ConfigError(
        f"{sum(wanted.values()):g} GPUs are asked for ({asked}), but {len(used)} can be seen "
        f"({', '.join(used)}){held}; lower ServiceArgs.resources.gpu or workers, or give --no-gpu-allocation"
    )


@dataclass(frozen=True)
class GpuClaims:
    """The file that says which process has which GPU of this host.

    Attributes:
        home: The state directory that it is in.
    """

    home: Home

    def claim(
        self,
        wanted: Mapping[str, float],
        environ: Mapping[str, str] | None = None,
        *,
        turn: tuple[str, str] | None = None,
    ) -> dict[str, str]:
        """Take GPUs for this process and its children, until it ends or :meth:`release` is called.

        Args:
            wanted: Name → GPUs; see :func:`allocate`.
            environ: ``os.environ`` by default.
            turn: Name of what is used by turns, and who takes one: devices that others have under the same name count
                as free, and come first.

        Returns:
            Name → its ``CUDA_VISIBLE_DEVICES``; empty where no GPU can be seen at all.

        Raises:
            ConfigError: more are asked for than are free.
        """
        devices = visible_gpus(os.environ if environ is None else environ)
        if not wanted or not devices:
            return {}
        if not self.home.path.is_dir():
            private_dir(self.home.path)
        with self._locked():
            others = self._alive()
            known = [entry["device"] for entry in others if turn and _turn(entry)[:1] == turn[:1]]
            devices.sort(key=lambda device: device not in known)
            found = allocate(wanted, devices, _taken(others, turn))
            mine = [
                {
                    **{"device": device, "share": min(1.0, wanted[name]), "name": name, "owner": _me()},
                    **({"turn": turn} if turn else {}),
                }
                for name, given in found.items()
                for device in given
            ]
            write_json(self._path, [*others, *mine])
        return {name: ",".join(given) for name, given in found.items()}

    def release(self, name: str | None = None) -> None:
        """Release what this process has under a name, or all of it; the file goes with the last claim."""
        if not self._path.exists():
            return
        with self._locked():
            others = [
                entry
                for entry in self._alive()
                if entry["owner"] != _me() or (name is not None and entry["name"] != name)
            ]
            if others:
                write_json(self._path, others)
            else:
                self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        # A home may be shared by hosts, or by containers that see other devices.
        return self.home.path / f"gpus-{socket.gethostname()}.json"

    def _locked(self) -> AbstractContextManager[int]:
        lock = self._path.with_suffix(".lock")
        return file_lock(lock, _LOCK_S, f"{lock} is held by another process")

    def _alive(self) -> list[dict[str, Any]]:
        entries = read_json(self._path) or []
        owners = [(entry, ProcessId.from_json(entry["owner"])) for entry in entries]
        return [entry for entry, owner in owners if owner is not None and owner.alive()]


def _turn(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entry.get("turn") or ())


def _taken(entries: Iterable[Mapping[str, Any]], turn: tuple[str, str] | None) -> dict[str, float]:
    """Shares of devices that are taken. Of those who take turns on one, what the greediest has counts."""
    by_user: dict[tuple[str, ...], float] = {}
    for entry in entries:
        user = _turn(entry)
        if turn is None or user[:1] != turn[:1] or user == turn:
            key = (entry["device"], *user)
            by_user[key] = by_user.get(key, 0.0) + entry["share"]
    most: dict[tuple[str, ...], float] = {}
    for (device, *who), share in by_user.items():
        key = (device, *who[:1])
        most[key] = max(most.get(key, 0.0), share)
    taken: dict[str, float] = {}
    for (device, *_), share in most.items():
        taken[device] = taken.get(device, 0.0) + share
    return taken


def _me() -> list[int]:
    return list(ProcessId.current())
