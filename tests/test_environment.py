"""Where getm has to live: with little memory, few descriptors and no processes, among forks, kills and ends of all kinds.

Most tests run a script in an interpreter of its own, because what they do to a process cannot be undone.
"""

import contextlib
import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import psutil
import pytest

import getm
from getm.engine import planner
from tests.content import assert_ramp, ramp
from tests.leftovers import everything
from tests.servers.fault import Fault

KIB = 1 << 10
MIB = 1 << 20
SIZE = 6 * MIB + 5
ROOT = Path(__file__).parent.parent
GONE = 2.0  # seconds in which all that a killed process has left is to be gone

PRELUDE = """
    import contextlib, hashlib, json, os, re, resource, signal, sys, threading, time, warnings
    warnings.filterwarnings("ignore", ".* is multi-threaded", DeprecationWarning)  # said from Python 3.12 on
    import getm
    from getm.engine import default, pool
    pool.LAUNCH_SECONDS = pool.SOON = 0.0  # as `workers_at_once`
    from getm.sources.transport import close_connections

    url, *arguments = sys.argv[1:]

    def digest(data):
        return hashlib.sha256(data).hexdigest()

    def tell(*facts):
        sys.stdout.write(json.dumps(facts) + "\\n")  # at once, as children write to the same pipe
        sys.stdout.flush()

    def hear():
        return sys.stdin.readline()

    def workers():
        core = default(1)._hub.core
        core.collect()
        return [worker.pid for worker in core.pool.workers.values() if worker.pid]

    def processes():
        return [default(1)._hub.core.pool._launcher.pid, *workers()]

    def descriptors():
        close_connections()
        names = []
        for each in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
                names.append(re.sub(r":\\[\\d+\\]$", "", os.readlink(f"/proc/self/fd/{each}")))
        return sorted(names)

    def doors(concurrency, folder=".", **options):
        options["concurrency"] = concurrency
        with getm.open(f"{url}?{concurrency},open", **options) as file:
            yield digest(file.read())
        with getm.urlopen(f"{url}?{concurrency},urlopen", **options) as stream:
            yield digest(b"".join(iter(lambda: stream.read(1 << 20), b"")))
        yield digest(b"".join(map(bytes, getm.iter_content(f"{url}?{concurrency},iter", **options))))
        path = os.path.join(folder, f"copy{os.getpid()}")
        getm.copy(f"{url}?{concurrency},copy", path, **options)
        with open(path, "rb") as copied:
            yield digest(copied.read())
        os.unlink(path)
"""


