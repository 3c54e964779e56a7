"""What went wrong elsewhere does not go wrong here: faults of others that other tests do not pin."""

import contextlib
import os
import random
import threading
from typing import Any

import pytest
import requests

import getm
import getm.retry
from getm.engine import default
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault, FaultServer
from tests.threads import in_thread

KIB = 2**10
BLOCK = MIB = 2**20
SIZE = 4 * BLOCK + 5
SECRET = "hunter2"

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)

LENGTHS = pytest.mark.parametrize("length", [BLOCK, 1_500_000, 3 * BLOCK])


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def other():
    """Serve on another port: another origin."""
    with FaultServer() as server:
        yield server


def opened(url, **options):
    return getm.open(url, **options)


def read(url, **options):
    with opened(url, **options) as file:
        return file.read()


def read_into(file):
    buffer = bytearray(MIB)
    while file.readinto(buffer):
        pass


def read_by_steps(file):
    while file.read(100_000):
        pass


def read_1(file):
    while file.read1():
        pass


def read_at(file):
    for start in range(0, SIZE, MIB):
        file.read_at(start, MIB)


def peek(file):
    while file.peek():
        file.seek(64 * KIB, os.SEEK_CUR)


def read_lines(file):
    while file.readline():
        pass


def iterate(file):
    for _ in file:
        pass


WAYS = (getm.Reader.read, getm.Reader.readall, read_by_steps, read_into, read_1, read_at, peek, read_lines, iterate)


class TestVersions:
    # Consistency on only one of several ways to read.
    @EVERY
    @pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
    def test_are_told_apart_by_every_way_to_read(self, server, url, concurrency, way):
        with getm.open(url, concurrency=concurrency, block_size=256 * KIB) as file:
            server.put("/a.bin", SIZE)
            with pytest.raises(getm.ObjectChanged):
                way(file)

    @EVERY
    def test_are_told_apart_by_text_buffers_and_streams(self, server, url, concurrency):
        options = {"concurrency": concurrency, "block_size": 256 * KIB}
        opened = [
            getm.open(url, "r", encoding="latin-1", **options),
            getm.open(url, buffering=-1, **options),
            getm.urlopen(url, **options),
        ]
        with contextlib.ExitStack() as stack:
            for file in opened:
                stack.enter_context(file)
            parts = getm.iter_content(url, concurrency=concurrency, block_size=256 * KIB)
            server.put("/a.bin", SIZE)
            for read_all in (*(file.read for file in opened), lambda: list(parts)):
                with pytest.raises(getm.ObjectChanged):
                    read_all()

    # A cut to the size that was seen first, from a cache of sizes.
    @EVERY
    def test_that_have_grown_or_shrunk_are_read_in_full_by_the_next_reader(self, server, concurrency):
        for number, size in enumerate((MIB, 3 * MIB, 10, 0, 2 * MIB)):
            url = server.put("/a.bin", size)
            assert ramp(0, size, seed=number) == read(url, concurrency=concurrency)
            assert size == getm.info(url).size


