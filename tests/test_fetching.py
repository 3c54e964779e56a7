"""What is asked of the server, when, and over how many connections: all of it read in the server's own log."""

import functools
import itertools
import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psutil
import pytest

import getm
from getm.engine import caller, default, planner, pool, runs
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault
from tests.threads import in_thread

KIB = 2**10
BLOCK = MIB = 2**20
LARGE = 2**40  # bytes of an object that nobody reads to its end
CONCURRENCIES = [None, 1, 8]

EVERY = pytest.mark.parametrize("concurrency", CONCURRENCIES, ids="concurrency-{}".format)


def open_and_read(url, concurrency):
    with getm.open(url, concurrency=concurrency) as file:
        return file.read()


def open_text(url, concurrency):
    with getm.open(url, "r", encoding="latin-1", newline="", concurrency=concurrency) as file:
        return file.read().encode("latin-1")


def open_buffered(url, concurrency):
    with getm.open(url, buffering=-1, concurrency=concurrency) as file:
        return file.read()


def stream(url, concurrency):
    with getm.urlopen(url, concurrency=concurrency) as file:
        return bytes(file.read())


def stream_parts(url, concurrency):
    return b"".join(map(bytes, getm.iter_content(url, 100_000, concurrency=concurrency)))


def read_range(url, concurrency):
    return getm.read(url, concurrency=concurrency)


DOORS = {door.__name__: door for door in (open_and_read, open_text, open_buffered, stream, stream_parts, read_range)}
EVERY_DOOR = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


def ranges(log):
    return [(request.start, request.stop) for request in log]


def at_once(log):
    """Return the most requests that were under way at one time; but for those the client had left, unknown since when."""
    events = sorted(
        itertools.chain.from_iterable(
            ((request.arrived, 1), (request.finished, -1)) for request in log if request.finished and not request.gone
        )
    )
    return max(itertools.accumulate(change for _, change in events))


def take_first_block(file):
    """Read the first request's answer to its end, and begin no sequence by that."""
    assert ramp(BLOCK - 1, BLOCK) == file.read_at(BLOCK - 1, 1)


def children():
    return [process for process in psutil.Process().children(recursive=True) if process.name() != "nginx"]


def await_workers(url, concurrency):
    """Have as many workers up as a reader may have, with connections to the server."""
    with getm.open(url, concurrency=concurrency, block_size=64 * KIB) as file:
        file.read(64 * KIB)
        if concurrency:
            engine = default(concurrency)
            deadline = time.monotonic() + 10
            while True:
                with engine._hub.lock:
                    core = engine._hub.enter(None)
                    core.collect()
                    workers = list(core.pool.workers.values())
                    while len(workers) < concurrency:
                        workers.append(core.pool.start())
                if all(worker.pid for worker in workers):
                    return
                assert time.monotonic() < deadline
                time.sleep(0.005)


