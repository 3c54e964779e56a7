"""The background processes: where they can be started, what they hear, when they end, and what they never leave behind."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import getm
from getm.engine import default, pool
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault
from tests.threads import in_thread

pytestmark = pytest.mark.usefixtures("workers_at_once")

BLOCK = 2**20
SIZE = 4 * BLOCK + 5
GONE = 5.0  # seconds until which what has to end is given up on

READ = """
    import hashlib, sys, getm
    from getm.engine import default, pool
    pool.LAUNCH_SECONDS = pool.SOON = 0.0  # as `workers_at_once`
    with getm.open(sys.argv[1], concurrency=1) as file:
        print(hashlib.sha256(file.read()).hexdigest())
"""

REPORT = """
    import hashlib, json, os, signal, sys, getm
    from getm.engine import default, pool
    pool.LAUNCH_SECONDS = pool.SOON = 0.0  # as `workers_at_once`

    def processes():
        core = default(1)._hub.core
        core.collect()
        return [core.pool._launcher.pid, *(worker.pid for worker in core.pool.workers.values())]

    def report(*facts):
        print(json.dumps(facts), flush=True)

    url = sys.argv[1]
"""


FORKING = """
    import getm.engine
    getm.engine._defaults[True] = getm.Engine(forks=True)
"""
FORKS = pytest.mark.parametrize("setting", ["", FORKING], ids=["interpreter", "fork"])

WAYS = {
    "os._exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "exit with open readers": "sys.exit()",
    "unhandled exception": "raise RuntimeError",
    "exception in a thread, then exit": "import threading; threading.Thread(target=lambda: 1 / 0).start()",
    "exec": "os.execv(sys.executable, [sys.executable, '-c', 'input()'])",
}


def script(*parts):
    return "\n".join(textwrap.dedent(part) for part in parts)


def run(*arguments, **options):
    """Run our interpreter to its end, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout.split()