class TestSharing:
    # A cache or connection that looks at the path and not at the host.
    @EVERY
    def test_is_not_between_endpoints_that_agree_in_all_but_their_address(self, server, other, concurrency):
        mine, others = server.put("/a.bin", SIZE), other.put("/a.bin", ramp(0, SIZE, seed=7))
        assert getm.info(mine).etag == getm.info(others).etag
        with getm.open(mine, concurrency=concurrency) as one, getm.open(others, concurrency=concurrency) as two:
            assert ramp(0, SIZE) == one.read()
            assert ramp(0, SIZE, seed=7) == two.read()
            assert ramp(5, SIZE) == one.read_at(5, SIZE)

    # A cache or connection that does not look at who asks.
    @EVERY
    @pytest.mark.parametrize("right", ["auth", "headers", "session", "url"])
    def test_is_not_with_those_who_may_not_read(self, server, url, concurrency, right):
        def refuse(request):
            is_first = request.start == 0  # that alone would tell who may read
            return None if is_first or request.headers["Authorization"] == "Basic dXNlcjp3b3Jk" else Fault(status=403)

        server.fail(refuse, times=None)
        with requests.Session() as session:
            session.auth = ("user", "word")
            rights: dict[str, dict[str, Any]] = {
                "auth": {"auth": ("user", "word")},
                "headers": {"headers": {"Authorization": "Basic dXNlcjp3b3Jk"}},
                "session": {"session": session},
                "url": {},
            }
            place = url.replace("//", "//user:word@") if right == "url" else url
            with opened(place, concurrency=concurrency, **rights[right]) as file:
                assert ramp(0, SIZE) == file.read()
                for wrong in ({}, {"auth": ("user", "wrong")}, {"headers": {"Authorization": "Basic wrong"}}):
                    with pytest.raises(getm.AccessDenied):
                        read(url, concurrency=concurrency, **wrong)

    # Credentials that nobody asked to send.
    @EVERY
    def test_of_credentials_is_asked_for(self, server, url, tmp_path, monkeypatch, concurrency):
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login user password {SECRET}\ndefault login user password {SECRET}\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        server.fail(Fault(status=302, headers={"Location": "/a.bin"}), when=lambda r: r.path == "/old", times=None)
        assert ramp(0, SIZE) == read(server.url + "/old", concurrency=concurrency)
        assert {None} == {request.headers["Authorization"] for request in server.log}

    # Readers with other block sizes, or another place, over one cache.
    @EVERY
    def test_is_not_between_block_sizes_and_positions(self, url, concurrency):
        sizes = (4 * KIB, 64 * KIB, 192 * KIB, MIB, MIB)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(getm.open(url, concurrency=concurrency, block_size=size)) for size in sizes]
            chance = random.Random(1)
            positions = [0] * len(files)
            for number in [*range(len(files)), *chance.choices(range(len(files)), k=60)]:
                length = chance.choice([1, 1000, 70_000])
                start = positions[number]
                positions[number] = min(SIZE, start + length)
                assert ramp(start, positions[number]) == files[number].read(length)
            assert positions == [file.tell() for file in files]

    # A cache of each thread's own, and of so few blocks that it never hits.
    def test_is_between_threads(self, server, url):
        with getm.open(url) as one:
            assert ramp(0, SIZE) == one.read()
            before = len(server.log)
            assert ramp(0, SIZE) == in_thread(one.read_at, 0, SIZE)()
            assert before == len(server.log)
            assert ramp(0, SIZE) == in_thread(lambda: read(url))()
            assert before + 1 == len(server.log)  # whether it is still the same object

    @EVERY
    def test_of_blocks_is_for_many_random_reads(self, server, url, concurrency):
        chance = random.Random(2)
        with getm.open(url, concurrency=concurrency) as file:
            for _ in range(400):
                start = chance.randrange(SIZE)
                assert ramp(start, min(SIZE, start + 2000)) == file.read_at(start, 2000)
            assert file.stats.fetched <= SIZE + MIB
        assert len(server.log) <= SIZE // (64 * KIB) + 10

    # A client, with its connections, of each thread's own.
    @EVERY
    def test_of_connections_is_between_threads(self, server, concurrency):
        url = server.put("/a.bin", 2**40)
        with getm.open(url, concurrency=concurrency) as file:
            file.read_at(BLOCK - 1, 1)  # the first answer to its end, and no sequence by that
            for start in range(2**30, 20 * 2**30, 2**30):
                assert ramp(start, start + 1000) == in_thread(file.read_at, start, 1000)()
        assert server.connections <= 1 + (concurrency or 0)


