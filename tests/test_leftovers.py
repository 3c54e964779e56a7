"""The check for leftovers sees every kind of them, and sees them go."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.leftovers import everything


@contextlib.contextmanager
def child():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield
        process.kill()


@contextlib.contextmanager
def zombie():
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield


@contextlib.contextmanager
def orphan():
    command = ["sh", "-c", "sleep 60 >/dev/null & echo $!"]
    process = int(subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True, check=True).stdout)
    yield
    os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def memory():
    descriptor = os.memfd_create("left")
    yield
    os.close(descriptor)


@contextlib.contextmanager
def thread():
    end = threading.Event()
    left = threading.Thread(target=end.wait, name="left")
    left.start()
    yield
    end.set()
    left.join()


@contextlib.contextmanager
def shared_memory():
    path = Path(f"/dev/shm/left-{os.getpid()}")
    path.touch()
    yield
    path.unlink()


@pytest.mark.parametrize(
    ("leave", "name"),
    [
        (child, "process .*: sleep 60"),
        (zombie, r"process .*: \(zombie\)"),
        (orphan, "process .*: sleep 60"),
        (socket.socket, "descriptor of socket"),
        (memory, "descriptor of /memfd:left"),
        (thread, "thread left"),
        (shared_memory, "/dev/shm/left-"),
        (lambda: tempfile.TemporaryDirectory(prefix="getm"), "/getm"),
    ],
)
def test_leftover_is_seen(leave, name):
    before = everything()
    with leave():
        stop = time.monotonic() + 2
        # Others may be there: tests run beside this one. And a program has no name in the moment when it begins.
        while not any(re.search(name, each) for each in (everything() - before).elements()):
            assert time.monotonic() < stop
            time.sleep(0.001)
