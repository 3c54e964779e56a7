"""A pipe has a descriptor, streams from the first byte to the last, and never takes a failure for the end."""

import contextlib
import functools
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

import getm
from tests.commands import SECRET, started, wait_until
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

MIB = 2**20
SIZE = 3 * MIB + 7
EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)
COPY = [sys.executable, "-c", "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"]


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


def feeders():
    """Return the processes that stream into pipes of this one."""
    children = psutil.Process().children()
    return [child for child in children if "getm.pipe" in " ".join(child.as_dict(["cmdline"])["cmdline"] or [])]


def digest(content):
    return hashlib.sha256(content).hexdigest()


class TestReading:
    @EVERY
    @pytest.mark.parametrize("size", [0, 1, MIB, SIZE])
    def test_all_bytes_come_in_order(self, server, concurrency, size):
        with getm.pipe(server.put("/sized", size), concurrency=concurrency) as pipe:
            content = pipe.read()
        assert size == len(content)
        assert_ramp(content, 0)
        assert pipe.closed

    @EVERY
    def test_another_program_reads_it(self, url, concurrency):
        with getm.pipe(url, concurrency=concurrency) as pipe:
            copied = subprocess.run(COPY, stdin=pipe, stdout=subprocess.PIPE, check=True)
        assert ramp(0, SIZE) == copied.stdout

    def test_one_connection_is_made_by_default(self, server):
        with getm.pipe(server.put("/large.bin", 20 * MIB)) as pipe:
            pipe.read()
        assert (2, 1) == (len(server.log), server.connections)

    def test_two_at_once(self, server, url):
        with getm.pipe(url) as one, getm.pipe(server.put("/b.bin", SIZE, {})) as other:
            for start in range(0, SIZE, 99_999):
                stop = min(SIZE, start + 99_999)
                assert ramp(start, stop) == one.read(99_999) == other.read(99_999)

    def test_options_reach_the_server(self, server, url):
        fresh = functools.partial(str, url + "?key=1")
        with getm.pipe(fresh, headers={"X-Own": "7"}, auth=("me", SECRET), refresh=fresh) as pipe:
            pipe.read()
        asked = {(each.query, each.headers["X-Own"], "Authorization" in each.headers) for each in server.log}
        assert {("key=1", "7", True)} == asked

    def test_the_feeder_shows_no_secrets(self, url):
        with getm.pipe(f"{url}?key={SECRET}", headers={"X-Own": SECRET}) as pipe:
            (feeder,) = feeders()
            assert SECRET not in " ".join(feeder.cmdline()) + str(feeder.environ())
            pipe.read()

    @pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
    def test_a_program_without_standard_descriptors_can_have_one(self, url, tmp_path, closed):
        script = f"""
import getm
with getm.pipe({url!r}) as pipe:
    length = len(pipe.read())
open({str(tmp_path / "length")!r}, "w").write(str(length))
"""
        subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script], check=True)
        assert str(SIZE) == (tmp_path / "length").read_text()


