"""A signal that comes while a program ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from dynamo_tasks.queue.worker.shutdown import ignore_at_exit

class Late:
    # Dies with its module, when Python has put the default handlers back.
    def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
        kill(pid, number)

signal.signal(int(sys.argv[1]), lambda *_: None)
late = Late()
if sys.argv[2] == "ignored":
    ignore_at_exit()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("how", "ends"), [("ignored", 0), ("as Python does", None)])
def test_a_second_signal_does_not_make_an_orderly_end_a_killed_one(
    number: signal.Signals, how: str, ends: int | None
) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(int(number)), how], check=False, timeout=60)
    assert done.returncode == (-number if ends is None else ends)