class TestFirstByte:
    @EVERY
    def test_costs_one_request(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, 1) == file.read(1)
            assert [(0, BLOCK)] == ranges(server.log)
        with getm.urlopen(url, concurrency=concurrency) as file:
            assert ramp(0, 1) == file.read(1)
            assert [(0, BLOCK)] * 2 == ranges(server.log)
        assert all("GET" == request.method for request in server.log)

    @EVERY
    def test_does_not_wait_for_the_rest_of_its_block(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        server.fail(Fault(stall=100_000), times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, 1) == file.read(1)
        with getm.urlopen(url, concurrency=concurrency) as file:
            assert ramp(0, 1) == file.read(1)

    def test_of_a_range_costs_one_request(self, server):
        url = server.put("/a.bin", LARGE)
        assert ramp(10**9, 10**9 + 1000) == getm.read(url, 10**9, 10**9 + 1000)
        assert [(10**9, 10**9 + 1000)] == ranges(server.log)

    @pytest.mark.parametrize("bounds", [(0, BLOCK), (0, None), (0, BLOCK + 9), (100, None)])
    def test_of_a_small_object_costs_one_request_and_its_connection_stays(self, server, bounds):
        url = server.put("/a.bin", 100_000)
        for _ in range(3):
            assert ramp(bounds[0], 100_000) == getm.read(url, *bounds)
        assert [(bounds[0], bounds[0] + BLOCK)] * 3 == ranges(server.log)
        assert 1 == len({request.connection for request in server.log})

    @pytest.mark.parametrize("cut", [0, 1, 5000])
    def test_of_a_small_object_is_gone_on_with(self, server, cut):
        url = server.put("/a.bin", 10_000)
        server.fail(Fault(cut=cut), times=2)
        assert ramp(0, 10_000) == getm.read(url)

    @EVERY
    def test_of_a_long_range_begins_where_it_does(self, server, concurrency):
        url = server.put("/a.bin", 5 * BLOCK)
        assert ramp(BLOCK, 4 * BLOCK) == getm.read(url, BLOCK, 4 * BLOCK, concurrency=concurrency)
        assert BLOCK == min(request.start for request in server.log)
        assert 4 * BLOCK >= max(request.stop for request in server.log)

    def test_information_costs_one_request_of_one_byte(self, server):
        url = server.put("/a.bin", LARGE)
        assert (LARGE, "a.bin", '"version-0"') == (getm.info(url).size, getm.info(url).name, getm.info(url).etag)
        assert [(0, 1)] * 3 == ranges(server.log)
        assert [] == children()


class TestBeforeWorkersAreUp:
    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_the_caller_fetches_a_short_rest_by_itself(self, server, monkeypatch, concurrency):
        monkeypatch.setattr(pool, "LAUNCH_SECONDS", 10.0)
        size = 5 * BLOCK + 3
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=concurrency) as file:
            assert_ramp(file.read(BLOCK), 0)
            assert_ramp(file.read(), BLOCK)
            assert [] == children()
            file.seek(0)
            assert_ramp(file.read(), 0)
        assert [(0, BLOCK), (BLOCK, size)] == ranges(server.log)

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_the_caller_reads_on(self, server, monkeypatch, concurrency):
        monkeypatch.setattr(pool, "_LAUNCHER", "import time; time.sleep(60)")
        monkeypatch.setattr(planner, "NEAR", 10.0)
        monkeypatch.setattr(caller, "AT_HAND", math.inf)
        size = 1024 * MIB
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=concurrency) as file:
            for start in range(0, 32 * MIB, 256 * KIB):
                assert ramp(start, start + 256 * KIB) == file.read(256 * KIB)
            core = file._engine._hub.core
            assert {None} == {worker.pid for worker in core.pool.workers.values()}
            log = server.log
        assert max(at_once(log), 1) == 1
        assert 32 * MIB <= max(request.stop for request in log)

    def test_a_distant_server_waits_for_them(self, server, monkeypatch):
        monkeypatch.setattr(planner, "NEAR", 0.0)
        for name in ("LAUNCH_SECONDS", "SOON"):  # in which the rest would not come by one connection
            monkeypatch.setattr(pool, name, 0.001)
        size = 48 * MIB
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=1) as file:
            assert_ramp(file.read(2 * MIB), 0)
        assert [(0, BLOCK), (BLOCK, size)] == ranges(server.log)

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_a_caller_whose_workers_do_not_come_up_reads_on_by_himself(self, server, monkeypatch, concurrency):
        monkeypatch.setattr(pool, "_LAUNCHER", "import time; time.sleep(100)")
        monkeypatch.setattr(planner, "NEAR", 0.0)
        monkeypatch.setattr(runs, "STUCK_SECONDS", 0.1)
        url = server.put("/a.bin", 1024 * MIB)
        with getm.open(url, concurrency=concurrency) as file:
            for start in range(0, 16 * MIB, MIB):
                assert_ramp(file.read(MIB), start)
            file.seek(512 * MIB)
            assert_ramp(file.read(20 * MIB), 512 * MIB)

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_a_stream_whose_workers_do_not_come_up_goes_on_by_itself(self, server, monkeypatch, concurrency):
        monkeypatch.setattr(pool, "_LAUNCHER", "import time; time.sleep(100)")
        monkeypatch.setattr(planner, "NEAR", 0.0)
        monkeypatch.setattr(runs, "STUCK_SECONDS", 0.1)
        size = 16 * MIB
        url = server.put("/a.bin", size)
        parts = [bytes(part) for part in getm.iter_content(url, concurrency=concurrency)]
        assert_ramp(b"".join(parts), 0)
        assert size == sum(map(len, parts)) == sum(request.sent for request in server.log)

    def test_they_begin_where_he_will_be(self, server, monkeypatch):
        monkeypatch.setattr(planner, "NEAR", 10.0)
        size = 48 * MIB
        url = server.put("/a.bin", size)
        server.fail(Fault(delay=0.01, pace=50e6), times=None)
        with getm.open(url, concurrency=4) as file:
            assert_ramp(file.read(), 0)
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert size == sum(min(request.stop, size) - request.start for request in log)
        assert 2 <= at_once(log) <= 4


