"""The soak of `benchmarks/soak.py`, for seconds with every run of the tests, for minutes when asked."""

import subprocess
import sys
from pathlib import Path

import pytest


def soak(minutes):
    """Run it in a process of its own, for it forks; return what it printed if something went wrong."""
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(minutes)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout if done.returncode or "wrong bytes" not in done.stdout else ""


def test_three_seconds_of_random_reads_faults_and_kills_leave_every_byte_right():
    assert soak(0.05) == ""


@pytest.mark.stress
@pytest.mark.timeout(400)
def test_two_minutes_of_random_reads_faults_and_kills_leave_every_byte_right():
    assert soak(2) == ""