class TestRefusing:
    @pytest.mark.parametrize(("status", "error"), [(404, getm.NotFound), (403, getm.AccessDenied)])
    def test_what_cannot_be_had_is_an_error_on_entering(self, server, url, status, error):
        server.fail(Fault(status=status), times=None)
        with pytest.raises(error, match=str(status)) as raised, getm.pipe(f"{url}?key={SECRET}"):
            raise AssertionError("entered")
        assert (status, url) == (raised.value.status, raised.value.url)
        assert SECRET not in str(raised.value)
        assert 1 == len(server.log)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"colour": "red"}, TypeError),
            ({"engine": None}, TypeError),
            ({"concurrency": True}, getm.UsageError),
            ({"retries": -1}, getm.UsageError),
            ({"checksum": "sha256:12"}, getm.UsageError),
            ({"refresh": lambda: ""}, getm.UsageError),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else value.__name__,
    )
    def test_options_that_cannot_be_are_refused(self, server, url, options, error):
        with pytest.raises(error), getm.pipe(url, **options):
            raise AssertionError("entered")
        assert [] == server.log

    def test_a_function_of_the_script_is_refused(self, server, url):
        script = f"""
import getm
def fresh(): return {url!r}
try:
    with getm.pipe(fresh): pass
except getm.UsageError as error:
    print(error)
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "give a URL that lasts" in result.stdout
        assert "fresh" in result.stdout
        assert [] == server.log

    def test_without_an_interpreter_there_is_no_pipe(self, url, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(getm.WorkerError, match="cannot be started"), getm.pipe(url):
            raise AssertionError("entered")


class TestFailing:
    @EVERY
    def test_a_failure_is_raised_on_leaving(self, server, url, concurrency):
        server.fail(Fault(status=403), when=lambda request: request.start >= MIB, times=None)
        server.fail(Fault(cut=MIB), when=lambda request: request.start == 0, times=None)
        content = b""
        with pytest.raises(getm.AccessDenied, match="403"), getm.pipe(url, concurrency=concurrency) as pipe:
            content = pipe.read()
        assert MIB <= len(content) < SIZE
        assert_ramp(content, 0)

    def test_a_change_of_the_object_is_raised_on_leaving(self, server, url):
        server.fail(lambda request: None if request.start == 0 else server.put("/a.bin", SIZE) and None)
        with pytest.raises(getm.ObjectChanged), getm.pipe(url) as pipe:
            subprocess.run(COPY, stdin=pipe, stdout=subprocess.DEVNULL, check=True)

    def test_what_the_block_raises_is_caused_by_the_failure(self, server, url):
        server.fail(Fault(cut=MIB))
        server.fail(Fault(status=404), times=None)
        with pytest.raises(EOFError, match="truncated") as raised, getm.pipe(url) as pipe:  # noqa: PT012
            pipe.read()
            raise EOFError("truncated")
        assert isinstance(raised.value.__cause__, getm.NotFound)

    def test_what_the_block_raises_keeps_its_own_cause(self, server, url):
        cause = KeyError("theirs")
        server.fail(Fault(cut=MIB))
        server.fail(Fault(status=404), times=None)
        with pytest.raises(EOFError, match="truncated") as raised, getm.pipe(url) as pipe:  # noqa: PT012
            pipe.read()
            raise EOFError("truncated") from cause
        assert cause is raised.value.__cause__
        assert isinstance(cause.__cause__, getm.NotFound)

    def test_what_the_block_raises_of_its_own_is_left_alone(self, server, url):
        server.fail(Fault(stall=2 * MIB))
        for error in EOFError("own"), KeyboardInterrupt():
            with pytest.raises(type(error)) as raised, getm.pipe(url) as pipe:  # noqa: PT012
                pipe.read(10)
                raise error
            assert (None, False) == (raised.value.__cause__, raised.value.__suppress_context__)

    @EVERY
    def test_the_last_part_is_withheld_if_the_digest_is_wrong(self, url, concurrency):
        options = {"checksum": f"sha256:{digest(b'other')}", "concurrency": concurrency}
        with pytest.raises(getm.IntegrityError, match="sha256"), getm.pipe(url, **options) as pipe:
            content = pipe.read()
        assert 3 * MIB == len(content)
        with getm.pipe(url, checksum=f"sha256:{digest(ramp(0, SIZE))}", concurrency=concurrency) as pipe:
            assert SIZE == len(pipe.read())

    def test_leaving_early_verifies_nothing(self, url):
        with getm.pipe(url, checksum=f"sha256:{digest(b'other')}") as pipe:
            assert ramp(0, MIB) == pipe.read(MIB)

    @EVERY
    def test_a_killed_feeder_is_no_end(self, server, url, concurrency):
        server.fail(Fault(stall=2 * MIB), when=lambda request: request.covers(2 * MIB), times=None)
        with pytest.raises(getm.WorkerError, match="killed"), getm.pipe(url, concurrency=concurrency) as pipe:  # noqa: PT012
            assert ramp(0, MIB) == pipe.read(MIB)
            feeders()[0].kill()
            assert SIZE > MIB + len(pipe.read())

    def test_a_feeder_killed_before_it_answers_is_an_error_on_entering(self, server, url):
        server.fail(Fault(delay=threading.Event()))
        killer = threading.Thread(target=lambda: (server.wait_for(len), feeders()[0].kill()))
        killer.start()
        with pytest.raises(getm.WorkerError, match="killed"), getm.pipe(url):
            raise AssertionError("entered")
        killer.join()

    @pytest.mark.parametrize("program", ["pass", "import os; os.read(0, 1); os.kill(os.getpid(), 9)", "raise OSError"])
    @pytest.mark.parametrize("length", [1, MIB])
    def test_a_feeder_that_does_not_get_so_far_is_an_error_on_entering(self, url, monkeypatch, program, length):
        monkeypatch.setattr(sys.modules["getm.pipes"], "_FEEDER", program)
        with pytest.raises(getm.WorkerError, match="could not start"), getm.pipe(url, headers={"X-Own": "7" * length}):
            raise AssertionError("entered")

    def test_an_interrupt_does_not_reach_the_feeder(self, url):
        with getm.pipe(url) as pipe:
            feeders()[0].send_signal(signal.SIGINT)
            assert SIZE == len(pipe.read())

    def test_an_error_that_cannot_be_told_is_still_one(self, url):
        with pytest.raises(getm.WorkerError, match="Foreign"), getm.pipe(foreign):
            raise AssertionError("entered")


class TestLeaving:
    @EVERY
    @pytest.mark.parametrize("stall", [None, MIB + 1])
    def test_leaving_early_is_no_error_and_ends_the_feeder_at_once(self, server, url, concurrency, stall):
        server.fail(Fault(stall=stall), times=None)
        began = time.monotonic()
        with getm.pipe(url, concurrency=concurrency) as pipe:
            assert ramp(0, 10) == pipe.read(10)
        assert [] == feeders()
        assert time.monotonic() - began < 5

    def test_a_consumer_that_ends_early_is_no_error(self, url):
        with getm.pipe(url) as pipe:
            subprocess.run([sys.executable, "-c", "import os; os.read(0, 10)"], stdin=pipe, check=True)

    def test_closing_it_within_the_block_is_leaving_early(self, url):
        with getm.pipe(url) as pipe:
            pipe.close()
            wait_until(lambda: not feeders())

    def test_leaving_waits_for_who_still_reads(self, server, url):
        release = threading.Event()
        server.fail(Fault(stall=MIB, release=release))
        with subprocess.Popen(COPY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
            with getm.pipe(url) as pipe:
                copying = subprocess.Popen(COPY, stdin=pipe, stdout=subprocess.PIPE)
                received = []
                reading = threading.Thread(target=lambda: received.append(copying.communicate()[0]))
                reading.start()
                threading.Timer(0.3, release.set).start()
            reading.join()
            idle.communicate()
        assert [ramp(0, SIZE)] == received

    def test_who_still_holds_it_but_does_not_read_is_waited_for_until_the_deadline(self, url):
        sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
        with pytest.raises(getm.TransferTimeout, match="nothing was read"), getm.pipe(url, deadline=0.2) as pipe:
            consumer = subprocess.Popen(sleeping, stdin=pipe)
        consumer.kill()
        consumer.wait()

    def test_a_pipe_that_is_forgotten_is_left(self, url):
        context = getm.pipe(url)
        context.__enter__()
        del context
        assert [] == feeders()

    def test_a_forked_child_that_leaves_the_block_takes_nothing_along(self, url):
        with contextlib.ExitStack() as stack:
            pipe = stack.enter_context(getm.pipe(url))
            child = os.fork()
            if child == 0:
                try:
                    stack.close()
                finally:
                    os._exit(7 * pipe.closed)
            assert 7 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert SIZE == len(pipe.read())


class TestDying:
    """The calling process ends in the middle; the check after every test sees what it leaves behind."""

    SCRIPT = """