def script(*parts):
    return "\n".join(textwrap.dedent(part) for part in (PRELUDE, *parts))


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(code, *arguments, prefix=(), options=(), **more):
    """Run a script to its end; return the facts that it told, and what came by standard error."""
    done = subprocess.run(
        [*prefix, sys.executable, *options, "-c", script(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**more),
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@contextlib.contextmanager
def running(code, *arguments, **options):
    """Run a script beside the test, in a session of its own; it is killed at the end of the block, if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-c", script(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **{"env": environment(), **options},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process):
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


def await_that(condition, seconds=GONE):
    """Wait until a function returns something false; fail with the last that it returned."""
    deadline = time.monotonic() + seconds
    while found := condition():
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def is_running(number):
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_end(numbers):
    """Wait until processes, which need not be ours, have ended."""
    assert all(numbers)
    await_that(lambda: [number for number in numbers if is_running(number)])


def kill_workers(engine):
    """Kill the workers that have told their numbers; return these."""
    with engine._hub.lock:
        core = engine._hub.enter(None)
        core.collect()
        numbers = [worker.pid for worker in core.pool.workers.values() if worker.pid]
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return numbers


def may(*command):
    """Skip the test where a command, which tries out what the test is going to do, is not to be had or fails."""
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{' '.join(command)}: {getattr(error, 'stderr', b'') or error}")


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture(scope="module")
def right():
    return hashlib.sha256(ramp(0, SIZE)).hexdigest()


MOUNTS = {
    "absent": 'mount -t tmpfs none "$0" && touch "$0/null" && mount --bind /dev/null "$0/null" && mount --rbind "$0" /dev',
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "1 MiB": "mount -t tmpfs -o size=1m none /dev/shm",
}


class TestSharedMemory:
    """The memory that workers fill has nothing to do with /dev/shm."""

    @pytest.mark.parametrize("how", MOUNTS)
    def test_a_bad_dev_shm_is_no_matter(self, url, right, tmp_path, how):
        may("unshare", "-m", "sh", "-c", MOUNTS[how], str(tmp_path))
        code = """
            for concurrency in (None, 1, 4):
                tell(*doors(concurrency, arguments[0]))
            tell(len(workers()), default(4).memory, os.path.exists("/dev/shm"))
        """
        (tmp_path / "dev").mkdir()
        (tmp_path / "out").mkdir()
        prefix = ["unshare", "-m", "sh", "-c", f'{MOUNTS[how]} && exec "$@"', tmp_path / "dev"]
        (*digests, (count, memory, has_folder)), errors = run(code, url, tmp_path / "out", prefix=prefix)
        assert [[right] * 4] * 3 == digests
        assert "" == errors
        assert count >= 1
        assert memory >= 4 * MIB
        assert (how != "absent") == has_folder

    NO_MEMFD = """
        del os.memfd_create  # as on a system that has none
        import tempfile
        with getm.open(url, concurrency=4) as file:
            tell(digest(file.read()))
            status = os.stat(default(4)._hub.core.memory.arena.descriptor)
            tell(os.listdir(tempfile.gettempdir()), status.st_nlink, status.st_mode & 0o777, default(4).memory)
    """

    def test_without_memfd_it_is_a_file_without_a_name(self, url, right, tmp_path):
        ((digest,), (names, links, mode, _)), errors = run(self.NO_MEMFD, url, TMPDIR=str(tmp_path))
        assert (right, [], 0, 0o600, "") == (digest, names, links, mode, errors)

    @pytest.mark.parametrize("room", ["64k", "2m"])
    def test_where_the_system_refuses_memory_there_are_fewer_slots(self, server, right, tmp_path, room):
        mount = f'mount -t tmpfs -o size={room} none "$0"'
        may("unshare", "-m", "sh", "-c", mount, str(tmp_path))
        prefix = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', tmp_path]
        ((digest,), (_, _, _, memory)), errors = run(
            self.NO_MEMFD, server.put("/a.bin", SIZE), prefix=prefix, TMPDIR=str(tmp_path)
        )
        assert (right, "") == (digest, errors)
        assert memory <= {"64k": 0, "2m": 2 * MIB}[room]

    def test_where_the_system_refuses_memory_workers_go_on_with_what_there_is(self, server, tmp_path):
        mount = 'mount -t tmpfs -o size=4m none "$0"'
        may("unshare", "-m", "sh", "-c", mount, str(tmp_path))
        prefix = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', tmp_path]
        run(self.NO_MEMFD, server.put("/a.bin", 24 * MIB), prefix=prefix, TMPDIR=str(tmp_path))
        assert any(request.connection > 0 for request in server.log if request.start > 8 * MIB)


REFUSALS = {
    "address space": "resource.RLIMIT_AS, int(open('/proc/self/statm').read().split()[0]) * 4096 + (48 << 20)",
    "file size": "resource.RLIMIT_FSIZE, 32 << 20",
}


class TestLimits:
    """What the system refuses is an error, or the read goes on with less; it is never a signal."""

    @pytest.mark.parametrize("limit", REFUSALS)
    def test_where_all_memory_is_refused_reading_goes_on_in_the_caller(self, url, right, tmp_path, limit):
        code = f"""
            tell(*doors(None, arguments[0]))
            which, most = {REFUSALS[limit]}
            resource.setrlimit(which, (most, most))
            for concurrency in (None, 1, 4):
                tell(*doors(concurrency, arguments[0]))
        """
        digests, _ = run(code, url, tmp_path)
        assert [[right] * 4] * 4 == digests

    @pytest.mark.parametrize(
        "limit",
        [
            "address space",
            "file size",
        ],
    )
    def test_refused_memory_leaves_nothing_and_is_not_remembered(self, url, right, tmp_path, limit):
        code = f"""
            tell(*doors(None, arguments[0]))
            before = descriptors()
            which, most = {REFUSALS[limit]}
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (most, hard))
            for _ in range(3):
                with contextlib.suppress(OSError):
                    digest(getm.read(url))
            default(1).close()
            tell(before == descriptors(), descriptors())
            resource.setrlimit(which, (hard, hard))
            tell(*doors(4, arguments[0]))
            tell(len(workers()))
        """
        (first, (is_equal, found), last, (count,)), _ = run(code, url, tmp_path)
        assert [right] * 4 == first == last
        assert is_equal, found
        assert count >= 1

    @pytest.mark.parametrize("concurrency", [None, 4])
    def test_a_copy_that_grows_too_long_is_an_error_and_can_be_gone_on_with(self, url, tmp_path, concurrency):
        code = """
            concurrency, engine = json.loads(arguments[1]), getm.Engine(memory=4 << 20)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
            try:
                getm.copy(url, os.path.join(arguments[0], "file"), concurrency=concurrency, engine=engine)
            except OSError as error:
                tell(error.errno, os.path.basename(error.filename))
        """
        facts, errors = run(code, url, tmp_path, json.dumps(concurrency))
        assert ([[errno.EFBIG, "file.part"]], "") == (facts, errors)
        assert ["file.part", "file.part.json"] == sorted(os.listdir(tmp_path))

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_a_control_groups_limit_does_not_kill(self, server, control_group, concurrency):
        url = server.put("/a.bin", 96 * MIB)
        folder, limit = control_group
        code = """
            getm.engine.caller.AT_HAND = float("inf")
            with getm.open(url, concurrency=int(arguments[0])) as file:
                tell(digest(file.read_at(0, 1 << 20)))
                most = 0
                while file.readinto(bytearray(1 << 20)):
                    most = max(most, default(1).memory)
            tell(most)
        """
        prefix = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', folder]
        ((digest,), (most,)), errors = run(code, url, concurrency, prefix=prefix)
        assert (hashlib.sha256(ramp(0, MIB)).hexdigest(), "") == (digest, errors)
        assert 8 * MIB <= most <= limit // 4

    @pytest.fixture
    def control_group(self):
        """Make a control group with little memory; return its folder and its limit."""
        root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        if not root.is_dir():
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        folder, limit = root / f"getm-test-{uuid.uuid4().hex}", 128 * MIB
        try:
            folder.mkdir()
        except OSError as error:
            pytest.skip(f"no control group can be made: {error}")
        try:
            try:
                (folder / name).write_text(str(limit))
            except OSError as error:
                pytest.skip(f"a control group has no limit of its own: {error}")
            yield folder, limit
        finally:
            await_that((folder / "cgroup.procs").read_text)
            folder.rmdir()


class TestDescriptors:
    """With few descriptors there are fewer workers, or an error; none is lost."""

    def test_64_are_enough_for_20_readers_of_8_connections(self, url, right, tmp_path):
        code = """
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            tell(*doors(None, arguments[0]))
            before = descriptors()
            tell(*doors(8, arguments[0]))
            files = [getm.open(f"{url}?{number}", concurrency=8) for number in range(20)]
            whole = [bytearray() for _ in files]
            for _ in range(7):
                for file, content in zip(files, whole):
                    content += file.read(1 << 20)
            tell(*map(digest, whole))
            for file in files:
                file.close()
            default(8).close()
            tell(before == descriptors(), descriptors())
        """
        (plain, parallel, many, (is_equal, found)), errors = run(code, url, tmp_path)
        assert [right] * 28 == plain + parallel + many
        assert is_equal, found
        assert "" == errors

    def test_however_few_are_left_a_read_succeeds_or_says_why_and_none_is_lost(self, url, right):
        code = """
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            with getm.open(url, concurrency=None) as file:
                file.read()
            before = descriptors()
            for spare in range(16):
                taken = []
                with contextlib.suppress(OSError):
                    while True:
                        taken.append(os.open("/dev/null", os.O_RDONLY))
                for _ in range(spare):
                    os.close(taken.pop())
                try:
                    with getm.open(f"{url}?{spare}", concurrency=4, retries=0) as file:
                        outcome = digest(file.read())
                except OSError as error:
                    outcome = str(error)
                for descriptor in taken:
                    os.close(descriptor)
                default(4).close()
                tell(outcome, before == descriptors(), descriptors())
        """
        facts, _ = run(code, url)
        assert 16 == len(facts)
        assert [] == [(spare, found) for spare, (_, is_equal, found) in enumerate(facts) if not is_equal]
        for outcome, *_ in facts:
            assert outcome == right or "Too many open files" in outcome
        assert right == facts[-1][0]


NO_INTERPRETERS = {
    "sys.executable is empty": "sys.executable = ''",
    "sys.executable is missing": "sys.executable = '/missing/python'",
    "sys.executable is no interpreter": "sys.executable = '/bin/false'",
}


class TestWithoutProcesses:
    """Where no process can be started, everything works in the caller's, and is said once."""

    CODE = """
        import logging
        logging.basicConfig(format="%(levelname)s %(message)s")
        exec(arguments[0])
        for concurrency in (None, 1, 4):
            tell(*doors(concurrency, arguments[1], retries=3))
    """

    def check(self, url, right, tmp_path, way="", prefix=()):
        digests, errors = run(self.CODE, url, way, tmp_path, prefix=prefix)
        assert [[right] * 4] * 3 == digests
        (line,) = errors.splitlines()
        assert line.startswith("WARNING no background processes")

    @pytest.mark.parametrize(
        "way",
        [
            "sys.executable is empty",
            "sys.executable is missing",
            "sys.executable is no interpreter",
        ],
    )
    def test_for_want_of_an_interpreter(self, url, right, tmp_path, way):
        self.check(url, right, tmp_path, NO_INTERPRETERS[way])

    @pytest.mark.parametrize("most", [1, 2, 3])
    def test_for_want_of_permission(self, url, right, tmp_path, most):
        # The limit counts by real user and does not bind who may do everything; who may read all files needs no more.
        user = 100_000 + os.getpid()
        prefix = ["setpriv", f"--ruid={user}", "--bounding-set=-sys_resource,-sys_admin", "prlimit", f"--nproc={most}"]
        may(*prefix, "true")
        self.check(url, right, tmp_path, prefix=prefix)

    def test_for_want_of_standard_streams_nothing_changes(self, url, right, tmp_path):
        code = """
            import fcntl
            sys.stdout = open(fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 100), "w")
            os.closerange(0, 3)  # as some do who go to the background
            tell(*doors(4, arguments[0], retries=3))
            tell(len(workers()))
        """
        (digests, (count,)), _ = run(code, url, tmp_path)
        assert [right] * 4 == digests
        assert count >= 1


class TestMany:
    def test_an_idle_reader_takes_little(self, server):
        code = """
            import tracemalloc

            files = []

            def keep(count):
                for _ in range(count):
                    files.append(getm.open(url))
                    assert len(files[-1].read(1)) == 1

            keep(20)
            tracemalloc.start()
            keep(100)
            tell(tracemalloc.get_traced_memory()[0] / 100, workers())
        """
        ((taken, started),), _ = run(code, server.put("/a.bin", 64 * MIB))
        assert taken <= 18 * KIB
        assert not started


class TestOften:
    @pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.stress)])
    def test_opening_reading_and_closing_leaves_nothing(self, server, count):
        server.put("/a.bin", 300 * KIB)
        code = """
            import psutil

            def cycle(number):
                concurrency = (None, 1, 4)[number % 3]
                options = {"concurrency": concurrency, "block_size": 64 << 10}
                if number % 2:
                    with getm.open(f"{url}?{number}", **options) as file:
                        assert len(file.read(100 << 10)) == 100 << 10
                else:
                    with getm.urlopen(f"{url}?{number}", **options) as stream:
                        kept = [stream.read(50_000) for _ in range(3)]

            def state():
                return descriptors(), processes(), len(default(None)._hub.feeds), len(default(1)._hub.feeds)

            numbers = range(-100, int(arguments[0]))
            for number in numbers:
                cycle(number)
                if number == 0:
                    before, size = state(), psutil.Process().memory_info().rss
            tell(before == state(), [before, state()], psutil.Process().memory_info().rss - size)
        """
        ((is_equal, states, growth),), _ = run(code, server.url + "/a.bin", count)
        assert is_equal, states
        assert growth <= 2 * MIB

    @pytest.mark.parametrize("concurrency", [None, 4])
    def test_a_hundred_readers_and_a_hoarder_share_little_memory(self, server, new_engine, concurrency):
        size = 5 * 64 * KIB
        url = server.put("/a.bin", size)
        big = server.put("/big.bin", 8 * MIB)
        engine = new_engine(memory=2 * MIB, block_size=64 * KIB)
        options = {"engine": engine, "concurrency": concurrency, "block_size": 64 * KIB}
        with contextlib.ExitStack() as stack:
            hoarder = stack.enter_context(getm.urlopen(big, **options))
            files = [stack.enter_context(getm.open(f"{url}?{number}", **options)) for number in range(100)]
            views = [hoarder.read(64 * KIB) for _ in range(40)]
            for start in range(0, size, 64 * KIB):
                for file in files:
                    assert_ramp(file.read(64 * KIB), start)
                views.append(hoarder.read(64 * KIB))
                assert engine.memory <= 2 * MIB
            for number, view in enumerate(views):
                assert_ramp(view, number * 64 * KIB)
            assert 0 < hoarder.stats.private < len(views) * 64 * KIB