class TestAtHand:
    """A server that is quicker than what workers save is read by whoever reads, as long as he does nothing else."""

    SIZE = 48 * MIB

    @pytest.fixture(autouse=True)
    def at_hand(self, monkeypatch):
        monkeypatch.setattr(planner, "NEAR", 10.0)
        monkeypatch.setattr(caller, "AT_HAND", 1.0)
        monkeypatch.setattr(planner, "QUICK", 1.0)
        monkeypatch.setattr(planner, "CROWD", 2)

    @pytest.fixture
    def engine(self):
        with closing(getm.Engine(16 * MIB)) as engine:
            yield engine

    @pytest.fixture
    def idle(self, monkeypatch):
        """Have no reader count as busy, whatever keeps this process from reading on."""
        monkeypatch.setattr(caller, "BUSY", 1.0)

    @pytest.mark.usefixtures("idle")
    @pytest.mark.parametrize("concurrency", [1, 8])
    @pytest.mark.parametrize("length", [10_000, 100_000, 300_000, 5 * MIB])
    def test_takes_two_requests_and_no_process(self, server, engine, concurrency, length):
        url = server.put("/a.bin", self.SIZE)
        with getm.open(url, concurrency=concurrency, engine=engine) as file:
            assert_ramp(b"".join(iter(functools.partial(file.read, length), b"")), 0)
            assert [] == children()
        with getm.urlopen(url, concurrency=concurrency, engine=engine) as stream:
            assert_ramp(stream.read(), 0)
        parts = getm.iter_content(url, length, concurrency=concurrency, engine=engine)
        assert_ramp(b"".join(map(bytes, parts)), 0)
        assert [] == children()
        assert [(0, BLOCK), (BLOCK, self.SIZE)] * 3 == ranges(server.log)
        assert engine.memory <= 4 * MIB

    def test_is_left_to_workers_once_its_reader_computes(self, server, engine):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=4, engine=engine) as file:
            assert_ramp(file.read(4 * MIB), 0)
            assert [] == children()
            for start in range(4 * MIB, self.SIZE, MIB):
                time.sleep(0.02)
                assert ramp(start, start + MIB) == file.read(MIB)
            log = server.log
            assert {None} != {worker.pid for worker in engine._hub.core.pool.workers.values()}
        assert log[1].gone  # the one that would have gone on to the end
        assert log[2].start < 32 * MIB

    def test_is_left_to_workers_once_the_server_is_slow(self, server, engine, monkeypatch):
        monkeypatch.setattr(caller, "AT_HAND", 100e6)
        url = server.put("/a.bin", self.SIZE)
        server.fail(Fault(pace=20e6), when=lambda request: request.start >= BLOCK, times=None)
        with getm.open(url, concurrency=4, engine=engine) as file:
            assert_ramp(file.read(), 0)
        assert 4 <= len(server.log)
        assert 2 <= at_once(server.log)

    def test_is_left_to_workers_once_several_threads_read(self, server, engine):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=4, engine=engine) as file, ThreadPoolExecutor(4) as threads:
            assert_ramp(file.read(4 * MIB), 0)
            parts = list(threads.map(file.read, [MIB] * 28))
            assert ramp(32 * MIB, 33 * MIB) == file.read(MIB)
            assert {ramp(start, start + MIB) for start in range(4 * MIB, 32 * MIB, MIB)} == set(parts)
            assert [] != children()

    def test_is_left_to_workers_where_more_than_two_help(self, server, engine, monkeypatch):
        monkeypatch.setattr(planner, "CROWD", 8)
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=8, engine=engine) as file:
            assert_ramp(file.read(8 * MIB), 0)
            assert [] != children()

    def test_what_was_announced_is_fetched_by_workers(self, server, engine):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=4, engine=engine) as file:
            assert_ramp(file.read(4 * MIB), 0)
            file.prefetch([(2**30, 2**30 + MIB)])
            for start in range(4 * MIB, 1024 * MIB, MIB):
                if any(request.start == 2**30 for request in server.log):
                    break
                assert ramp(start, start + MIB) == file.read(MIB)
            assert ramp(2**30, 2**30 + MIB) == file.read_at(2**30, MIB)

    @pytest.mark.usefixtures("idle")
    def test_is_gone_on_with_after_a_failure(self, server, engine):
        url = server.put("/a.bin", self.SIZE)
        server.fail(Fault(cut=9 * MIB + 1), when=lambda request: request.start == BLOCK)
        server.fail(Fault(status=503), when=lambda request: request.start > BLOCK, times=2)
        with getm.open(url, concurrency=8, engine=engine) as file:
            assert_ramp(file.read(), 0)
            assert [] == children()

    @pytest.mark.parametrize("concurrency", [None, 1, 8])
    def test_is_left_by_a_jump(self, server, engine, concurrency):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=concurrency, engine=engine) as file:
            assert_ramp(file.read(8 * MIB), 0)
            for place in range(2**30, 2**33, 2**30):
                assert ramp(place, place + 1000) == file.read_at(place, 1000)
            log = server.wait_for(lambda log: log[1].finished)
        assert log[1].gone
        assert sum(request.sent for request in log) < 32 * MIB


class TestSmallObjects:
    @EVERY
    @EVERY_DOOR
    def test_start_no_process_and_cost_one_request(self, server, door, concurrency):
        for size in (0, 1, BLOCK - 1, BLOCK):
            before = len(server.log)
            assert ramp(0, size) == door(server.put(f"/{size}", size), concurrency)
            assert [(0, BLOCK)] == ranges(server.log[before:])
            assert [] == children()

    @EVERY
    def test_are_copied_by_one_request_without_a_process(self, server, tmp_path, concurrency):
        for size in (0, 1, BLOCK - 1, BLOCK):
            before = len(server.log)
            assert size == getm.copy(server.put(f"/{size}", size), tmp_path / "a.bin", concurrency=concurrency).size
            assert ramp(0, size) == (tmp_path / "a.bin").read_bytes()
            assert [(0, BLOCK)] == ranges(server.log[before:])
            assert [] == children()

    @EVERY
    def test_are_read_at_any_place_by_one_request(self, server, concurrency):
        with getm.open(server.put("/a.bin", BLOCK), concurrency=concurrency) as file:
            for offset in (BLOCK - 10, 500_000, 0, 300_000, BLOCK - 1000):
                assert ramp(offset, min(BLOCK, offset + 1000)) == file.read_at(offset, 1000)
        assert [(0, BLOCK)] == ranges(server.log)
        assert [] == children()

    @pytest.mark.usefixtures("workers_at_once")
    def test_larger_ones_do(self, server):
        url = server.put("/a.bin", BLOCK + 1)
        assert ramp(0, BLOCK + 1) == stream(url, 1)
        assert [] != children()


