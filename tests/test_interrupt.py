"""Ctrl-C between any two lines of getm: it leaves at once, and everything goes on as if it had not come."""

import contextlib
import dis
import itertools
import linecache
import sys
from pathlib import Path

import pytest

import getm
from tests.content import assert_ramp, ramp
from tests.threads import in_thread

PACKAGE = str(Path(getm.__file__).parent)
KIB = 1 << 10
SIZE = 6 * 256 * KIB
OPTIONS = {"block_size": 256 * KIB}


class Interrupt:
    """Raises `KeyboardInterrupt` before the line that is the *number*-th to be run in getm by this thread.

    A signal is never noticed between the end of a `with` block and the call that leaves it, nor at `try:`, which is no
    instruction: no handler covers these places, so nothing is raised there.
    """

    def __init__(self, number):
        self.count = 0
        self.place = None
        self._number = number

    def __enter__(self):
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, _event, _argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        last = 0

        def line(frame, event, _argument):
            nonlocal last
            if event == "line":
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                is_left = frame.f_lineno <= last and text.strip().startswith("with ")
                is_nothing = frame.f_code.co_code[frame.f_lasti] == dis.opmap["NOP"]
                last = frame.f_lineno
                self.count += 1
                if self.count >= self._number and not (is_left or is_nothing):
                    sys.settrace(None)
                    self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                    raise KeyboardInterrupt
            return line

        return line


def read(url, tmp_path, engine, concurrency, interrupt):
    with getm.open(url, engine=engine, concurrency=concurrency, **OPTIONS) as file:
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            file.read(2 * 256 * KIB)
            file.read_at(5 * 256 * KIB, 1000)
            file.seek(0)
        file.seek(0)
        assert_ramp(file.read(), 0)
        assert in_thread(file.read_at, 300_000, 100_000)() == ramp(300_000, 400_000)


def stream(url, tmp_path, engine, concurrency, interrupt):
    with getm.urlopen(url, engine=engine, concurrency=concurrency, **OPTIONS) as stream:
        views = []
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            views += ((stream.tell(), stream.read(length)) for length in (200_000, 256 * KIB, 256 * KIB))
        position = stream.tell()
        views.append((position, stream.read(SIZE - position)))
        for start, view in views:
            assert_ramp(view, start)
        assert SIZE == stream.tell()
        del view, views


def copy(url, tmp_path, engine, concurrency, interrupt):
    path = tmp_path / "copy"
    with contextlib.suppress(KeyboardInterrupt), interrupt:
        getm.copy(url, path, engine=engine, concurrency=concurrency, **OPTIONS)
    assert not path.exists() or path.stat().st_size == SIZE
    in_thread(lambda: getm.copy(url, path, engine=engine, concurrency=concurrency, **OPTIONS))()
    assert_ramp(path.read_bytes(), 0)
    assert [path] == list(tmp_path.iterdir())
    path.unlink()


def close(url, tmp_path, engine, concurrency, interrupt):
    file = getm.open(url, engine=engine, concurrency=concurrency, **OPTIONS)
    file.read(3 * 256 * KIB)
    with contextlib.suppress(KeyboardInterrupt), interrupt:
        file.close()
        engine.close()
    file.close()


@pytest.mark.parametrize("part", ["some", *(pytest.param(part, marks=pytest.mark.stress) for part in range(16))])
@pytest.mark.parametrize("concurrency", [None, 1, 4])
@pytest.mark.parametrize("do", [read, stream, copy, close])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what was being closed may be left to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_at_any_line_it_leaves_and_everything_goes_on(server, tmp_path, do, concurrency, part):
    server.put("/a.bin", SIZE)
    engine = getm.Engine(4 << 20, 0 if concurrency is None else 4)
    numbers = itertools.count()

    def interrupted(number):
        interrupt = Interrupt(number)
        do(f"{server.url}/a.bin?{next(numbers)}", tmp_path, engine, concurrency, interrupt)
        assert [] == engine._hub.feeds, interrupt.place
        return interrupt

    try:
        most = interrupted(1 << 30).count
        for number in range(1, most, max(1, most // 12)) if part == "some" else range(1 + part, most, 16):
            interrupted(number)
    finally:
        engine.close()


class InterruptOfReturn(Interrupt):
    """Raises it as the *number*-th function that sends a request returns: what that has locked stays locked."""

    FILES = ("/urllib3/", "/requests/", "/http/client.py", "/queue.py", "/threading.py", "/getm/sources/")

    def _call(self, frame, _event, _argument):
        name = frame.f_code.co_filename
        if not any(part in name for part in self.FILES):
            return None
        frame.f_trace_lines = False

        def leave(frame, event, _argument):
            if event == "return":
                self.count += 1
                if self.count == self._number:
                    sys.settrace(None)
                    self.place = f"{name}:{frame.f_lineno}"
                    raise KeyboardInterrupt
            return leave

        return leave


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_at_any_return_of_what_sends_a_request_the_next_is_sent(server):
    url = server.put("/a.bin", 1000)
    getm.read(url)

    def interrupted(number):
        interrupt = InterruptOfReturn(number)
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            getm.read(url)
        return interrupt

    for number in range(1, interrupted(1 << 30).count + 1):
        place = interrupted(number).place
        assert in_thread(getm.read, url)() == ramp(0, 1000), place