WORK = {
    "read": "getm.open(url, concurrency=4).read()",
    "copy": "getm.copy(url, os.path.join(arguments[0], 'file'), concurrency=4)",
}


KILLS = {
    "SIGKILL": lambda process, _: os.kill(process.pid, signal.SIGKILL),
    "SIGTERM": lambda process, _: process.terminate(),
    "SIGKILL to the group": lambda process, _: os.killpg(process.pid, signal.SIGKILL),
    "SIGKILL to the launcher, too": lambda process, ours: [os.kill(pid, signal.SIGKILL) for pid in (ours[0], process.pid)],
}


class TestKilled:
    """Whoever is killed in the middle of it, nothing is left of us but `FILE.part`, and its record once it has one."""

    @pytest.mark.parametrize(
        ("work", "way"), [*(("read", way) for way in KILLS), ("copy", "SIGTERM"), ("copy", "SIGKILL to the group")]
    )
    def test_in_the_middle(self, server, tmp_path, way, work):
        url = server.put("/a.bin", 64 * MIB)
        server.fail(Fault(stall=300_000), when=lambda request: request.start >= 4 * MIB, times=None)
        mark, temporary, out = uuid.uuid4().hex, tmp_path / "temporary", tmp_path / "out"
        temporary.mkdir()
        out.mkdir()
        before = everything()

        def ours():
            found = []
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if process.environ().get("GETM_KILLED") == mark and process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
            return found

        env = environment(GETM_KILLED=mark, TMPDIR=str(temporary))
        with running(WORK[work], url, out, env=env) as process:
            server.wait_for(lambda log: any(request.sent == 300_000 for request in log))
            found = ours()
            assert len(found) >= 3
            launcher = next(each.pid for each in found if each.ppid() == process.pid)
            KILLS[way](process, [launcher])
            process.wait(GONE)
            await_that(ours)
        assert not [name for name in everything() - before if name.startswith("/")]
        assert [] == os.listdir(temporary)
        assert (["file.part"] if work == "copy" else []) == [name for name in os.listdir(out) if name != "file.part.json"]
        server.wait_for(lambda log: all(request.finished for request in log))

    @pytest.mark.usefixtures("workers_at_once")
    def test_eight_workers_at_once_cost_time_and_no_read(self, server, new_engine, monkeypatch):
        monkeypatch.setattr(planner, "CROWD", 8)
        url = server.put("/a.bin", 64 * MIB)
        server.fail(Fault(stall=300_000), when=lambda request: request.start >= 4 * MIB, times=None)
        engine, contents = new_engine(), []

        def workers():
            with engine._hub.lock:
                engine._hub.core.collect()
                return [run.worker for run in sorted(engine._hub.core.runs.under_way.values(), key=lambda run: run.position)]

        with getm.open(url, engine=engine, concurrency=8) as file:

            def read():
                with contextlib.suppress(getm.WorkerError):
                    contents.append(file.read())

            thread = threading.Thread(target=read)
            thread.start()
            before = len(server.wait_for(lambda log: sum(request.sent == 300_000 for request in log) >= 7))
            await_that(lambda: [worker for worker in workers() if worker.pid is None])  # the eighth has said who it is
            server.heal()
            first, *others = [worker.pid for worker in workers()]
            for number in others:
                os.kill(number, signal.SIGKILL)
            server.wait_for(lambda log: len(log) > before)  # the deaths are known
            os.kill(first, signal.SIGKILL)  # it has what the caller waits for
            thread.join()
        (content,) = contents
        assert_ramp(content, 0)