import subprocess, sys, time
import getm
with getm.pipe({url!r}) as pipe:
    if {command!r}:
        subprocess.Popen({command!r}, stdin=pipe)
        pipe.close()
    print("ready", flush=True)
    time.sleep(60)
"""

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("stall", [None, MIB + 1])
    def test_the_feeder_goes_too(self, server, url, number, stall):
        server.fail(Fault(stall=stall), times=None)
        with started(command=[sys.executable, "-c", self.SCRIPT.format(url=url, command=[])]) as process:
            assert "ready\n" == process.stdout.readline()
            process.send_signal(number)
            assert (number == signal.SIGINT) == ("KeyboardInterrupt" in process.stderr.read())

    def test_who_reads_still_gets_all(self, server, url, tmp_path):
        release = threading.Event()
        server.fail(Fault(stall=MIB // 2, release=release))
        copy = ["sh", "-c", 'cat >"$1"', "sh", str(tmp_path / "copy")]
        (tmp_path / "copy").touch()  # the shell may be slower than we
        with started(command=[sys.executable, "-c", self.SCRIPT.format(url=url, command=copy)]) as process:
            assert "ready\n" == process.stdout.readline()
            process.kill()
        release.set()
        wait_until(lambda: (tmp_path / "copy").stat().st_size == SIZE)
        assert ramp(0, SIZE) == (tmp_path / "copy").read_bytes()


def foreign():
    class ForeignError(Exception):
        pass

    raise ForeignError
