"""A second machine, as far as its network goes: a network namespace at the end of a cable that can be cut.

Cut, packets are dropped without a word: no reset, no unreachable. Both ends believe in their connections.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

import pytest

__all__ = ["Machine"]

_numbers = itertools.count()
_NOBODY = "02:00:00:00:00:01"


class Machine:
    """Use as ``with Machine() as other: Worker(f"redis://{other.here}:…", prefix=other.prefix)``.

    Skips the test where namespaces cannot be made.

    Attributes:
        here: Address of this side of the cable.
        there: Address of the other side.
        prefix: What makes a command run on the other side.
    """

    def __init__(self) -> None:
        number = os.getpid() * 8 + next(_numbers)
        self._name, self._near, self._far = f"dt{number}", f"dtn{number}", f"dtf{number}"
        net = f"10.{213 + number % 32}.{number // 32 % 256}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        self.prefix = ("ip", "netns", "exec", self._name)
        self._macs: dict[str, str] = {}

    def _ip(self, *words: str, far: bool = False) -> str:
        argv = ["ip", *(("-n", self._name) if far else ()), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> Machine:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("a network namespace needs root and the command `ip`")
        try:
            self._ip("netns", "add", self._name)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no network namespace can be made here: {exc.stderr.strip()}")
        try:
            self._ip(
                "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name
            )
            for far, device, address in ((False, self._near, self.here), (True, self._far, self.there)):
                self._ip("address", "add", f"{address}/30", "dev", device, far=far)
                self._ip("link", "set", device, "up", far=far)
                self._macs[device] = self._ip("-br", "link", "show", device, far=far).split()[2]
            self._ip("link", "set", "lo", "up", far=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._ip("netns", "delete", self._name)

    def cut(self) -> None:
        """Everything that is sent goes to a machine that is not there."""
        self._address_to(_NOBODY, _NOBODY)

    def mend(self) -> None:
        """The cable works again."""
        self._address_to(self._macs[self._far], self._macs[self._near])

    def _address_to(self, far: str, near: str) -> None:
        fixed = ("nud", "permanent", "dev")
        self._ip("neigh", "replace", self.there, "lladdr", far, *fixed, self._near)
        self._ip("neigh", "replace", self.here, "lladdr", near, *fixed, self._far, far=True)