class TestPattern:
    # Read-ahead that a number of jumps ends for good.
    @EVERY
    def test_of_many_jumps_is_forgotten_when_reading_goes_on(self, server, concurrency):
        size = 64 * MIB
        url = server.put("/a.bin", size)
        chance = random.Random(3)
        with getm.open(url, concurrency=concurrency) as file:
            for _ in range(100):
                start = chance.randrange(32 * MIB)
                assert ramp(start, start + 100) == file.read_at(start, 100)
            file.seek(40 * MIB)
            before = len(server.log)
            for start in range(40 * MIB, 48 * MIB, 4 * KIB):
                assert ramp(start, start + 4 * KIB) == file.read(4 * KIB)
            log = server.log[before:]
        assert len(log) <= 30  # of 2,048 reads
        assert not any(request.start < 40 * MIB for request in log)

    # Bytes that are fetched again and again.
    @pytest.mark.parametrize("length", [BLOCK, 1_500_000, 3 * BLOCK])
    @EVERY
    def test_of_a_stream_that_fills_buffers_costs_each_byte_once(self, server, concurrency, length):
        size = 24 * MIB
        buffer = bytearray(length)
        with getm.urlopen(server.put("/a.bin", size), concurrency=concurrency) as stream:
            while stream.readinto(buffer):
                pass
        assert size == sum(request.sent for request in server.wait_for(lambda log: all(one.finished for one in log)))

    @LENGTHS
    def test_of_a_stream_that_returns_views_costs_each_byte_once(self, server, length):
        size = 24 * MIB
        with getm.urlopen(server.put("/a.bin", size), concurrency=None) as stream:
            while stream.read(length):
                pass
        assert size == sum(request.sent for request in server.wait_for(lambda log: all(one.finished for one in log)))

    @LENGTHS
    @EVERY
    def test_of_a_stream_that_returns_views_is_known(self, url, concurrency, length):
        with getm.urlopen(url, concurrency=concurrency) as stream:
            stream.read(length)
            assert length == stream._feed.planner._position

    # The shortest of all ranges taken for the whole object.
    @EVERY
    def test_of_no_bytes_asks_for_nothing_and_returns_nothing(self, server, url, concurrency):
        assert b"" == getm.read(url, 5, 5, concurrency=concurrency)
        assert b"" == getm.read(url, 5, 3, concurrency=concurrency)
        assert b"" == getm.read(url, 0, 0, concurrency=concurrency)
        assert [] == server.log
        with getm.open(url, concurrency=concurrency) as file:
            assert (b"", b"", 0) == (file.read_at(BLOCK, 0), file.read(0), file.readinto(bytearray()))
        assert 1 == len(server.log)

    # A read cut to the length of a buffer.
    @EVERY
    def test_of_one_read_may_be_longer_than_all_memory(self, server, new_engine, concurrency):
        size = 12 * MIB
        url = server.put("/a.bin", size)
        options = {"engine": new_engine(memory=4 * MIB), "concurrency": concurrency}
        with getm.open(url, **options) as file, getm.urlopen(url, **options) as stream:
            content = file.read()
            assert size == len(content)
            assert_ramp(content, 0)
            view = stream.read()
            assert size == len(view)
            assert_ramp(view, 0)


class TestTrouble:
    # Retries that sleep in the pool that others wait for.
    def test_of_more_objects_than_there_are_workers_slows_no_other(self, server, url, new_engine):
        engine = new_engine(processes=2)
        bad = [server.put(f"/bad-{number}", SIZE) for number in range(6)]
        is_bad = {"when": lambda request: request.path.startswith("/bad") and request.start > 0, "times": None}
        with contextlib.ExitStack() as stack:
            troubled = [stack.enter_context(getm.open(each, engine=engine, concurrency=2)) for each in bad]
            server.fail(Fault(status=503, headers={"Retry-After": "30"}), **is_bad)
            waiting = [in_thread(read_until_closed, file) for file in troubled]
            server.wait_for(lambda log: len({request.path for request in log if request.status == 503}) >= 1)
            # It has its own host's name: a server that asks for a pause with two objects gets it for all.
            with getm.open(url.replace("127.0.0.1", "localhost"), engine=engine, concurrency=2) as file:
                assert ramp(0, SIZE) == file.read()
            assert all(result.is_waiting() for result in waiting)
            for file in troubled:
                file.close()
            for result in waiting:
                result()

    # Pauses of one length for everybody.
    def test_is_answered_by_pauses_that_differ_and_grow_to_a_bound(self):
        shares = (0.0, 0.25, 0.5, 0.999)
        for attempt in range(2, 12):
            pauses = [getm.retry.pause(attempt, None, chance) for chance in shares]
            assert 0.0 == pauses[0] < pauses[1] < pauses[2] < pauses[3] < getm.retry.BACKOFF_MOST
        longest = [getm.retry.pause(attempt, None, 0.999) for attempt in range(2, 100)]
        assert sorted(longest) == longest
        assert longest[0] <= getm.retry.BACKOFF_FIRST < 0.9 * getm.retry.BACKOFF_MOST < longest[-1]

    # Layers of retries that multiply each other.
    @EVERY
    def test_costs_no_more_requests_than_were_allowed(self, server, url, monkeypatch, concurrency):
        monkeypatch.setattr(getm.retry, "BACKOFF_FIRST", 0.001)
        with getm.open(url, concurrency=concurrency, retries=4) as file:
            server.fail(Fault(status=503), times=None)
            before = len(server.log)
            with pytest.raises(getm.BadStatus):
                file.read_at(2 * BLOCK, 1000)
            assert 5 == len(server.log) - before