class TestSequence:
    @EVERY
    @EVERY_DOOR
    def test_every_byte_is_fetched_once(self, server, door, concurrency):
        for size in (BLOCK + 1, 5 * BLOCK + 3):
            before = len(server.log)
            content = door(server.put(f"/{size}", size), concurrency)
            assert size == len(content)
            assert_ramp(content, 0)
            assert size == sum(min(request.stop, size) - request.start for request in server.log[before:])

    @pytest.mark.usefixtures("workers_at_once")
    def test_runs_grow_longer_and_never_more_than_may_be_are_under_way(self, server):
        size = 48 * MIB
        url = server.put("/a.bin", size)
        # So long that the reader has to wait, on a slow machine, too: otherwise they need not grow.
        server.fail(Fault(delay=0.3), times=None)
        with getm.open(url, concurrency=4) as file:
            for start in range(0, size, 128 * KIB):
                assert ramp(start, start + 128 * KIB) == file.read(128 * KIB)
        log = server.wait_for(lambda log: all(request.finished for request in log))
        lengths = [min(request.stop, size) - request.start for request in log]
        assert size == sum(lengths)
        assert max(lengths[1:4]) < max(lengths)
        assert max(lengths) >= 4 * MIB
        assert 2 <= at_once(log) <= 4

    @pytest.mark.parametrize("concurrency", [1, 2, 5])
    def test_no_more_requests_than_may_be_are_under_way(self, server, concurrency):
        size = 20 * MIB
        url = server.put("/a.bin", size)
        assert_ramp(stream(url, concurrency), 0)
        assert_ramp(open_and_read(url, concurrency), 0)
        assert at_once(server.wait_for(lambda log: all(request.finished for request in log))) <= concurrency

    @pytest.mark.usefixtures("workers_at_once")
    def test_one_connection_keeps_one_request_to_the_end(self, server):
        size = 40 * MIB
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=1) as file:
            for start in range(0, size, 256 * KIB):
                assert ramp(start, start + 256 * KIB) == file.read(256 * KIB)
        assert [(0, BLOCK), (BLOCK, size)] == ranges(server.log)
        list(getm.iter_content(server.put("/b.bin", size), 100_000))
        assert [(0, BLOCK), (BLOCK, size)] * 2 == ranges(server.log)

    @pytest.mark.usefixtures("workers_at_once")
    def test_one_connection_keeps_one_request_though_memory_is_small(self, server, new_engine):
        size = 32 * BLOCK
        url = server.put("/a.bin", size)
        for part in getm.iter_content(url, engine=new_engine(memory=4 * BLOCK)):
            assert len(part)
        assert [(0, BLOCK), (BLOCK, size)] == ranges(server.log)

    def test_the_calling_process_alone_keeps_one_request_to_the_end(self, server):
        size = 40 * MIB
        url = server.put("/a.bin", size)
        assert_ramp(stream(url, None), 0)
        with getm.open(url, concurrency=None) as file:
            for start in range(0, size, MIB):
                assert_ramp(file.read(MIB), start)
        assert [] == children()
        assert 2 * size == sum(min(request.stop, size) - request.start for request in server.log)
        assert len(server.log) <= 6

    @pytest.mark.parametrize("look", ["peek", "line"])
    def test_looking_at_what_comes_first_is_reading_on(self, server, look):
        size, part = 8 * MIB, 64 * KIB + 9
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=None) as file:
            for start in range(0, size - part, part):
                if look == "peek":
                    assert ramp(start, start + 1) == file.peek(128 * KIB)[:1]
                    assert_ramp(file.read(part), start)
                else:
                    line = next(iter(file))
                    assert line + file.read(part - len(line)) == ramp(start, start + part)
        assert 2 == len(server.log)

    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_connections_stay_busy_while_the_caller_computes(self, server, concurrency):
        url = server.put("/a.bin", 64 * MIB)
        go_on = threading.Event()
        server.fail(Fault(stall=64 * KIB, release=go_on), when=lambda request: request.start >= BLOCK, times=None)
        threads = {thread for thread in threading.enumerate() if server.url not in thread.name}
        with getm.open(url, concurrency=concurrency) as file:
            assert_ramp(file.read(BLOCK), 0)
            assert ramp(BLOCK, BLOCK + 64 * KIB) == file.read(64 * KIB)
            server.wait_for(lambda log: sum(request.sent == 64 * KIB for request in log) >= 1)
            assert threads == {thread for thread in threading.enumerate() if server.url not in thread.name}
            go_on.set()  # from here on nothing of getm is called
            server.wait_for(lambda log: all(request.sent > 64 * KIB for request in log))
            server.wait_for(lambda log: log[1].finished or log[1].sent > 4 * MIB)

    @pytest.mark.usefixtures("workers_at_once")
    def test_a_reader_that_waits_has_its_window_grow(self, server):
        size = 64 * MIB
        url = server.put("/a.bin", size)
        server.fail(Fault(delay=0.02), times=None)
        with getm.open(url, concurrency=4) as file:
            for start in range(0, 16 * MIB, 256 * KIB):
                assert ramp(start, start + 256 * KIB) == file.read(256 * KIB)
            ahead = max(request.stop for request in server.log) - 16 * MIB
        assert ahead >= 8 * MIB

    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("concurrency", [None, 1])
    def test_a_short_skip_is_read_through(self, server, concurrency):
        size = 32 * MIB
        url = server.put("/a.bin", size)
        server.fail(Fault(delay=0.1), times=None)  # at 10 MB/s and more a first-byte time is worth 1 MB
        with getm.open(url, concurrency=concurrency) as file:
            for start in range(0, 8 * MIB, 256 * KIB):
                assert ramp(start, start + 256 * KIB) == file.read(256 * KIB)
            before = ranges(server.log)
            for start in range(8 * MIB + 300_000, 30 * MIB, MIB):
                file.seek(start)
                assert ramp(start, start + 1000) == file.read(1000)
        assert before == ranges(server.log)

    @EVERY
    def test_a_second_pass_over_a_small_object_fetches_nothing(self, server, concurrency):
        url = server.put("/a.bin", 6 * MIB)
        with getm.open(url, concurrency=concurrency) as file:
            for _ in range(3):
                file.seek(0)
                assert_ramp(file.read(), 0)
            if concurrency:
                assert 6 * MIB == file.stats.fetched

    def test_another_reader_of_the_same_object_finds_its_blocks(self, server):
        url = server.put("/a.bin", 8 * MIB)
        with getm.open(url) as one, getm.open(url) as other:
            assert_ramp(one.read(), 0)
            before = len(server.log)
            assert_ramp(other.read(), 0)
            assert before == len(server.log)

    def test_a_reader_with_other_headers_does_not(self, server):
        url = server.put("/a.bin", 4 * MIB)
        with getm.open(url) as one, getm.open(url, headers={"X-Who": "other"}) as other:
            assert_ramp(one.read(), 0)
            assert_ramp(other.read(), 0)
        assert 8 * MIB == one.stats.fetched + other.stats.fetched


