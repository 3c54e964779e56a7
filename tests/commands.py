"""The command line: run in this process, as a process of its own, or on a terminal; and what it must never say."""

import logging
import os
import pty
import re
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass

from getm import cli

SECRET = "hunter2"
GETM = (sys.executable, "-m", "getm")


@dataclass(frozen=True)
class Ended:
    """What became of a command."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments, command=GETM, **options):
    """Run the command to its end, as a process."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([*command, *arguments], text=True, timeout=60, check=False, **options)


@contextmanager
def started(*arguments, command=GETM, **options):
    """Run the command as a process while the caller does other things; what is left of it is killed."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with subprocess.Popen([*command, *arguments], text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def run_here(capfd, monkeypatch, *arguments):
    """Run the command in this process, but for its signal handlers: a start costs a quarter of a second."""
    logger = logging.getLogger("getm")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(cli, "_SIGNALS", ())
    capfd.readouterr()
    code = cli.run([os.fspath(argument) for argument in arguments])
    return Ended(code, *capfd.readouterr())


def run_on_terminal(*arguments, columns=80, **options):
    """Run the command with a terminal for its stderr; return its exit code and what it wrote there."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    with subprocess.Popen([*GETM, *arguments], stdin=subprocess.DEVNULL, stderr=follower, **options) as process:
        os.close(follower)
        written = b""
        while part := _read_terminal(leader):
            written += part
    os.close(leader)
    return process.returncode, written.decode()


def screen(written, columns=80):
    """Return the lines that a terminal shows in the end, without blanks at their ends."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[^\x1b]", written):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
        elif token == "\x1b[A":
            row -= 1
        elif token.startswith("\x1b"):
            raise AssertionError(f"not known here: {token!r}")
        else:
            assert column < columns, "longer than the screen is wide"
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + token + lines[row][column + 1 :]
            column += 1
    assert column == 0, "the last line is not ended"
    lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines[:row]]


def assert_error(ended, code, *, saying=""):
    """Check the exit code, and that there is one line, about what it should be about, without secrets."""
    assert (code, "") == (ended.returncode, ended.stdout)
    assert re.fullmatch(r"getm: [^\n]+\n", ended.stderr)
    assert saying in ended.stderr
    assert SECRET not in ended.stderr


def with_secrets(url):
    return url.replace("://", f"://user:{SECRET}@") + f"?key={SECRET}#{SECRET}"


def wait_until(condition, seconds=20.0):
    """Look again and again until *condition* holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def names(folder="."):
    return sorted(os.listdir(folder))


def _read_terminal(leader):
    try:
        return os.read(leader, 65536)
    except OSError:  # nobody has the other end any more
        return b""