class TestCopy:
    # A download that appends to a file that is there, or goes on with what another version has left.
    @EVERY
    @pytest.mark.parametrize("length", [0, 100, SIZE - 1, SIZE, SIZE + 1000])
    def test_replaces_what_is_there_and_takes_nothing_from_what_was_left(self, url, tmp_path, concurrency, length):
        (tmp_path / "a.bin").write_bytes(b"\1" * length)
        (tmp_path / "a.bin.part").write_bytes(b"\2" * length)
        assert SIZE == getm.copy(url, tmp_path / "a.bin", concurrency=concurrency).size
        assert ramp(0, SIZE) == (tmp_path / "a.bin").read_bytes()
        assert ["a.bin"] == os.listdir(tmp_path)

    # Two downloads to one file, of which the last wins.
    def test_to_a_file_that_another_is_writing_is_refused(self, server, url, tmp_path):
        release = threading.Event()
        server.fail(Fault(stall=BLOCK // 2, release=release), when=lambda request: request.start == BLOCK)
        copying = in_thread(getm.copy, url, tmp_path / "a.bin")
        try:
            server.wait_for(lambda log: any(request.start and request.sent == BLOCK // 2 for request in log))
            with pytest.raises(OSError, match="another copy is writing this file") as caught:
                getm.copy(server.put("/b.bin", SIZE), tmp_path / "a.bin")
        finally:
            release.set()
        assert SIZE == copying().size
        assert str(tmp_path / "a.bin.part") == caught.value.filename
        assert {"/a.bin"} == {request.path for request in server.log}
        assert ramp(0, SIZE) == (tmp_path / "a.bin").read_bytes()

    # A file of which a failed write has kept a part, or an error that leaves one.
    def test_left_by_any_exception_leaves_nothing(self, server, url, tmp_path, monkeypatch):
        (tmp_path / "a.bin").write_bytes(b"old")

        def interrupt(*_arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            getm.copy(url, tmp_path / "a.bin")
        assert ["a.bin"] == os.listdir(tmp_path)
        assert b"old" == (tmp_path / "a.bin").read_bytes()


class TestMemory:
    # Buffers whose size has nothing to do with that of the object.
    def test_of_a_small_object_is_small_and_of_none_nothing(self, server):
        for size in (0, 1, 1000):
            assert ramp(0, size) == read(server.put(f"/{size}", size), concurrency=8)
            assert default(8).memory <= 8 * MIB

    # Views that a loop has kept are used after their end.
    @EVERY
    def test_of_parts_that_were_kept_is_refused_and_never_another_parts(self, url, concurrency):
        parts = list(getm.iter_content(url, 100_000, concurrency=concurrency))
        for part in parts:
            with pytest.raises(ValueError, match="released"):
                bytes(part)


def read_until_closed(file):
    with contextlib.suppress(ValueError):
        file.read_at(2 * BLOCK, 1000)
