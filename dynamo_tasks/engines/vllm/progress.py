"""Progress of a model's start in vLLM: its own processes know it, and report it in their logs alone.

In each of them :func:`begin` runs before vLLM is imported (see :mod:`dynamo_tasks.engines.parent_death_signal`). It
listens to the loggers that report the steps, at every log level, and sends one word for each to the worker process,
where a :class:`Progress` takes it. What vLLM writes to its log is the same as ever.

Needs the standard library only: :func:`begin` runs before the process has its ``sys.path``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Self

__all__ = ["PHASES", "Progress", "begin"]

PHASES = ("weights", "profile", "warmup")
"""The phases after ``load``: weights are read; memory is measured; caches, kernels and graphs are made."""

_VARIABLE = "DYNAMO_TASKS_ENGINE_PROGRESS"
_STEPS = {
    "vllm.v1.worker.gpu_model_runner": {"Starting to load model": "weights", "Model loading took": "profile"},
    "vllm.v1.worker.gpu.model_runner": {"Starting to load model": "weights", "Model loading took": "profile"},
    "vllm.v1.worker.cpu_model_runner": {"Starting to load model": "weights"},
    "vllm.model_executor.model_loader.default_loader": {"Loading weights took": "profile"},
    "vllm.model_executor.model_loader.sharded_state_loader": {"Loading weights took": "profile"},
    "vllm.v1.core.kv_cache_utils": {"%s KV cache size": "warmup"},
}
"""Loggers of vLLM 0.32 and 0.33 → how a message begins → which phase begins with it."""


def begin() -> None:
    """Report to the worker process each phase that this process of vLLM's comes to."""
    if os.environ.get(_VARIABLE):
        for name in _STEPS:
            logging.getLogger(name).__class__ = _PhaseLogger


class _PhaseLogger(logging.Logger):
    """A logger that reports phases, at every log level.

    Not a handler: where vLLM configures logging, which comes later, loggers lose handlers and level.
    """

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - as logging calls it
        return level >= logging.INFO or super().isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        for start, phase in _STEPS[self.name].items():
            if str(record.msg).startswith(start):
                _send(phase)
        if super().isEnabledFor(record.levelno):
            super().handle(record)


def _send(phase: str) -> None:
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(phase.encode(), f"\0{os.environ[_VARIABLE]}")


class Progress:
    """Listens while an engine starts: ``with Progress(report): …``. Linux; elsewhere nothing is reported."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """Args: ``report`` is called on the running event loop, once per phase and in their order."""
        self._report = report
        self._reported = -1
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        address = f"dynamo-tasks-{os.getpid()}-{secrets.token_hex(8)}"
        with suppress(OSError, AttributeError):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.bind(f"\0{address}")
            os.environ[_VARIABLE] = address
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._socket is not None:
            self._read()  # what was sent and not read yet
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        os.environ.pop(_VARIABLE, None)

    def _read(self) -> None:
        """Several processes report the same phase; the first one counts."""
        assert self._socket is not None
        with suppress(BlockingIOError):
            while True:
                phase = self._socket.recv(64).decode(errors="replace")
                if phase in PHASES[self._reported + 1 :]:
                    self._reported = PHASES.index(phase)
                    self._report(phase)
