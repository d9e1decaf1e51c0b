"""Spawned children die with their parent, and so do theirs; but not with the thread that made them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT, environment, until

FAMILY = """
import multiprocessing, os, sys, threading, time

def grandchild(file):
    open(file, "a").write(f"{os.getpid()}\\n")
    time.sleep(60)

def spawn(target, file):
    multiprocessing.get_context("spawn").Process(target=target, args=(file,)).start()

def spawn_and_see(target, file):
    spawn(target, file)
    while len(open(file).readlines()) < 2:
        time.sleep(0.01)

def child(file):
    open(file, "a").write(f"{os.getpid()}\\n")
    thread = threading.Thread(target=spawn_and_see, args=(grandchild, file))
    thread.start()
    thread.join()
    open(file + ".thread", "w").close()
    time.sleep(60)

if __name__ == "__main__":
    from dynamo_tasks.engines.parent_death_signal import end_children_with_parent

    end_children_with_parent()
    spawn(child, sys.argv[1])
    time.sleep(60)
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_killed_parent_takes_its_family_with_it(tmp_path: Path) -> None:
    program, pids = tmp_path / "family.py", tmp_path / "pids"
    program.write_text(FAMILY)
    pids.touch()
    parent = subprocess.Popen(
        [sys.executable, str(program), str(pids)], env=environment("redis://unused"), cwd=ROOT
    )
    try:
        until(lambda: len(pids.read_text().splitlines()) == 2, what="both generations run")
        until(pids.with_name("pids.thread").exists, what="the thread that made the second one has ended")
        assert all(_alive(int(line)) for line in pids.read_text().splitlines())
    finally:
        parent.kill()
        parent.wait()
    family = [int(line) for line in pids.read_text().splitlines()]
    try:
        until(lambda: not any(map(_alive, family)), 5, "the family is gone")
    finally:
        for pid in filter(_alive, family):
            os.kill(pid, 9)
