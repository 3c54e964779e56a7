"""The engine as a whole: its life, what it may use, and what happens when something leaves it in the middle."""

import gc
import itertools
import os
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

import getm
from getm.engine import default, memory
from getm.engine.feed import Demand
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

MIB = 1 << 20


@pytest.fixture
def engine():
    engine = getm.Engine(memory=16 * MIB)
    yield engine
    engine.close()


def test_a_reader_goes_on_after_its_engine_was_closed(server, engine):
    with getm.open(server.put("/object", 4 * MIB), engine=engine) as file:
        assert_ramp(file.read(2 * MIB), 0)
        engine.close()
        assert 0 == engine.memory
        assert_ramp(file.read(), 2 * MIB)


def test_closing_a_reader_builds_nothing(server, engine):
    file = getm.open(server.put("/object", 4 * MIB), engine=engine)
    engine.close()
    file.close()
    assert engine._hub.core is None


def test_clear_has_everything_fetched_again(server, engine):
    with getm.open(server.put("/object", MIB), engine=engine) as file:
        file.read()
        engine.clear()
        file.seek(0)
        assert_ramp(file.read(), 0)
        assert 2 == file.stats.requests


def test_the_engine_counts_what_closed_readers_have_cost(server, engine):
    url = server.put("/object", 3 * MIB)
    for _ in range(2):
        with getm.open(url, engine=engine) as file:
            file.read()
    assert 3 * MIB == engine.stats.fetched
    assert len(server.log) == engine.stats.requests


def test_memory_is_taken_as_it_is_used_and_never_more_than_was_said(server, engine):
    url = server.put("/object", 40 * MIB)
    with getm.open(url, engine=engine) as file:
        assert engine.memory == 0
        file.read(1)
        assert MIB == engine.memory
        while file.read(MIB):
            assert 16 * MIB >= engine.memory


def test_small_objects_take_no_more_memory_than_stays(server, new_engine, monkeypatch):
    monkeypatch.setattr(memory, "KEEP", 4 * MIB)
    engine = new_engine(memory=64 * MIB)
    urls = [server.put(f"/{number}", 100_000) for number in range(40)]
    taken = []
    for url in urls:
        with getm.open(url, engine=engine) as file:
            assert_ramp(file.read(), 0)
            taken.append(engine.memory)
    assert 6 * MIB == max(taken)  # it grows in steps of 2 MiB
    assert taken == sorted(taken)  # what was taken is not given back and taken again
    with getm.open(server.put("/open", 100_000), engine=engine) as other:
        other.read()
        for url in urls:
            with getm.open(url, engine=engine) as file:
                assert_ramp(file.read(), 0)
        assert 6 * MIB == engine.memory


def test_blocks_of_the_objects_left_last_stay(server, new_engine, monkeypatch):
    monkeypatch.setattr(memory, "KEEP", 4 * MIB)
    engine = new_engine(memory=64 * MIB)

    def read(number):
        with getm.open(f"{server.url}/{number}", engine=engine) as file:
            assert_ramp(file.read(), 0)
            return file.stats.fetched

    for number in range(6):
        server.put(f"/{number}", 100_000)
        assert 100_000 == read(number)
    assert 0 == read(5) == read(3) == read(4) == read(2)
    assert 100_000 == read(0)  # in place of that of 5
    assert 0 == read(2) == read(4) == read(3)
    assert 100_000 == read(5)


