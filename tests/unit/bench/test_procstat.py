"""CPU time and memory of processes."""

import os
import socket
import subprocess
import sys

import pytest

from benchmarks.procstat import Meter, descendants, listeners, read_usage

# Burns CPU in a thread that ends, says so, and then waits for its standard input.
BUSY = """
import sys, threading, time
def burn():
    while time.thread_time() < 0.15: pass
thread = threading.Thread(target=burn); thread.start(); thread.join()
print("done", flush=True); sys.stdin.read()
"""


@pytest.fixture
def busy():
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        yield child
        child.stdin.close()


def test_ended_threads_count(busy):
    busy.stdout.readline()
    usage = read_usage(busy.pid)
    assert usage.cpu_s >= 0.13
    assert 1 << 20 < usage.rss_bytes < 1 << 28


def test_process_that_is_gone_has_no_usage():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert read_usage(child.pid) is None


def test_meter_measures_the_difference_per_group(busy):
    meter = Meter({"busy": [busy.pid], "idle": [os.getppid()], "nobody": []})
    meter.start()
    busy.stdout.readline()
    used = meter.stop()
    assert used["busy"].cpu_s >= 0.1
    assert used["nobody"] == (0.0, 0)
    assert meter.wall_s > 0
    assert not meter.gone


def test_meter_names_those_that_ended():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        meter = Meter({"worker": [child.pid]})
        meter.start()
        child.stdin.close()
        child.wait()
    assert meter.stop() == {"worker": (0.0, 0)}
    assert meter.gone == [child.pid]


def test_descendants(busy):
    assert busy.pid in descendants(os.getpid())
    assert descendants(busy.pid) == {busy.pid}


def test_listeners():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listeners(server.getsockname()[1]) == {os.getpid()}