LEFT_OPEN = {
    "a reader": "file = getm.open(url, concurrency=concurrency); file.read(3 << 20)",
    "a reader in a cycle": "file = getm.open(url, concurrency=concurrency); file.read(9); file.self = file; del file",
    "views": """
stream = getm.urlopen(url, concurrency=concurrency)
views = [stream.read(1 << 20) for _ in range(3)]
arrays = [memoryview(view)[5:] for view in views]
""",
    "an iterator": """
parts = getm.iter_content(url, concurrency=concurrency)
part = [next(parts), next(parts)]
""",
    "a read in a daemon thread": """
file = getm.open(url, concurrency=concurrency)
file.read(1 << 20)
threading.Thread(target=file.read, daemon=True).start()
tell()
hear()
""",
    "a copy in a daemon thread": """
threading.Thread(target=getm.copy, args=(url, arguments[1]), kwargs={"concurrency": concurrency}, daemon=True).start()
tell()
hear()
""",
}


class TestExit:
    """The interpreter ends at once and in silence, whatever is open."""

    @pytest.mark.parametrize(
        ("what", "concurrency"),
        [*((each, 4) for each in LEFT_OPEN), *((each, None) for each in LEFT_OPEN if "thread" in each)],
    )
    def test_with_something_open(self, server, tmp_path, what, concurrency):
        url = server.put("/a.bin", 32 * MIB)
        code = script("concurrency = json.loads(arguments[0])", LEFT_OPEN[what])
        with subprocess.Popen(
            [sys.executable, "-c", code, url, json.dumps(concurrency), str(tmp_path / "file")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            try:
                if "thread" in what:
                    server.fail(Fault(stall=300_000), when=lambda request: request.covers(4 * MIB), times=None)
                    told(process)
                    server.wait_for(lambda log: any(request.sent == 300_000 for request in log))
                _, errors = process.communicate("\n", timeout=10)
            finally:
                process.kill()
        assert (0, "") == (process.returncode, errors)

    def test_a_reader_dropped_open_warns_as_a_file_does(self, url):
        code = "file = getm.open(url, concurrency=1)\nfile.read(3 << 20)\ndel file"
        _, errors = run(code, url, options=["-X", "dev"])
        assert "ResourceWarning: unclosed <getm.Reader" in errors
        assert 1 == errors.count("unclosed")
        assert ([], "") == run(code, url)

    def test_a_reader_dropped_open_is_closed_also_where_warnings_are_errors(self, url):
        code = """
            def drop():
                for door in (getm.open, getm.urlopen):
                    door(url, concurrency=1).read(3 << 20)

            drop()
            tell(len(default(1)._hub.feeds))
        """
        facts, errors = run(code, url, options=["-W", "error::ResourceWarning"])
        assert "ResourceWarning: unclosed <getm.Reader" in errors
        assert [[0]] == facts


class TestFork:
    """A child has the readers of its parent, and reads by workers of its own."""

    @pytest.mark.parametrize(
        ("who", "concurrency", "offset"),
        [
            ("main", None, 5 * MIB),
            ("thread", 4, 0),
            ("main", 1, 5 * MIB),
            ("thread", 4, 5 * MIB),
        ],
    )
    def test_in_the_middle_of_another_threads_read(self, server, right, who, concurrency, offset):
        url = server.put("/a.bin", SIZE)
        release = threading.Event()
        server.fail(Fault(stall=300_000, release=release), when=lambda request: not request.query and request.covers(offset))
        code = """
            file = getm.open(url, concurrency=json.loads(arguments[0]))
            other = getm.open(url + "?other", concurrency=json.loads(arguments[0]))
            other.read(3 << 20)
            results = []
            reading = threading.Thread(target=lambda: results.append(digest(file.read())))
            reading.start()
            hear()
            blocked = 0
            while blocked < 20:  # in a call that waits for bytes, or for news of workers
                frame = sys._current_frames().get(reading.ident)
                blocked = blocked + 1 if frame and frame.f_code.co_name in {"receive", "wait"} else 0
                time.sleep(0.005)
            before = set(processes()) if arguments[0] != "null" else set()

            def fork():
                if (child := os.fork()) == 0:
                    same = digest(file.read_at(0, file.size))
                    other.seek(0)
                    tell("child", same, digest(other.read()))
                    assert not before or not before & set(processes())
                    file.close()
                    other.close()
                    os._exit(0)
                deadline = time.monotonic() + 5
                while not (ended := os.waitpid(child, os.WNOHANG))[0]:
                    time.sleep(0.01)
                    if time.monotonic() > deadline:  # it hangs
                        os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(ended[1])
                tell("status", status, not before or before <= set(processes()))

            if arguments[1] == "main":
                fork()
            else:
                thread = threading.Thread(target=fork)
                thread.start()
                thread.join()
            hear()
            reading.join()
            tell("parent", *results)
            file.close()
            other.close()
        """
        with running(code, url, json.dumps(concurrency), who) as process:
            server.wait_for(lambda log: any(request.sent == 300_000 for request in log))
            print(file=process.stdin, flush=True)
            facts = [told(process)]
            if facts[0][0] == "child":
                facts.append(told(process))
            release.set()
            print(file=process.stdin, flush=True)
            facts.append(told(process))
            _, errors = process.communicate(timeout=10)
        assert [["child", right, right], ["status", 0, True], ["parent", right]] == facts
        assert (0, "") == (process.returncode, errors)

    @pytest.mark.parametrize("way", ["fork", "spawn", "Pool forkserver", "Executor fork"])
    def test_by_the_standard_library(self, url, right, tmp_path, way):
        code = """
            import concurrent.futures, multiprocessing

            def read(url, queue=None):
                with getm.open(url, concurrency=4) as mine:
                    result = digest(mine.read()), digest(file.read_at(0, file.size)) if file else None, processes()
                if queue is None:
                    return result
                queue.put(result)

            file = None
            if __name__ == "__main__":
                file = getm.open(url, concurrency=4)
                file.read(3 << 20)
                before = processes()
                *kind, method = arguments[0].split()
                context = multiprocessing.get_context(method)
                if kind == ["Pool"]:
                    with context.Pool(2) as pool:
                        results = pool.map(read, [url] * 3, chunksize=1)
                elif kind == ["Executor"]:
                    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
                        results = list(pool.map(read, [url] * 3))
                else:
                    queue = context.SimpleQueue()
                    children = [context.Process(target=read, args=(url, queue)) for _ in range(2)]
                    for child in children:
                        child.start()
                    results = [queue.get() for _ in children]
                    for child in children:
                        child.join()
                tell(*results)
                tell(set(before) <= set(processes()), digest(file.read_at(0, file.size)))
                file.close()
        """
        path = tmp_path / "script.py"
        path.write_text(script(code))
        done = subprocess.run(
            [sys.executable, path, url, way], capture_output=True, text=True, timeout=60, check=False, env=environment()
        )
        assert (0, "") == (done.returncode, done.stderr)
        results, parent = map(json.loads, done.stdout.splitlines())
        for mine, inherited, pids in results:
            assert right == mine
            assert (right if "spawn" != way and "forkserver" not in way else None) == inherited
            await_end(pids)
        assert [True, right] == parent

    def test_children_that_load_data_read_their_parts_of_an_inherited_reader(self, server, tmp_path):
        url = server.put("/a.bin", 16 * MIB)
        (tmp_path / "right").write_bytes(ramp(0, 16 * MIB))
        code = """
            content = open(arguments[0], "rb").read()
            file = getm.open(url, concurrency=2)

            def load(number, epoch):
                for step in range(6):
                    start = ((number * 7 + epoch * 5 + step * 3) << 19) % (15 << 20)
                    assert file.read_at(start, 1_100_000) == content[start : start + 1_100_000]  # more than who asks fetches
                    file.seek(start)
                    assert file.read(70_000) == content[start : start + 70_000]
                tell("child", processes())

            assert file.read(3 << 20) == content[: 3 << 20]
            before = processes()
            for epoch in range(3):
                children = []
                for number in range(4):
                    if (child := os.fork()) == 0:
                        try:
                            load(number, epoch)
                            status = 0
                        finally:
                            os._exit(status)
                    children.append(child)
                start = (epoch * 4 + 3) << 20
                assert file.read_at(start, 2 << 20) == content[start : start + (2 << 20)]
                assert [0] * 4 == [os.waitpid(child, 0)[1] for child in children]
            tell("parent", before, processes())
            file.close()
        """
        (*children, (_, before, after)), errors = run(code, url, tmp_path / "right")
        assert "" == errors
        assert 12 == len(children)
        assert set(before) <= set(after)
        for _, pids in children:
            assert pids
            assert not set(pids) & set(after)
            await_end(pids)

    def test_an_engine_made_at_the_moment_of_a_fork_is_no_matter(self, url, right):
        code = """
            signal.alarm(5)
            engines = []
            os.register_at_fork(before=lambda: engines.append(getm.Engine()))  # stands for another thread
            with getm.open(url, concurrency=4) as file:
                file.read(3 << 20)
                if (child := os.fork()) == 0:
                    tell(digest(file.read_at(0, file.size)))
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                tell(digest(file.read_at(0, file.size)))
            tell(digest(getm.open(url, engine=engines[0]).read()))
        """
        facts, errors = run(code, url)
        assert [[right]] * 3 == facts
        assert "" == errors


class TestViews:
    """A view stays right for as long as it is held."""

    COUNT = 8  # views held, half of the slots

    @pytest.fixture
    def held(self, server, new_engine):
        """Open a stream on little memory and hold views of it."""
        url = server.put("/a.bin", 24 * MIB)
        engine = new_engine(memory=2 * self.COUNT * 128 * KIB, block_size=128 * KIB)
        stream = getm.urlopen(url, engine=engine, concurrency=4, block_size=128 * KIB)
        views = [stream.read(128 * KIB) for _ in range(self.COUNT)]
        assert stream.stats.private < self.COUNT * 128 * KIB  # most are of shared memory
        yield engine, stream, views
        stream.close()
        for view in views:
            view.release()

    def check(self, views):
        for number, view in enumerate(views):
            assert_ramp(view, number * 128 * KIB)

    def read_on(self, stream, length=8 * MIB):
        start = stream.tell()
        for position in range(start, start + length, 128 * KIB):
            with stream.read(128 * KIB) as part:
                assert_ramp(part, position)

    def test_over_further_reads(self, held):
        _, stream, views = held
        self.read_on(stream)
        self.check(views)
        for view in views:
            view.release()
        private = stream.stats.private
        self.read_on(stream)
        assert stream.stats.private - private < 4 * MIB  # released, the memory is used again

    def test_over_closing(self, held):
        engine, stream, views = held
        slices = [view[5:] for view in views]
        for view in views:
            view.release()
        stream.close()
        with getm.urlopen(stream.url, engine=engine, concurrency=4, block_size=128 * KIB) as other:
            self.read_on(other)
        for number, part in enumerate(slices):
            assert_ramp(part, number * 128 * KIB + 5)

    def test_over_the_death_of_all_workers(self, held):
        engine, stream, views = held
        kill_workers(engine)
        self.read_on(stream, 4 * MIB)
        self.check(views)

    def test_over_the_end_of_the_engine(self, held):
        engine, stream, views = held
        engine.close()
        self.check(views)
        self.read_on(stream)
        engine.close()
        self.check(views)

    def test_over_a_fork_in_parent_and_child(self, held):
        _, stream, views = held
        go, gone = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(gone)
                self.check(views)
                os.read(go, 1)
                self.check(views)
                self.read_on(stream)
                self.check(views)
                status = 0
            finally:
                os._exit(status)
        os.close(go)
        self.read_on(stream, 4 * MIB)
        self.check(views)
        for view in views:
            view.release()  # the child still has them
        self.read_on(stream)
        os.close(gone)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def test_what_forks_have_cost_is_no_end_of_reading(self, held):
        engine, stream, views = held
        for _ in range(4):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            for view in views:
                view.release()
            start = stream.tell()
            views = [stream.read(128 * KIB) for _ in range(self.COUNT)]
            for number, view in enumerate(views):
                assert_ramp(view, start + number * 128 * KIB)
        assert engine.memory <= 2 * self.COUNT * 128 * KIB


class TestSecrets:
    """What may not be known stays in the processes and goes to nobody else."""

    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("work", ["read", "copy"])
    def test_are_in_no_command_line_and_no_environment_while_reading(self, server, tmp_path, work):
        server.put("/a.bin", 32 * MIB)
        release = threading.Event()
        server.fail(Fault(stall=300_000, release=release), when=lambda request: request.start >= 3 * MIB, times=None)
        url = server.url + "/a.bin?X-Amz-Algorithm=A&X-Amz-Signature=SECRET"
        options = {"headers": {"X-Key": "SECRET"}, "auth": ("user", "SECRET"), "concurrency": 4}

        def read():
            if work == "copy":
                getm.copy(url, tmp_path / "file", **options)
            else:
                with getm.open(url, **options) as file:
                    file.read()

        thread = threading.Thread(target=read)
        thread.start()
        try:
            server.wait_for(lambda log: any(request.sent == 300_000 for request in log))
            children = [each for each in psutil.Process().children(recursive=True) if each.name() != "nginx"]
            assert len(children) >= 2
            for child in children:
                for name in ("cmdline", "environ"):
                    assert b"SECRET" not in Path(f"/proc/{child.pid}/{name}").read_bytes()
        finally:
            release.set()
            thread.join()
        assert {"X-Amz-Algorithm=A&X-Amz-Signature=SECRET"} == {request.query for request in server.log}
        assert {("SECRET", True)} == {(each.headers["X-Key"], "Authorization" in each.headers) for each in server.log}

    OPEN = """
        import stat
        file = getm.open(url, concurrency=4)
        file.read(3 << 20)
        stream = getm.urlopen(url + "?2", concurrency=4)
        views = [stream.read(1 << 20) for _ in range(3)]
        local = getm.open(url + "?3", concurrency=None)
        while not all(workers()):
            time.sleep(0.01)
    """

    def test_no_descriptor_goes_to_a_process_that_the_caller_starts(self, url):
        code = """
            import subprocess
            tell(len([each for each in descriptors() if "memfd" in each or "socket" in each]))
            tell(subprocess.check_output(["ls", "-l", "/proc/self/fd"], text=True, close_fds=False))
        """
        ((count,), (found,)), _ = run(textwrap.dedent(self.OPEN) + textwrap.dedent(code), url)
        assert count >= 3
        assert "pipe" in found
        assert [] == [word for word in ("memfd", "socket", "pidfd", "eventpoll") if word in found]

    def test_what_has_a_mode_is_the_users_alone(self, url):
        code = """
            modes = {}
            for process in (os.getpid(), *processes()):
                for name in os.listdir(f"/proc/{process}/fd"):
                    with contextlib.suppress(OSError):
                        path = f"/proc/{process}/fd/{name}"
                        if "getm" in os.readlink(path):
                            modes[os.readlink(path)] = stat.S_IMODE(os.stat(path).st_mode)
            tell(modes)
        """
        ((modes,),), _ = run(textwrap.dedent(self.OPEN) + textwrap.dedent(code), url)
        assert {"/memfd:getm (deleted)": stat.S_IRUSR | stat.S_IWUSR} == modes