def test_readers_who_take_turns_leave_each_other_what_they_read(server, new_engine):
    url = server.put("/object", 12 * MIB)
    engine = new_engine(memory=16 * MIB)
    with ExitStack() as stack:
        options = [{"headers": {"X-Reader": str(number)}, "engine": engine, "concurrency": 4} for number in range(6)]
        files = [stack.enter_context(getm.open(url, **each)) for each in options]
        for start in range(0, 6 * MIB, MIB // 4):
            for file in files:
                assert_ramp(file.read(MIB // 4), start)
        assert engine.stats.fetched <= 6 * 8 * MIB  # six read, and what may be ahead


def test_a_reader_dropped_while_the_lock_is_held_is_given_up_later(server, engine):
    file = getm.open(server.put("/object", 4 * MIB), engine=engine)
    file.read(1)
    file.cycle = file  # so that only the garbage collector finds it
    del file

    def collect(_core):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        assert 1 == len(engine._hub.feeds)

    engine._hub.turn(None, collect)
    assert 0 == len(engine._hub.feeds)


def test_what_leaves_while_the_lock_is_held_takes_the_state_with_it(server, engine, monkeypatch):
    with getm.open(server.put("/object", 6 * MIB), engine=engine) as file:
        file.read(2 * MIB)
        core = engine._hub.core
        monkeypatch.setattr(core, "dispatch", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            file.read(MIB)
        assert engine._hub.core is None
        assert 2 * MIB == file.tell()
        assert_ramp(file.read(), 2 * MIB)


def test_a_callers_auth_that_raises_reaches_the_caller_and_nobody_else(server, engine):
    class Auth:
        is_broken = False

        def __call__(self, request):
            if self.is_broken:
                raise LookupError("no token")
            return request

    auth = Auth()
    url = server.put("/object", 40 * MIB)
    with getm.open(url, auth=auth, engine=engine) as file, getm.open(url, engine=engine) as other:
        file.read(MIB)
        auth.is_broken = True
        with pytest.raises(LookupError):
            file.read()
        core = engine._hub.core
        assert_ramp(other.read(), 0)
        assert core is engine._hub.core
        auth.is_broken = False
        assert_ramp(file.read(), MIB)


def test_blocks_are_shared_by_readers_that_may_share_them(server, engine):
    url = server.put("/object", MIB)
    with getm.open(url, engine=engine) as file:
        file.read()
    with getm.open(url, engine=engine) as same:
        assert_ramp(same.read(), 0)
        assert 0 == same.stats.fetched
    for options in ({"headers": {"X-Who": "me"}}, {"auth": ("me", "pw")}, {"verify": False}):
        with getm.open(url, engine=engine, **options) as other:
            other.read()
            assert MIB == other.stats.fetched


def test_blocks_of_a_weakly_named_version_are_not_shared(server, engine):
    url = server.put("/object", MIB, {"ETag": 'W/"1"'})
    for _ in range(2):
        with getm.open(url, engine=engine) as file:
            file.read()
            assert MIB == file.stats.fetched


def test_two_signatures_of_one_object_share_and_two_queries_do_not(server, engine):
    url = server.put("/object", MIB)
    fetched = []
    for query in ("?X-Amz-Signature=1&X-Amz-Date=1", "?X-Amz-Signature=2&X-Amz-Date=2", "?id=1", "?id=2"):
        with getm.open(url + query, engine=engine) as file:
            file.read()
            fetched.append(file.stats.fetched)
    assert [MIB, 0, MIB, MIB] == fetched


def test_a_forked_child_reads_by_itself_and_leaves_the_parent_alone(server, engine):
    with getm.open(server.put("/object", 6 * MIB), engine=engine) as file, getm.urlopen(server.put("/o", MIB)) as stream:
        part = stream.read(1000)
        assert_ramp(file.read(2 * MIB), 0)
        child = os.fork()
        if child == 0:
            try:
                right = file.read() == ramp(2 * MIB, 6 * MIB) and bytes(part) == ramp(0, 1000)
            finally:
                os._exit(0 if right else 1)
        assert_ramp(file.read(), 2 * MIB)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert_ramp(part, 0)


def test_many_readers_stay_within_one_bound_and_all_go_on(server, engine):
    url = server.put("/object", 3 * MIB)
    files = [getm.open(url, engine=engine, headers={"X-Reader": str(number)}) for number in range(40)]
    try:
        for start in range(0, 3 * MIB, MIB // 2):
            for file in files:
                assert_ramp(file.read(MIB // 2), start)
                assert 16 * MIB >= engine.memory
    finally:
        for file in files:
            file.close()


def test_one_who_hoards_views_starves_nobody(server, engine):
    with getm.urlopen(server.put("/a", 24 * MIB), engine=engine) as hoarder:
        views = []
        while view := hoarder.read(MIB):
            views.append(view)
        assert 0 < hoarder.stats.private < 24 * MIB
        with getm.open(server.put("/b", 6 * MIB), engine=engine) as other:
            assert_ramp(other.read(), 0)
        for number, view in enumerate(views):
            assert_ramp(view, number * MIB)


def test_threads_that_read_one_object_get_their_bytes(server, engine):
    wrong = []
    with getm.open(server.put("/object", 12 * MIB), engine=engine, concurrency=4) as file:

        def read(number):
            for step in range(20):
                start = (number * 7919 + step * 655_360) % (11 * MIB)
                try:
                    assert_ramp(file.read_at(start, 300_000), start)
                except BaseException as error:  # noqa: BLE001  # shown below, in the main thread
                    wrong.append(error)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [] == wrong


@pytest.mark.usefixtures("workers_at_once")
def test_where_no_process_can_be_started_reading_goes_on_in_this_one(server, engine, monkeypatch, caplog):
    monkeypatch.setattr("sys.executable", "")
    with getm.open(server.put("/object", 5 * MIB), engine=engine) as file:
        while part := file.read(MIB):
            assert_ramp(part, file.tell() - len(part))
    assert 1 == len([record for record in caplog.records if "background processes" in record.message])


@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_engine_without_processes_reads_anywhere(server, concurrency):
    engine = getm.Engine(memory=4 * MIB, processes=0)
    with getm.open(server.put("/object", 6 * MIB), engine=engine, concurrency=concurrency, deadline=20) as file:
        for start in (5 * MIB, 10, 3 * MIB):  # the body of the first answer lies unread meanwhile
            assert_ramp(file.read_at(start, 100), start)
    engine.close()


@pytest.mark.parametrize("concurrency", [None, 1, 8])
@pytest.mark.parametrize("block_size", [12 * 1024, 192 * 1024, 1000 * 1024])
def test_blocks_of_any_size_are_right(server, engine, concurrency, block_size):
    # A process that reads for itself went on 64 KiB further, which is not a whole number of pieces of every block.
    url = server.put("/object", 3 * MIB)
    with getm.open(url, engine=engine, concurrency=concurrency, block_size=block_size) as file:
        for length in (100, 70_000, 1, 300_000, 5, MIB):
            assert_ramp(file.read(length), file.tell() - length)


def test_a_demand_that_gets_no_lease_begins_anew():
    # Pieces that had come while it waited for a lease were taken for copied.
    demand = Demand(100, 200, None)
    demand.position = 150
    demand.go_private()
    assert 100 == demand.position


def test_a_failure_is_not_remembered(server, engine):
    with getm.open(server.put("/object", 4 * MIB), engine=engine, retries=0) as file:
        file.read(MIB)
        server.fail(Fault(status=404), times=None)
        with pytest.raises(getm.NotFound):
            file.read()
        server.heal()
        assert MIB == file.tell()
        assert_ramp(file.read(), MIB)


def test_readers_without_an_engine_of_their_own_share_two():
    assert default(1) is default(8)
    assert default(None) is not default(8)


@pytest.mark.parametrize("door", ["read", "copy"])
def test_a_child_forked_while_a_thread_receives_goes_its_way(server, tmp_path, door):
    url = server.put("/object", 4 * MIB)
    release = threading.Event()
    with getm.open(url, concurrency=None) as file:
        server.fail(Fault(stall=1000, release=release))
        receiving = threading.Thread(
            target=lambda: file.read_at(2 * MIB, 100) if door == "read" else getm.copy(url, tmp_path / "a", concurrency=None)
        )
        receiving.start()
        server.wait_for(lambda log: log[-1].sent == 1000)
        child = os.fork()
        if child == 0:
            os._exit(0 if file.read_at(MIB, 1000) == ramp(MIB, MIB + 1000) else 1)
        try:
            deadline = time.monotonic() + 20
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            release.set()
            receiving.join()
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert (child, 0) == ended
        assert ramp(0, 4 * MIB) == file.read()


def test_a_read_goes_on_that_was_receiving_without_a_place_when_its_engine_was_closed(server):
    engine = getm.Engine(4 * MIB, 0)  # four slots
    files = [getm.open(server.put(f"/{number}", 4 * MIB), concurrency=None, engine=engine) for number in range(5)]
    releases = [threading.Event() for _ in files]
    for number, release in enumerate(releases):
        server.fail(
            Fault(stall=100, release=release),
            when=lambda request, number=number: request.path == f"/{number}" and request.start,
        )
    results = []

    def read(number):
        start = 4 * MIB - 20_000 if number == 4 else 2 * MIB
        results.append(files[number].read_at(start, 1000) == ramp(start, start + 1000))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        server.wait_for(lambda log, number=number: sum(request.sent == 100 for request in log) == number + 1)
    for thread, release in zip(threads[:4], releases, strict=False):
        release.set()  # the first four give their slots back
        thread.join()
    engine.close()
    releases[4].set()
    threads[4].join()
    for file in files:
        file.close()
    engine.close()
    assert [True] * 5 == results


def test_threads_that_iterate_over_one_file_share_its_lines(server):
    count = 200_000
    content = b"".join(b"%d\n" % number for number in range(count))
    url = server.put("/lines", content)
    with getm.open(url) as file, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: list(file), range(4)))
    assert sorted(map(int, itertools.chain.from_iterable(found))) == list(range(count))
    assert all(lines == sorted(lines, key=int) for lines in found)