class TestJump:
    OFFSETS = (100 * MIB + 1, 500 * MIB + 700_000, 300 * MIB + 5, 800 * MIB + 123_456, 7 * MIB + 99)

    @EVERY
    def test_fetches_the_pieces_asked_for_at_least_64_kib(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=concurrency) as file:
            for offset in self.OFFSETS:
                file.seek(offset)
                assert ramp(offset, offset + 100) == file.read(100)
        for offset, request in zip(self.OFFSETS, server.log[1:], strict=True):
            assert request.start <= offset < offset + 100 <= request.stop
            assert 64 * KIB == request.stop - request.start

    @EVERY
    def test_of_more_than_that_fetches_just_its_pieces(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=concurrency) as file:
            for offset in self.OFFSETS:
                assert ramp(offset, offset + 200_000) == file.read_at(offset, 200_000)
            assert file.stats.fetched <= BLOCK + len(self.OFFSETS) * (200_000 + 2 * 16 * KIB)

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_costs_one_request_where_workers_are_up(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        await_workers(url, concurrency)
        before = len(server.log)
        with getm.open(url, concurrency=concurrency) as file:
            for offset in self.OFFSETS:
                assert ramp(offset, offset + 100) == file.read_at(offset, 100)
        assert 1 + len(self.OFFSETS) == len(server.log) - before

    @EVERY
    @pytest.mark.parametrize("direction", [1])
    def test_near_misses_double_what_is_fetched(self, server, concurrency, direction):
        url = server.put("/a.bin", LARGE)
        distances = [0, 150 * KIB, 450 * KIB, 1100 * KIB, 2200 * KIB]
        with getm.open(url, concurrency=concurrency) as file:
            for distance in distances:
                offset = 2**30 + direction * distance
                assert ramp(offset, offset + 100) == file.read_at(offset, 100)
        wanted = [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB]
        lengths = [sum(stop - start for start, stop in group) for group in joined(ranges(server.log[1:]))]
        assert wanted == lengths[:4]

    @EVERY
    def test_backward_reading_fetches_nothing_twice(self, server, concurrency):
        size = 8 * MIB
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=concurrency) as file:
            for start in range(size - 32 * KIB, -1, -32 * KIB):
                file.seek(start)
                assert ramp(start, start + 32 * KIB) == file.read(32 * KIB)
            assert file.stats.fetched <= size + 2 * MIB
        assert len(server.log) <= 40

    def test_misses_keep_no_heap_of_connections_in_the_calling_process(self, server):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=None) as file:
            file.read_at(BLOCK - 1, 1)
            for number in range(100, 150):
                offset = number * 7 * BLOCK - 20_000
                assert ramp(offset, offset + 100) == file.read_at(offset, 100)
            assert server.connections <= 2

    @pytest.mark.parametrize("concurrency", [1, 8])
    @pytest.mark.parametrize("distance", [10 * MIB, -10 * MIB])
    def test_after_three_equal_gaps_the_next_place_is_asked_for_before_it_is_read(self, server, concurrency, distance):
        url = server.put("/a.bin", LARGE)
        await_workers(url, concurrency)
        with getm.open(url, concurrency=concurrency) as file:
            take_first_block(file)
            place = 2**30
            for _ in range(5):
                assert ramp(place, place + 1000) == file.read_at(place, 1000)
                place += distance
            log = server.wait_for(lambda log: any(request.start and request.covers(place) for request in log))
            assert place == next(request for request in log if request.start and request.covers(place)).start
            server.wait_for(lambda log: all(request.finished for request in log))
            before = file.stats.misses
            assert ramp(place, place + 1000) == file.read_at(place, 1000)
            assert before + 1 >= file.stats.misses

    def test_who_waits_for_the_only_connection_is_woken_when_another_thread_gives_it_up(self, server, monkeypatch):
        monkeypatch.setattr(getm.engine.fetching, "WAIT_MOST", 1000)
        url = server.put("/a.bin", LARGE)
        answer = threading.Event()
        server.fail(Fault(delay=answer), when=lambda request: request.start == 2**30)
        with getm.open(url, concurrency=1) as file:
            take_first_block(file)
            first = in_thread(file.read_at, 2**30, 10)
            server.wait_for(lambda log: len(log) == 2)
            second = in_thread(file.read_at, 2**31, 10)
            while len(file._feed.demands) < 2:
                time.sleep(0.001)
            answer.set()
            assert_ramp(first(), 2**30)
            assert_ramp(second(), 2**31)

    @pytest.mark.parametrize("concurrency", [2, 4])
    def test_a_large_read_is_split_over_all_connections(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        start, length = 2**30, 8 * MIB
        answer = threading.Event()
        server.fail(Fault(delay=answer), when=lambda request: request.start >= start, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            take_first_block(file)
            reading = in_thread(file.read_at, start, length)
            log = server.wait_for(lambda log: len(log) == 1 + concurrency)
            assert concurrency == len({request.connection for request in log[1:]})
            answer.set()
            content = reading()
        assert_ramp(content, start)
        assert [length // concurrency] * concurrency == [request.stop - request.start for request in log[1:]]
        assert {start + part * length // concurrency for part in range(concurrency)} == {r.start for r in log[1:]}


def joined(found):
    """Group ranges that adjoin: the calling process cuts at blocks."""
    groups = [[found[0]]]
    for one in found[1:]:
        if one[0] == groups[-1][-1][1] or one[1] == groups[-1][-1][0]:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def stall_beyond(offset):
    """Return what stalls bodies 100,000 bytes behind *offset*, or, if they begin there, their beginning."""
    return lambda request: Fault(stall=max(0, offset - request.start) + 100_000)


def is_stalled(request):
    return request.sent and request.sent % (64 * KIB) and not request.finished


class TestOrder:
    @pytest.mark.parametrize("concurrency", [1, 2, 8])
    def test_a_jump_overtakes_all_that_is_fetched_ahead(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        server.fail(stall_beyond(2 * MIB), when=lambda request: BLOCK <= request.start < 2**30, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert_ramp(file.read(BLOCK), 0)
            assert ramp(BLOCK, BLOCK + MIB) == file.read(MIB)
            log = server.wait_for(lambda log: any(map(is_stalled, log)))
            place = 2**30 + 5
            assert ramp(place, place + 1000) == file.read_at(place, 1000)
            found = server.wait_for(lambda log: any(request.gone for request in log))
            later = [request for request in found if request.index >= len(log) and request.start >= 2**30]
            assert later[0].covers(place)

    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("concurrency", [2, 8])
    def test_a_jump_does_not_wait_for_answers_to_what_is_fetched_ahead(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        silence = Fault(delay=threading.Event())
        server.fail(silence, when=lambda request: 2 * MIB <= request.start < 2**30, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            file.read(BLOCK)
            file.read(MIB // 2)
            server.wait_for(lambda log: any(request.start >= 2 * MIB for request in log))
            assert ramp(2**30, 2**30 + 1000) == file.read_at(2**30, 1000)

    def test_a_jump_does_not_wait_for_the_only_connection_to_answer(self, server):
        url = server.put("/a.bin", LARGE)
        await_workers(url, 1)
        server.fail(Fault(delay=threading.Event()), when=lambda request: request.start == 100 * MIB, times=None)
        with getm.open(url, concurrency=1) as file:
            for place in range(500 * MIB, 100 * MIB, -100 * MIB):
                assert ramp(place, place + 1000) == file.read_at(place, 1000)
            server.wait_for(lambda log: log[-1].start == 100 * MIB)
            assert ramp(2**30, 2**30 + 1000) == file.read_at(2**30, 1000)
            log = server.wait_for(lambda log: all(request.finished for request in log))
            assert [100 * MIB] == [request.start for request in log if request.gone and request.start]

    def test_a_demand_takes_a_connection_from_what_another_reader_fetches_ahead(self, server):
        ahead, other = server.put("/ahead.bin", LARGE), server.put("/other.bin", LARGE)
        server.fail(
            stall_beyond(2 * MIB),
            when=lambda request: request.path == "/ahead.bin" and request.start >= BLOCK,
            times=None,
        )
        with getm.open(ahead, concurrency=2) as one, getm.open(other, concurrency=2) as two:
            assert_ramp(one.read(2 * MIB), 0)
            server.wait_for(lambda log: any(map(is_stalled, log)))
            for place in (10 * MIB, 50 * MIB, 200 * MIB):
                assert_ramp(two.read_at(place, 3 * MIB), place)

    def test_nothing_ahead_is_asked_for_before_a_demand(self, server):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=1) as file:
            file.read(BLOCK)
            for number, place in enumerate((2**30, 2**31, 2**32, 2**33)):
                before = len(server.log)
                assert ramp(place, place + 100) == file.read(100) if file.seek(place) else None
                assert server.log[before].covers(place), number
                for start in range(place + 100, place + 3 * MIB, 100_000):  # a sequence, to be cut off by the next jump
                    assert ramp(start, start + 100_000) == file.read(100_000) if file.seek(start) else None

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_seeking_away_cancels(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        server.fail(stall_beyond(2 * MIB), when=lambda request: BLOCK <= request.start < 2**30, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert_ramp(file.read(2 * MIB), 0)
            server.wait_for(lambda log: any(map(is_stalled, log)))
            file.seek(2**30)
            file.read(1)
            log = server.wait_for(lambda log: all(request.finished for request in log if request.start < 2**30))
            assert any(request.gone for request in log)

    @EVERY
    def test_closing_cancels(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        server.fail(stall_beyond(2 * MIB), when=lambda request: request.start >= BLOCK, times=None)
        file = getm.open(url, concurrency=concurrency)
        assert_ramp(file.read(2 * MIB), 0)
        server.wait_for(lambda log: any(not request.finished for request in log))
        file.close()
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert any(request.gone for request in log)

    @EVERY
    def test_closing_ends_the_wait_of_another_thread(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        server.fail(Fault(stall=0), when=lambda request: request.start >= 2**30, times=None)
        file = getm.open(url, concurrency=concurrency)
        waiting = in_thread(file.read_at, 2**30, 1000)
        server.wait_for(lambda log: len(log) == 2)
        file.close()
        with pytest.raises(ValueError, match="closed"):
            waiting()
        assert 2 == len(server.log)

    @pytest.mark.usefixtures("workers_at_once")
    @EVERY
    def test_leaving_an_iteration_cancels(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        server.fail(Fault(stall=100_000), when=lambda request: request.start >= 5 * MIB, times=None)  # if it goes on by many
        parts = getm.iter_content(url, concurrency=concurrency)
        for _ in range(5):
            next(parts)
        if concurrency == 8:
            server.wait_for(lambda log: any(request.sent == 100_000 for request in log))
        parts.close()
        assert any(request.gone for request in server.wait_for(lambda log: all(request.finished for request in log)))


class TestNarrowMemory:
    @pytest.mark.parametrize("concurrency", [2, 8])
    def test_what_is_fetched_ahead_does_not_push_out_what_was(self, server, concurrency):
        content, place = ramp(0, 12 * MIB + 4321), 3 * MIB + 200_000
        url = server.put("/a.bin", content)
        server.fail(Fault(stall=2 * MIB + 777), when=lambda request: request.index == 1)
        server.fail(Fault(stall=1000), when=lambda request: request.index > 1 and request.start <= place < request.stop)
        with closing(getm.Engine(4 * MIB, 3)) as engine:
            with getm.urlopen(url, engine=engine, concurrency=concurrency, timeout=(5, 0.5), retries=30) as stream:
                for start in range(0, len(content), MIB):
                    view = stream.read(MIB)  # held until there is the next
                    assert content[start : start + MIB] == view

            assert engine.stats.fetched < 2 * len(content)


class TestLateConnection:
    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("fault", [Fault(pace=MIB / 2), Fault(stall=MIB + 100)], ids=["slow", "silent"])
    def test_keeps_no_reader_who_may_use_others(self, server, monkeypatch, fault):
        monkeypatch.setattr(runs, "STUCK_SECONDS", 0.3)
        size = 64 * MIB
        url = server.put("/a.bin", size)
        server.fail(fault, when=lambda request: request.start > 32 * MIB)
        with getm.open(url, concurrency=4, retries=0, timeout=(5, 60)) as file:
            for start in range(0, size, MIB):
                assert_ramp(file.read(MIB), start)
        late = next(request for request in server.log if request.start > 32 * MIB)
        assert late.gone
        assert late.sent < late.stop - late.start


class TestTroubleElsewhere:
    @EVERY
    def test_is_no_progress_of_a_read_for_others(self, server, concurrency):
        url, ill = server.put("/a.bin", 1024 * MIB), 900 * MIB
        server.fail(Fault(stall=0), when=lambda request: request.start >= ill - MIB, times=None)
        is_over = threading.Event()

        def read_on(file):
            for start in itertools.cycle(range(0, 32 * MIB, MIB)):
                file.read_at(start, MIB)
                if is_over.is_set():
                    return
                default(concurrency).clear()

        with getm.open(url, concurrency=concurrency, retries=10_000, deadline=1, timeout=(5, 0.1)) as file:
            reading = in_thread(read_on, file)
            with pytest.raises(getm.TransferTimeout):
                file.read_at(ill, 10)
            is_over.set()
            reading()

    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("fault", [Fault(status=503), Fault(stall=100_000)], ids=["503", "stall"])
    @EVERY
    def test_does_not_slow_a_healthy_object(self, server, monkeypatch, concurrency, fault):
        monkeypatch.setattr(runs, "STUCK_SECONDS", 0.01)
        size = 32 * MIB
        healthy, ill = server.put("/healthy.bin", size), server.put("/ill.bin", size)

        def requests_for_all():
            before = len(server.log)
            with getm.open(healthy, concurrency=concurrency, block_size=BLOCK) as file:
                assert_ramp(file.read(), 0)
            default(concurrency).clear()
            return sum(request.path == "/healthy.bin" for request in server.log[before:])

        alone = requests_for_all()
        server.fail(fault, when=lambda request: request.path == "/ill.bin" and request.start, times=None)
        with ExitStack() as stack:
            files = [
                stack.enter_context(getm.open(f"{ill}?{number}", concurrency=concurrency, retries=10_000))
                for number in range(4)
            ]
            reads = [in_thread(file.read) for file in files]
            server.wait_for(
                lambda log: len({request.query for request in log if request.path == "/ill.bin" and request.start}) == 4
            )
            beside = requests_for_all()
            assert all(read.is_waiting() for read in reads)
        for read in reads:
            with pytest.raises(ValueError, match="closed"):
                read()
        assert beside <= 2 * alone + 4


class TestConnections:
    @EVERY
    def test_are_reused_by_random_reads(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        chance = random.Random(1)
        with getm.open(url, concurrency=concurrency) as file:
            take_first_block(file)
            for _ in range(60):
                offset = chance.randrange(1000) * MIB + chance.randrange(900_000)
                assert ramp(offset, offset + 1000) == file.read_at(offset, 1000)
        assert len(server.log) >= 60
        assert server.connections <= (concurrency or 0) + 1

    @EVERY
    def test_are_reused_by_sequential_reading(self, server, concurrency):
        for number in range(2):
            assert_ramp(open_and_read(server.put(f"/open-{number}", 16 * MIB), concurrency), 0)
            assert_ramp(stream(server.put(f"/stream-{number}", 16 * MIB), concurrency), 0)
        assert server.connections <= (concurrency or 0) + 1

    @EVERY
    def test_are_reused_from_one_reader_to_the_next(self, server, concurrency):
        for number in range(20):
            url = server.put(f"/{number}", 2 * BLOCK)
            assert_ramp(open_and_read(url, concurrency), 0)
        assert server.connections <= (concurrency or 0) + 1

    def test_may_be_closed_by_the_server_after_every_answer(self, server):
        url = server.put("/a.bin", 8 * BLOCK)
        server.fail(Fault(hang_up=True), times=None)
        for concurrency in CONCURRENCIES:
            with getm.open(url, concurrency=concurrency, retries=0) as file:
                for offset in (5 * BLOCK, 3 * BLOCK, 7 * BLOCK, 0):
                    assert ramp(offset, offset + BLOCK) == file.read_at(offset, BLOCK)
            default(concurrency).clear()


class TestThreads:
    @EVERY
    def test_of_one_reader_get_the_right_bytes(self, server, concurrency):
        size = 24 * MIB
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=concurrency) as file:

            def work(seed):
                chance = random.Random(seed)
                for _ in range(25):
                    offset, length = chance.randrange(size), chance.choice([1, 1000, 70_000, 1_500_000])
                    if chance.random() < 0.5:
                        content = file.read_at(offset, length)
                    else:
                        file.seek(offset)
                        content = file.read(length)
                    assert min(length, size - offset) == len(content)
                    assert_ramp(content, offset)
                return True

            assert all(result() for result in [in_thread(work, seed) for seed in range(6)])

    @EVERY
    def test_that_read_on_without_a_seek_get_each_byte_once(self, server, concurrency):
        size = 3 * MIB + 5
        with getm.open(server.put("/a.bin", size), concurrency=concurrency) as file:
            readings = [in_thread(lambda: list(iter(lambda: file.read(1000), b""))) for _ in range(4)]
            parts = [part for reading in readings for part in reading()]
        assert sorted(ramp(start, min(size, start + 1000)) for start in range(0, size, 1000)) == sorted(parts)

    @EVERY
    def test_of_many_readers_get_the_right_bytes(self, server, concurrency):
        size = 5 * MIB
        urls = [server.put(f"/{number}", size) for number in range(3)]

        def work(number):
            with getm.open(urls[number % 3], concurrency=concurrency) as file:
                for start in range(0, size, 300_000):
                    assert ramp(start, min(size, start + 300_000)) == file.read(300_000)
            with getm.urlopen(urls[number % 3], concurrency=concurrency) as file:
                assert_ramp(file.read(), 0)
            return True

        assert all(result() for result in [in_thread(work, number) for number in range(8)])

    def test_of_many_readers_share_a_memory_that_is_too_small_for_all(self, server, new_engine):
        size = 6 * MIB
        urls = [server.put(f"/{number}", size) for number in range(8)]
        engine = new_engine(memory=4 * MIB, processes=3)

        def work(url):
            with getm.open(url, engine=engine, concurrency=3) as file:
                for start in range(0, size, 400_000):
                    assert ramp(start, min(size, start + 400_000)) == file.read(400_000)
            return True

        assert all(result() for result in [in_thread(work, url) for url in urls])

    @EVERY
    def test_a_stalled_block_does_not_stop_the_hits_of_others(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        go_on = threading.Event()
        server.fail(Fault(stall=0, release=go_on), when=lambda request: request.start >= 2**30, times=None)
        with getm.open(url, concurrency=concurrency) as file, getm.open(server.put("/b.bin", 3 * BLOCK)) as other:
            file.read(BLOCK - 1)  # not to its end: a block passed in a large object is not kept
            waiting = in_thread(file.read_at, 2**30, 1000)
            server.wait_for(lambda log: any(request.start == 2**30 and request.status for request in log))
            for offset in range(0, BLOCK - 100, 100_000):
                assert ramp(offset, offset + 100) == file.read_at(offset, 100)
            assert_ramp(other.read(), 0)
            assert waiting.is_waiting()
            go_on.set()
            assert ramp(2**30, 2**30 + 1000) == waiting()

    def test_a_stalled_block_does_not_stop_the_misses_of_others(self, server):
        url = server.put("/a.bin", LARGE)
        go_on = threading.Event()
        server.fail(Fault(stall=0, release=go_on), when=lambda request: request.start >= 2**30, times=None)
        with getm.open(url, concurrency=4) as file:
            file.read(BLOCK - 1)  # not to its end: a block passed in a large object is not kept
            waiting = in_thread(file.read_at, 2**30, 1000)
            server.wait_for(lambda log: any(request.start == 2**30 and request.status for request in log))
            for offset in (10 * MIB, 20 * MIB, 300 * MIB):
                assert ramp(offset, offset + 2 * MIB) == file.read_at(offset, 2 * MIB)
            assert waiting.is_waiting()
            go_on.set()
            assert ramp(2**30, 2**30 + 1000) == waiting()


class TestStats:
    @EVERY
    def test_agree_with_the_servers_log(self, server, concurrency):
        size = 20 * MIB
        url = server.put("/a.bin", size)
        with getm.open(url, concurrency=concurrency) as file:
            for offset in (0, 10 * MIB, 3 * MIB, 15 * MIB + 7):
                file.read_at(offset, 1000)
            file.seek(0)
            assert_ramp(file.read(7 * MIB), 0)
            for offset in range(9 * MIB, 20 * MIB, MIB):
                file.read_at(offset, 100_000)
            stats = file.stats
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert len(log) == stats.requests
        assert 7 * MIB + 11 * 100_000 <= stats.fetched <= sum(request.sent for request in log)
        assert stats.hits + stats.misses >= 5
        assert stats.misses >= 3
        assert stats.waited > 0

    @EVERY
    def test_of_a_whole_pass_are_exact(self, server, concurrency):
        size = 6 * MIB + 3
        with getm.urlopen(server.put("/a.bin", size), concurrency=concurrency) as file:
            while file.read(MIB):
                pass
        assert size == file.stats.fetched
        assert len(server.log) == file.stats.requests
        assert 7 == file.stats.hits + file.stats.misses

    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_tell_what_was_fetched_and_not_read(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=concurrency) as file:
            take_first_block(file)
            unread = file.stats.unread
            assert BLOCK - 16 * KIB == unread
            file.read_at(2**30, 100)
            assert 48 * KIB == file.stats.unread - unread
            file.read_at(2**30, 64 * KIB)
            file.read_at(2**31, 100)
            assert 48 * KIB == file.stats.unread - unread

    def test_of_the_engine_are_those_of_its_readers(self, server, new_engine):
        engine = new_engine()
        urls = [server.put(f"/{number}", 3 * MIB) for number in range(3)]
        files = [getm.open(url, engine=engine) for url in urls]
        for file in files:
            assert_ramp(file.read(), 0)
        assert len(server.log) == engine.stats.requests
        assert 9 * MIB == engine.stats.fetched
        for file in files:
            file.close()
