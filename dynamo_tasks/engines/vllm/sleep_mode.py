"""vLLM's sleep mode: weights out of the GPU's memory, the KV cache dropped, the process and its core stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from dynamo_tasks.errors import EngineError, InvalidRequestError
from dynamo_tasks.observe import event

__all__ = ["LEVELS", "Sleep"]

LEVELS = (1, 2)
"""1 keeps the weights in the host's memory, 2 drops them."""
_FLAG = "enable_sleep_mode"


class Sleep:
    """The sleep of one engine.

    Attributes:
        level: How deep it sleeps; 0 = it is awake.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Args: those of the engine; vLLM lays its memory out for sleep only with ``enable_sleep_mode``."""
        self._enabled = bool(arguments.get(_FLAG))
        self.level = 0

    def check(self, level: int) -> None:
        """Do nothing if it can sleep.

        Raises:
            InvalidRequestError: says what is needed.
        """
        if not self._enabled:
            raise InvalidRequestError(
                f"engine 'vllm' was started without {_FLAG}; start it with --Worker.{_FLAG}=true "
                "(GPUs only: vLLM's CPU build has no sleep mode)",
                param=_FLAG,
            )
        if level not in LEVELS:
            raise InvalidRequestError(f"level must be 1 or 2, not {level}", param="level")

    async def begin(self, llm: Any, level: int) -> None:
        """Sleep; nothing runs in the engine.

        Raises:
            EngineError: vLLM could not.
        """
        self.check(level)
        await _asked("sleep", llm.sleep(level))
        self.level = level
        event("engine.sleep", engine="vllm", level=level)

    async def end(self, llm: Any) -> None:
        """Wake; nothing happens where it does not sleep. What was dropped is loaded from the model's files.

        Raises:
            EngineError: vLLM could not.
        """
        if not self.level:
            return
        if self.level > 1:
            # The cache comes last: loading needs room.
            await _asked("wake", llm.wake_up(["weights"]))
            await _asked("load its weights", llm.collective_rpc("reload_weights"))
            await _asked("wake", llm.wake_up(["kv_cache"]))
        else:
            await _asked("wake", llm.wake_up())
        self.level = 0
        event("engine.sleep", engine="vllm", level=0)


async def _asked(what: str, answer: Awaitable[Any]) -> None:
    try:
        await answer
    except asyncio.CancelledError:
        raise
    except Exception as error:  # what fails in vLLM's core comes as a bare Exception
        raise EngineError(f"vLLM could not {what}: {error}") from error
