"""CPU time and memory of other processes, from /proc (Linux; see proc(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Meter", "Usage", "descendants", "idle_seconds", "listeners", "read_usage"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_LISTEN = "0A"
# A process may end between two looks at it.
_GONE = (FileNotFoundError, ProcessLookupError)


class Usage(NamedTuple):
    """Of one process or of several.

    Attributes:
        cpu_s: User and system time of all threads, ended ones too; not of child processes.
        rss_bytes: Resident memory; pages shared by processes count in each.
    """

    cpu_s: float
    rss_bytes: int


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; the second may hold spaces and parentheses."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def read_usage(pid: int) -> Usage | None:
    """What the process used so far; ``None`` if there is no such process (any more)."""
    try:
        fields = _stat(pid)
    except _GONE:
        return None
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(fields[21]) * _PAGE)


def _parents() -> dict[int, int]:
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(*_GONE):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    return parents


def descendants(pid: int) -> set[int]:
    """The process, its children, their children, and so on."""
    parents = _parents()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listeners(port: int) -> set[int]:
    """Processes that listen on a TCP port (those of other users are seen only by root)."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    found = set()
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and not inodes.isdisjoint(_open_files(entry / "fd")):
            found.add(int(entry.name))
    return found


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        path = _PROC / "net" / table
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(columns[9])
    return inodes


def _open_files(folder: Path) -> set[str]:
    files = set()
    with suppress(*_GONE, PermissionError):
        for link in folder.iterdir():
            with suppress(*_GONE):
                files.add(os.readlink(link))
    return files


def idle_seconds() -> float:
    """Seconds that all cores together have had nothing to do since the machine started (/proc/stat: idle, iowait)."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / _TICKS_PER_S


class Meter:
    """Measures groups of processes between :meth:`start` and :meth:`stop`.

    A process that ends in between counts up to the last look (:meth:`start`); its CPU time after that
    is lost, and it is named in ``gone``.
    """

    def __init__(self, groups: Mapping[str, Iterable[int]]):
        """Remember who is measured.

        Args:
            groups: Name of a group → process ids.
        """
        self._groups = {name: sorted(set(pids)) for name, pids in groups.items()}
        self._before: dict[int, Usage] = {}
        self._started = 0.0
        self.wall_s = 0.0
        self.gone: list[int] = []

    def start(self) -> None:
        """Take the first look."""
        self._before = {}
        for pid in {pid for pids in self._groups.values() for pid in pids}:
            if usage := read_usage(pid):
                self._before[pid] = usage
        self._started = time.perf_counter()

    def stop(self) -> dict[str, Usage]:
        """Take the second look: CPU seconds since the first, and memory now, per group."""
        self.wall_s = time.perf_counter() - self._started
        self.gone = []
        return {name: self._sum(pids) for name, pids in self._groups.items()}

    def _sum(self, pids: Iterable[int]) -> Usage:
        cpu, rss = 0.0, 0
        for pid in pids:
            before, after = self._before.get(pid), read_usage(pid)
            if before is None or after is None:
                self.gone.append(pid)
                continue
            cpu += after.cpu_s - before.cpu_s
            rss += after.rss_bytes
        return Usage(cpu, rss)