@contextlib.contextmanager
def running(code, *arguments, **options):
    """Run code in our interpreter; it ends with its standard input, at the latest at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def reported(process):
    """Return the next facts that a script reports."""
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


def is_running(number):
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_end(numbers):
    """Wait until processes, which need not be ours, have ended."""
    assert all(numbers)
    deadline = time.monotonic() + GONE
    while running_still := [number for number in numbers if is_running(number)]:
        assert time.monotonic() < deadline, [psutil.Process(number) for number in running_still]
        time.sleep(0.01)


def core():
    return default(8)._hub.core


def worker_pids():
    """Return the process numbers of the workers that have told theirs."""
    engine = default(8)
    with engine._hub.lock:
        core = engine._hub.enter(None)
        core.collect()
        return [worker.pid for worker in core.pool.workers.values() if worker.pid]


def await_workers(count):
    deadline = time.monotonic() + 10
    while len(pids := worker_pids()) < count:
        assert time.monotonic() < deadline, pids
        time.sleep(0.005)
    return pids


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def digest():
    return hashlib.sha256(ramp(0, SIZE)).hexdigest()


def descendants():
    """Return the processes below this one, but for the nginx that tests share."""
    return [process for process in psutil.Process().children(recursive=True) if process.name() != "nginx"]


class TestStart:
    """Workers can be started from everywhere."""

    @pytest.mark.parametrize("options", [[], ["-I"], ["-P", "-O"]], ids=str)
    def test_in_code_of_the_command_line(self, server, url, digest, options):
        assert [digest] == run(*options, "-c", script(READ), url)
        assert 2 == server.connections

    def test_in_code_of_the_standard_input(self, server, url, digest):
        assert [digest] == run("-", url, input=script(READ))
        assert 2 == server.connections

    def test_in_a_script_without_a_guard(self, server, url, digest, tmp_path):
        (tmp_path / "script.py").write_text(script("print('begun')", READ))
        assert ["begun", digest] == run(tmp_path / "script.py", url)
        assert 2 == server.connections

    def test_in_code_that_is_executed_as_main(self, server, url, digest):
        code = f"exec(compile({script(READ)!r}, '<cell 1>', 'exec'), {{'__name__': '__main__'}})"
        assert [digest] == run("-c", code, url)
        assert 2 == server.connections

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_in_a_daemonic_process_of_a_pool(self, server, url, digest, tmp_path, method):
        code = script(
            REPORT,
            """
            import multiprocessing

            def read(url):
                assert multiprocessing.current_process().daemon
                with getm.open(url, concurrency=1) as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                    return digest, *processes()

            if __name__ == "__main__":
                with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
                    for facts in pool.map(read, [url] * 2, chunksize=1):
                        print(*facts)
            """,
        )
        (tmp_path / "script.py").write_text(code)
        found = run(tmp_path / "script.py", url, method)
        assert [digest] * 2 == [word for word in found if len(word) == 64]
        await_end([int(word) for word in found if len(word) < 64])

    def test_in_a_thread_that_ends_before_its_workers(self, server, url):
        file = in_thread(lambda: getm.open(url, concurrency=1))()
        assert ramp(0, BLOCK + 1) == in_thread(file.read, BLOCK + 1)()
        (pid,) = await_workers(1)
        assert ramp(BLOCK + 1, SIZE) == in_thread(file.read)()
        assert [pid] == worker_pids()
        file.close()

    def test_at_the_end_of_a_process_with_an_open_reader_nothing_is_printed(self, server, url):
        code = f"import getm; file = getm.open({url!r}, concurrency=2); print(len(file.read()))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert (f"{SIZE}\n", "") == (done.stdout, done.stderr)

    def test_in_a_folder_of_modules_that_lie(self, server, url, digest, tmp_path):
        lies = tmp_path / "lies"
        lies.mkdir()
        for name in ("requests", "socket", "getm", "pickle", "urllib3"):
            (lies / f"{name}.py").write_text("raise SystemExit('a lie')")
        (tmp_path / "script.py").write_text(script(READ))
        assert [digest] == run(tmp_path / "script.py", url, cwd=lies)
        code = f"import os, getm; getm.open; os.chdir({str(lies)!r})"  # of which all else is imported with it
        assert [digest] == run("-c", script(code, READ), url, cwd=tmp_path)
        assert 4 == server.connections

    def test_without_an_interpreter_reading_goes_on_in_the_caller(self, server, url, monkeypatch, caplog):
        monkeypatch.setattr(sys, "executable", "")
        with getm.open(url) as file:
            assert ramp(0, SIZE) == file.read()
        assert [] == descendants()
        assert 1 == len(caplog.records)

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_without_workers_that_come_up_reading_goes_on_in_the_caller(
        self, server, new_engine, monkeypatch, caplog, concurrency
    ):
        still = "import os\nsys.modules['getm.engine.worker']._work = lambda *_: os._exit(1)\nlaunch(channel"
        monkeypatch.setattr(pool, "_LAUNCHER", pool._LAUNCHER.replace("launch(channel", still))
        url = server.put("/a.bin", SIZE)
        with getm.open(url, concurrency=concurrency, engine=new_engine(), deadline=10) as file:
            assert ramp(0, SIZE) == file.read()
        (record,) = caplog.records
        assert "they end as soon as they are started" in record.getMessage()


class TestEnd:
    """Workers and launcher end soon after their parent, however it ends."""

    READING = """
        file = getm.open(url, concurrency=3)
        assert len(file.read(2 << 20)) == 2 << 20
        other = getm.open(url, concurrency=3)
        while None in processes():
            pass
        report(*processes())
    """

    @FORKS
    @pytest.mark.parametrize("way", WAYS)
    def test_of_idle_workers(self, server, way, setting):
        url = server.put("/a.bin", 3 * BLOCK)
        with running(script(setting, REPORT, self.READING, "sys.stdin.readline()", WAYS[way]), url) as process:
            pids = reported(process)
            assert len(pids) >= 2
            assert all(map(is_running, pids))
            print(file=process.stdin, flush=True)
            await_end(pids)

    @FORKS
    @pytest.mark.parametrize("way", WAYS)
    def test_of_workers_in_the_middle_of_a_body(self, server, way, setting):
        url = server.put("/a.bin", 64 * BLOCK)
        server.fail(Fault(stall=300_000), when=lambda request: request.start >= 3 * BLOCK, times=None)
        with running(script(setting, REPORT, self.READING, "sys.stdin.readline()", WAYS[way]), url) as process:
            pids = reported(process)
            server.wait_for(lambda log: any(request.sent == 300_000 for request in log))
            print(file=process.stdin, flush=True)
            await_end(pids)

    def test_of_workers_without_a_place_for_more(self, server):
        url = server.put("/a.bin", 64 * BLOCK)
        reading = """
            getm.engine.caller.AT_HAND = float("inf")
            engine = getm.Engine(memory=4 << 20)
            stream = getm.urlopen(url, engine=engine)
            held = [stream.read(1 << 20) for _ in range(4)]
            core = engine._hub.core
            report(core.pool._launcher.pid, *(worker.pid for worker in core.pool.workers.values()))
            sys.stdin.readline()
            os._exit(0)
        """
        with running(script(REPORT, reading), url) as process:
            pids = reported(process)
            server.wait_for(lambda log: len(log) == 2)
            print(file=process.stdin, flush=True)
            await_end(pids)

    @pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM], ids=lambda signal_: signal_.name)
    def test_though_a_forked_child_lives_on(self, server, url, signal_):
        forking = """
            child = os.fork()
            if child == 0:
                os.close(1)
                os.close(2)
                sys.stdin.read()
                os._exit(0)
            report(child)
            signal.pause()
        """
        with running(script(REPORT, self.READING, forking), url) as process:
            pids = reported(process)
            (child,) = reported(process)
            process.send_signal(signal_)
            process.wait(GONE)
            await_end(pids)
            assert is_running(child)
            process.stdin.close()
            await_end([child])

    def test_though_a_child_got_every_descriptor(self, server, url):
        starting = """
            import subprocess
            for descriptor in os.listdir("/proc/self/fd"):
                if int(descriptor) > 2:
                    try:
                        os.set_inheritable(int(descriptor), True)
                    except OSError:
                        pass
            child = subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            report(child.pid)
            os._exit(0)
        """
        with running(script(REPORT, self.READING, starting), url) as process:
            pids = reported(process)
            (child,) = reported(process)
            await_end(pids)
            assert is_running(child)
            process.stdin.close()
            await_end([child])

    def test_closing_the_engine_ends_them_and_the_next_read_starts_others(self, server, url):
        with getm.open(url, concurrency=2) as file:
            assert ramp(0, 2 * BLOCK) == file.read(2 * BLOCK)
            pids = [core().pool._launcher.pid, *await_workers(1)]
            default(8).close()
            assert not is_running(pids[0])
            await_end(pids)
            assert ramp(2 * BLOCK, SIZE) == file.read()

    def test_a_forked_child_reads_by_workers_of_its_own(self, server, url, digest):
        forking = """
            file = getm.open(url, concurrency=2)
            assert len(file.read(2 << 20)) == 2 << 20
            before = processes()
            child = os.fork()
            file.seek(0)
            print(hashlib.sha256(file.read()).hexdigest(), flush=True)
            if child == 0:
                assert not set(before) & set(processes())
                file.close()
                sys.exit()
            assert before[0] == processes()[0]
            assert os.waitpid(child, 0)[1] == 0
        """
        assert [digest] * 2 == run("-c", script(REPORT, forking), url)


class TestDeath:
    """A process of ours that dies costs time, and nothing else."""

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_of_a_worker_in_the_middle_of_a_body(self, server, concurrency):
        url = server.put("/a.bin", 16 * BLOCK)
        server.fail(Fault(stall=100_000), when=lambda request: request.start >= BLOCK, times=1)
        with getm.open(url, concurrency=concurrency) as file:
            reading = in_thread(file.read)
            log = server.wait_for(lambda log: any(request.sent == 100_000 for request in log))
            (stalled,) = [request for request in log if request.sent == 100_000]
            with contextlib.suppress(ProcessLookupError):
                for pid in worker_pids():
                    os.kill(pid, signal.SIGKILL)
            content = reading()
            assert 16 * BLOCK == len(content)
            assert_ramp(content, 0)
            assert server.wait_for(lambda log: log[stalled.index].finished)[stalled.index].gone

    def test_of_every_worker_again_and_again_ends_in_an_error(self, server):
        url = server.put("/a.bin", 16 * BLOCK)
        server.fail(Fault(stall=0), when=lambda request: request.start >= BLOCK, times=None)
        ended = threading.Event()

        def kill():
            while not ended.wait(0.01):
                for process in descendants():
                    if process.ppid() != os.getpid():
                        with contextlib.suppress(psutil.NoSuchProcess):
                            process.kill()

        with getm.open(url, concurrency=1, retries=2) as file:
            file.read(BLOCK)
            killer = threading.Thread(target=kill)
            killer.start()
            try:
                with pytest.raises(getm.WorkerError, match=r"bytes 1048576-.*\(3 attempts\)"):
                    file.read(BLOCK)
            finally:
                ended.set()
                killer.join()
            server.heal()
            assert ramp(BLOCK, 2 * BLOCK) == file.read(BLOCK)

    def test_of_more_than_five_in_a_minute_is_an_error_that_says_so(self, server, new_engine):
        url = server.put("/a.bin", 16 * BLOCK)
        server.fail(Fault(stall=100_000), when=lambda request: request.start >= BLOCK, times=None)
        engine = new_engine()
        with getm.open(url, concurrency=1, retries=100, engine=engine) as file:
            reading = in_thread(file.read)
            for killed in range(1, 7):
                server.wait_for(lambda log, killed=killed: sum(request.sent == 100_000 for request in log) >= killed)
                (worker,) = engine._hub.core.pool.workers.values()
                while worker.pid is None:  # the thread that reads has not heard of it yet
                    time.sleep(0.001)
                os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(getm.WorkerError, match=r"ended in the middle of their work 6 times in \d"):
                reading()
            server.heal()
            assert_ramp(file.read(), 0)

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_of_the_launcher(self, server, concurrency):
        url = server.put("/a.bin", 32 * BLOCK)
        with getm.open(url, concurrency=concurrency) as file:
            assert_ramp(file.read(2 * BLOCK), 0)
            await_workers(1)
            launcher = core().pool._launcher.pid
            os.kill(launcher, signal.SIGKILL)
            content = file.read()
            assert 30 * BLOCK == len(content)
            assert_ramp(content, 2 * BLOCK)
            for pid in worker_pids():
                os.kill(pid, signal.SIGKILL)
            file.seek(0)
            content = file.read()
            assert_ramp(content, 0)
            default(8).clear()
            assert_ramp(file.read_at(10 * BLOCK, 10 * BLOCK), 10 * BLOCK)
        assert_ramp(content, 0)

    def test_of_all_of_them_between_two_reads(self, server, url):
        with getm.open(url, concurrency=4) as file:
            assert ramp(0, 2 * BLOCK) == file.read(2 * BLOCK)
            await_workers(1)
            for process in descendants():
                process.kill()
            assert ramp(2 * BLOCK, SIZE) == file.read()
            default(8).clear()
            assert ramp(0, SIZE) == file.read_at(0, SIZE)


class TestForked:
    """Workers that are copies of the caller, which has allowed it."""

    READING = """
        secret = open("/dev/null", "rb")
        os.set_inheritable(secret.fileno(), True)
        file = getm.open(url, concurrency=2)
        assert len(file.read(2 << 20)) == 2 << 20
        while None in processes():
            pass
        report(secret.fileno(), *processes())
    """

    def test_are_none_of_its_files_and_not_of_its_session(self, server, url, digest):
        rest = "sys.stdin.readline(); file.seek(0); report(hashlib.sha256(file.read()).hexdigest())"
        with running(script(FORKING, REPORT, self.READING, rest), url) as process:
            _, launcher, *workers = reported(process)
            for pid in (launcher, *workers):
                assert launcher == os.getsid(pid) != os.getsid(process.pid)
                assert b"getm: background" == Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
                os.kill(pid, signal.SIGINT)
                open_ = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
                known = ("/memfd:", "anon_inode:", "socket:", "pipe:")
                assert ["/dev/null"] * open_.count("/dev/null") == [each for each in open_ if not each.startswith(known)]
                assert 4 >= open_.count("/dev/null")
            print(file=process.stdin, flush=True)
            assert [digest] == reported(process)

    def test_are_started_anew_when_the_launcher_dies(self, server, url, digest):
        killing = """
            for pid in processes():
                os.kill(pid, signal.SIGKILL)
            default(8).clear()
            file.seek(0)
            report(hashlib.sha256(file.read()).hexdigest(), *processes())
        """
        with running(script(FORKING, REPORT, self.READING, killing), url) as process:
            _, before, *_ = reported(process)
            found, after, *_ = reported(process)
            assert digest == found
            assert before != after

    def test_are_none_of_a_caller_with_threads(self, server, url):
        threads = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
        with running(script(FORKING, REPORT, threads, self.READING, "sys.stdin.readline()"), url) as process:
            _, launcher, *_ = reported(process)
            assert b"getm.engine.worker" in Path(f"/proc/{launcher}/cmdline").read_bytes()

    def test_forks_of_the_caller_are_told_to_engines_as_ever(self, server, url, digest):
        forking = """
            child = os.fork()
            file.seek(0)
            found = hashlib.sha256(file.read()).hexdigest()
            if child == 0:
                os._exit(found != sys.argv[2])
            report(found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
        with running(script(FORKING, REPORT, self.READING, forking), url, digest) as process:
            reported(process)
            assert [digest, 0] == reported(process)


class TestHearing:
    """A worker reacts in the middle of a body."""

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_closing_ends_a_stalled_body(self, server, concurrency):
        url = server.put("/a.bin", 64 * BLOCK)
        server.fail(Fault(stall=100_000), when=lambda request: request.start + 10 * BLOCK > 13 * BLOCK, times=None)
        server.fail(Fault(stall=3 * BLOCK), when=lambda request: request.start == BLOCK, times=None)
        file = getm.open(url, concurrency=concurrency)
        for _ in range(8):
            file.read(BLOCK // 4)
        file.read(1)
        server.wait_for(lambda log: any(not request.finished and request.sent for request in log))
        file.close()
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert any(request.gone for request in log)

    def test_closing_ends_a_request_that_is_not_answered_yet(self, server):
        url = server.put("/a.bin", 64 * BLOCK)
        server.fail(Fault(delay=threading.Event()), when=lambda request: request.start >= 2 * BLOCK, times=None)
        file = getm.open(url, concurrency=4)
        file.read(BLOCK + 1)
        file.read(BLOCK // 2)
        server.wait_for(lambda log: any(not request.finished and request.status is None for request in log))
        file.close()
        server.wait_for(lambda log: all(request.finished for request in log))

    def test_a_worker_goes_on_when_it_is_granted_a_place(self, server, new_engine):
        url = server.put("/a.bin", 32 * BLOCK)
        engine = new_engine(memory=4 * BLOCK)
        with getm.urlopen(url, engine=engine) as stream:
            for start in range(0, 32 * BLOCK, BLOCK):
                assert_ramp(stream.read(BLOCK), start)
                assert engine.memory <= 4 * BLOCK

    def test_a_dripping_body_is_a_stall_and_is_asked_for_again(self, server, url):
        server.fail(Fault(pace=1000), when=lambda request: request.start >= BLOCK)
        with getm.open(url, concurrency=1, timeout=(5, 0.5)) as file:
            assert ramp(0, SIZE) == file.read()
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert 3 == len(log)
        assert log[1].gone

    @pytest.mark.parametrize(
        "fault", [Fault(pace=1000), Fault(stall=70_000), Fault(delay=60.0)], ids=["drip", "stall", "silence"]
    )
    def test_a_stall_is_a_timeout_when_nothing_is_tried_again(self, server, url, fault):
        server.fail(fault, when=lambda request: request.start >= BLOCK, times=None)
        with getm.open(url, concurrency=1, timeout=(5, 0.5), retries=0) as file:
            file.read(BLOCK)
            with pytest.raises(getm.TransferTimeout, match=f"{url}, bytes 1"):
                file.read(BLOCK)
            server.heal()
            assert ramp(BLOCK, SIZE) == file.read()

    @pytest.mark.parametrize("door", ["open", "read", "first block"])
    def test_a_dripping_body_is_a_stall_in_the_calling_process_too(self, server, url, door):
        server.fail(Fault(pace=1000), times=None)
        options = {"timeout": (5, 0.5), "retries": 0}
        if door == "read":
            with pytest.raises(getm.TransferTimeout):
                getm.read(url, 5, 500_000, **options)
        else:
            with (
                getm.open(url, concurrency=None if door == "open" else 1, **options) as file,
                pytest.raises(getm.TransferTimeout),
            ):
                file.read(100_000)

    def test_a_caller_who_takes_his_time_is_no_stall(self, server, new_engine):
        url = server.put("/a.bin", 16 * BLOCK)
        engine = new_engine(memory=4 * BLOCK)
        with getm.urlopen(url, engine=engine, timeout=(5, 0.3), retries=0) as stream:
            assert_ramp(stream.read(2 * BLOCK), 0)
            time.sleep(0.7)  # what is tested is that silence of this length is none
            for start in range(2 * BLOCK, 16 * BLOCK, BLOCK):
                assert_ramp(stream.read(BLOCK), start)

    @FORKS
    def test_workers_push_nobody_from_a_processor(self, server, url, setting):
        reading = """
            file = getm.open(url, concurrency=1)
            assert len(file.read(2 << 20)) == 2 << 20
            report(*map(os.sched_getscheduler, [0, *processes()]))
        """
        with running(script(setting, REPORT, reading), url) as process:
            assert [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_BATCH] == reported(process)

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_idle_workers_do_nothing(self, server, url, concurrency):
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, SIZE) == file.read()
            processes = [psutil.Process(core().pool._launcher.pid), *map(psutil.Process, await_workers(1))]
            server.wait_for(lambda log: all(request.finished for request in log))
            deadline = time.monotonic() + 5
            while True:  # until they have come to rest
                before = [(process.cpu_times()[:2], process.num_ctx_switches()) for process in processes]
                time.sleep(0.2)  # nothing can be waited for where nothing is to happen
                if before == [(process.cpu_times()[:2], process.num_ctx_switches()) for process in processes]:
                    break
                assert time.monotonic() < deadline


class TestMemory:
    def test_is_taken_in_steps_and_never_above_what_was_said(self, server, new_engine):
        urls = [server.put(f"/{number}", 6 * BLOCK) for number in range(5)]
        engine = new_engine(memory=8 * BLOCK)
        assert 0 == engine.memory
        files = [getm.open(url, engine=engine, concurrency=3) for url in urls]
        taken = [engine.memory]
        for start in range(0, 6 * BLOCK, BLOCK // 2):
            for file in files:
                assert ramp(start, start + BLOCK // 2) == file.read(BLOCK // 2)
                taken.append(engine.memory)
                assert os.fstat(engine._hub.core.memory.arena.descriptor).st_blocks * 512 <= taken[-1]
        assert taken == sorted(taken)
        assert len(set(taken)) >= 3
        assert taken[1] <= 2 * BLOCK
        assert 4 * BLOCK < taken[-1] <= 8 * BLOCK
        for file in files:
            file.close()
        engine.close()
        assert 0 == engine.memory

    def test_beyond_16_mib_goes_back_with_the_last_reader(self, server):
        with getm.open(server.put("/small", 1)) as last:
            with getm.open(server.put("/a.bin", 48 * BLOCK)) as file:
                assert_ramp(file.read(), 0)
            assert default(8).memory > 32 * BLOCK
            descriptor = core().memory.arena.descriptor
            last.read()
        assert default(8).memory <= 16 * BLOCK
        assert os.fstat(descriptor).st_blocks * 512 <= 16 * BLOCK

    def test_under_a_lease_stays_when_the_last_reader_goes(self, server):
        with getm.urlopen(server.put("/a.bin", 48 * BLOCK), concurrency=8) as stream:
            parts = [stream.read(BLOCK) for _ in range(48)]
        for start, part in enumerate(parts):
            assert_ramp(part, start * BLOCK)
        del part, parts
        with getm.open(server.put("/small", 1)):
            pass
        assert default(8).memory <= 16 * BLOCK

    def test_is_not_taken_and_given_back_for_each_small_object(self, server, new_engine, monkeypatch):
        engine = new_engine()
        taken = []
        monkeypatch.setattr(os, "posix_fallocate", lambda *span, call=os.posix_fallocate: taken.append(span) or call(*span))
        for number in range(100):
            with getm.open(server.put(f"/{number}", BLOCK), engine=engine) as file:
                assert_ramp(file.read(), 0)
        assert len(taken) < 20
        assert engine.memory <= 32 * BLOCK

    def test_has_no_name_and_touches_no_shared_memory(self, server, url):
        before = sorted(os.listdir("/dev/shm"))
        temporary = sorted(os.listdir("/tmp"))
        with getm.open(url, concurrency=4) as file:
            file.read()
            assert before == sorted(os.listdir("/dev/shm"))
            assert not [name for name in set(os.listdir("/tmp")) - set(temporary) if "getm" in name]
            for pid in [os.getpid(), core().pool._launcher.pid, *await_workers(1)]:
                maps = Path(f"/proc/{pid}/maps").read_text()
                assert "/memfd:getm (deleted)" in maps
                assert "/dev/shm" not in maps


class TestSecrets:
    def test_are_in_no_command_line_and_no_environment(self, server):
        server.put("/a.bin", SIZE)
        url = server.url.replace("//", "//user:SECRET@") + "/a.bin?token=SECRET"
        headers = {"Authorization": "Bearer SECRET", "X-Key": "SECRET"}
        with getm.open(url, concurrency=4, headers=headers) as file:
            file.read()
            for pid in [core().pool._launcher.pid, *await_workers(1)]:
                for name in ("cmdline", "environ"):
                    assert b"SECRET" not in Path(f"/proc/{pid}/{name}").read_bytes()
            assert "SECRET" not in repr(file)
        assert all(request.query == "token=SECRET" for request in server.log)


class TestInterrupt:
    CODE = """
        file = getm.open(url, concurrency=json.loads(sys.argv[2]))
        file.read(1 << 20)
        before = file.tell()
        try:
            file.read()
        except KeyboardInterrupt:
            report("interrupted", file.tell() == before)
        sys.stdin.readline()
        file.seek(0)
        report(hashlib.sha256(file.read()).hexdigest())
        file.close()
    """

    @pytest.mark.parametrize("concurrency", ["null", "1", "8"])
    def test_leaves_a_stalled_read_at_once_and_the_reader_usable(self, server, url, digest, concurrency):
        server.fail(Fault(stall=100_000), when=lambda request: request.start >= BLOCK, times=None)
        with running(script(REPORT, self.CODE), url, concurrency, start_new_session=True) as process:
            server.wait_for(lambda log: any(request.sent == 100_000 for request in log))
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert ["interrupted", True] == reported(process)
            server.heal()
            print(file=process.stdin, flush=True)
            assert [digest] == reported(process)
            assert ("", "") == process.communicate(timeout=30)
            assert 0 == process.returncode

    @pytest.mark.parametrize("concurrency", ["null", "8"])
    @pytest.mark.parametrize(
        ("fault", "start"),
        [
            pytest.param(Fault(stall=0), 0, id="in the first request"),
            pytest.param(Fault(status=503, headers={"Retry-After": "60"}), 0, id="before its next attempt"),
            pytest.param(Fault(status=503, headers={"Retry-After": "60"}), BLOCK, id="before a later attempt"),
        ],
    )
    def test_ends_a_wait_at_once(self, server, url, concurrency, fault, start):
        server.fail(fault, when=lambda request: request.start >= start, times=None)
        code = """
            try:
                getm.open(url, concurrency=json.loads(sys.argv[2])).read()
            except KeyboardInterrupt:
                report("interrupted")
        """
        with running(script(REPORT, code), url, concurrency, start_new_session=True) as process:
            server.wait_for(lambda log: any(request.start >= start for request in log))
            os.killpg(process.pid, signal.SIGINT)
            assert ["interrupted"] == reported(process)
            assert ("", "") == process.communicate(timeout=10)

    def test_is_ignored_by_launcher_and_workers(self, server, url):
        with getm.open(url, concurrency=2) as file:
            assert ramp(0, 2 * BLOCK) == file.read(2 * BLOCK)
            pids = [core().pool._launcher.pid, *await_workers(1)]
            for pid in pids:
                assert os.getsid(pid) == pids[0] != os.getsid(0)
                os.kill(pid, signal.SIGINT)
                for descriptor in range(3):
                    assert "/dev/null" == os.readlink(f"/proc/{pid}/fd/{descriptor}")
            assert ramp(2 * BLOCK, SIZE) == file.read()
            assert all(map(is_running, pids))


def test_arrays_of_leases_may_outlive_the_workers(server, url):
    with getm.urlopen(url, concurrency=2) as stream:
        array = np.frombuffer(stream.read(BLOCK), np.uint8)
    default(8).close()
    assert_ramp(array, 0)
