"""A server without ranges: its objects are read once, to a temporary file, and behave as all others."""

import contextlib
import hashlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import getm
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

BLOCK = MIB = 2**20
SIZE = 5 * BLOCK + 7

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)
FRAMINGS = pytest.mark.parametrize("framing", ["length", "chunks", "connection"])


@pytest.fixture
def url(server):
    server.fail(Fault(whole=True), times=None)
    return server.put("/a.bin", SIZE)


def assert_streams(url, concurrency):
    position = 0
    for part in getm.iter_content(url, 300_000, concurrency=concurrency):
        assert_ramp(part, position)
        position += len(part)
    assert SIZE == position


def only_framed(server, framing, **faults):
    server.heal()
    server.fail(Fault(whole=True, framing=framing, **faults), times=None)


class TestDoors:
    @EVERY
    @FRAMINGS
    def test_read_it_whole_by_one_request(self, server, url, concurrency, framing):
        only_framed(server, framing)
        with getm.open(url, concurrency=concurrency) as file:
            assert SIZE == file.size
            assert ramp(0, SIZE) == file.read()
            assert ramp(5, 3 * BLOCK) == file.read_at(5, 3 * BLOCK - 5)
        assert 1 == len(server.log)

    @EVERY
    @FRAMINGS
    def test_stream_it(self, server, url, concurrency, framing):
        only_framed(server, framing)
        assert_streams(url, concurrency)
        assert 1 == len(server.log)

    @EVERY
    @FRAMINGS
    def test_copy_it(self, server, url, tmp_path, concurrency, framing):
        only_framed(server, framing)
        getm.copy(url, tmp_path / "a.bin", concurrency=concurrency)
        assert ramp(0, SIZE) == (tmp_path / "a.bin").read_bytes()
        assert 1 == len(server.log)

    @FRAMINGS
    def test_copy_it_by_writing_it_once(self, server, url, tmp_path, framing):
        only_framed(server, framing)
        before = written()
        getm.copy(url, tmp_path / "a.bin")
        assert SIZE <= written() - before < SIZE + BLOCK // 2

    @FRAMINGS
    def test_read_a_range_of_it(self, server, url, framing):
        only_framed(server, framing)
        assert ramp(100, 2000) == getm.read(url, 100, 2000)
        assert ramp(3 * BLOCK, SIZE) == getm.read(url, 3 * BLOCK)
        assert b"" == getm.read(url, SIZE + 5, SIZE + 10)

    @FRAMINGS
    def test_tell_of_it_without_reading_it(self, server, url, framing):
        only_framed(server, framing)
        about = getm.info(url)
        assert (SIZE if framing == "length" else None, False, "a.bin") == (about.size, about.ranges, about.name)
        assert 1 == len(server.log)
        server.heal()
        assert getm.info(url).ranges

    @pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
    @FRAMINGS
    def test_read_any_size(self, server, framing, size):
        url = server.put("/b.bin", size)
        only_framed(server, framing)
        with getm.open(url) as file:
            assert ramp(0, size) == file.read()


class TestStreams:
    """What is only read forwards is not kept."""

    @EVERY
    def test_write_nothing_and_have_no_limit(self, server, url, monkeypatch, tmp_path, concurrency):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        with getm.urlopen(url, concurrency=concurrency, spool=1000) as stream:
            assert_ramp(stream.read(SIZE // 2), 0)
            assert_ramp(stream.read(), SIZE // 2)
        assert 1 == len(server.log)

    @EVERY
    @pytest.mark.parametrize("after", [0, 1, 3 * BLOCK])
    def test_whose_pass_breaks_off_go_on_by_another(self, server, url, concurrency, after):
        server.heal()
        server.fail(Fault(whole=True, cut=after), times=2)
        server.fail(Fault(whole=True), times=None)
        assert_streams(url, concurrency)
        assert 3 == len(server.log)

    @EVERY
    def test_go_on_right_though_blocks_are_forgotten(self, server, url, new_engine, concurrency):
        engine = new_engine(memory=4 * BLOCK, processes=0 if concurrency is None else 4)
        with getm.urlopen(url, concurrency=concurrency, engine=engine) as stream:
            held = [stream.read(100_000)]
            for _ in range(20):
                engine.clear()
                held.append(stream.read(100_000))
            held.append(stream.read())
        assert ramp(0, SIZE) == b"".join(held)

    def test_are_verified(self, server, url):
        with getm.urlopen(url, checksum="md5:" + hashlib.md5(ramp(0, SIZE)).hexdigest()) as stream:
            while stream.read(BLOCK):
                pass
            assert "the caller" == stream.verified

    def test_of_a_forked_child_are_by_a_pass_of_its_own(self, server, url):
        with getm.urlopen(url, concurrency=None) as stream:
            assert_ramp(stream.read(1000), 0)
            child = os.fork()
            if child == 0:
                os._exit(0 if bytes(stream.read()) == ramp(1000, SIZE) else 1)
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert_ramp(stream.read(), 1000)


class TestSeeking:
    def test_waits_for_the_pass_and_fetches_nothing_twice(self, server, url):
        with getm.open(url) as file:
            file.seek(-10, os.SEEK_END)
            assert ramp(SIZE - 10, SIZE) == file.read()
            for start in (3 * BLOCK, 10, 2 * BLOCK - 5, SIZE - 1):
                file.seek(start)
                assert ramp(start, min(SIZE, start + 100)) == file.read(100)
        assert 1 == len(server.log)

    def test_from_many_threads_is_right(self, server, url):
        wrong = []
        with getm.open(url) as file:

            def read(number):
                for step in range(20):
                    start = (number * 7919 + step * 104_729 * 3) % SIZE
                    if ramp(start, min(SIZE, start + 5000)) != file.read_at(start, 5000):
                        wrong.append(start)

            threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert [] == wrong
        assert 1 == len(server.log)

    def test_of_a_forked_child_is_by_a_pass_of_its_own(self, server, url):
        with getm.open(url) as file:
            assert ramp(0, 1000) == file.read(1000)
            child = os.fork()
            if child == 0:
                os._exit(0 if file.read_at(3 * BLOCK, 1000) == ramp(3 * BLOCK, 3 * BLOCK + 1000) else 1)
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert ramp(1000, SIZE) == file.read()

    def test_starts_no_process(self, url):
        import psutil

        with getm.open(url, concurrency=4) as file:
            assert ramp(0, SIZE) == file.read()
            assert [] == [child for child in psutil.Process().children() if child.name() != "nginx"]


class TestTrouble:
    @EVERY
    @pytest.mark.parametrize("framing", ["length", "chunks"])
    @pytest.mark.parametrize("after", [0, 1, 3 * BLOCK])
    def test_a_pass_that_breaks_off_is_begun_anew_and_gone_on_with(self, server, url, concurrency, framing, after):
        server.heal()
        server.fail(Fault(whole=True, framing=framing, cut=after), times=2)
        server.fail(Fault(whole=True, framing=framing), times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, SIZE) == file.read()
        assert 3 == len(server.log)

    def test_an_object_that_is_replaced_meanwhile_is_an_error(self, server, url):
        server.heal()
        server.fail(Fault(whole=True, cut=2 * BLOCK), times=1)
        server.fail(Fault(whole=True), times=None)
        with getm.open(url) as file:
            assert ramp(0, 100) == file.read(100)
            server.put("/a.bin", SIZE)
            with pytest.raises(getm.ObjectChanged):
                file.read()
            assert ramp(0, BLOCK) == file.read_at(0, BLOCK)

    @FRAMINGS
    def test_an_object_that_is_larger_than_allowed_is_refused(self, server, url, framing):
        only_framed(server, framing)
        with pytest.raises(getm.RangeNotSupported, match="spool=1000000"):
            read_all(url, spool=1_000_000)
        with pytest.raises(getm.RangeNotSupported, match="ignored the range"):
            getm.open(url, spool=0)

    def test_the_file_has_no_name_and_goes_with_the_reader(self, url):
        file = getm.open(url)
        assert ramp(0, SIZE) == file.read()
        links = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")[:-1] if is_open(number)]
        assert any(link.startswith(tempfile.gettempdir()) and "(deleted)" in link for link in links)
        file.close()

    def test_closing_breaks_the_pass_off(self, server, url):
        server.heal()
        server.fail(Fault(whole=True, stall=2 * BLOCK), times=None)
        with getm.open(url) as file:
            assert ramp(0, BLOCK) == file.read(BLOCK)
        assert server.wait_for(lambda log: log[-1].finished)[-1].gone

    def test_a_full_disk_is_an_error_with_the_folder(self, url, tmp_path):
        code = f"""
import resource, signal, sys, getm
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
try:
    with getm.open({url!r}, concurrency=None) as file:
        file.read()
except OSError as error:
    print(type(error).__name__, error.errno, error.filename)
"""
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert f"OSError 27 {tmp_path}\n" == done.stdout

    def test_it_is_bounded_in_memory(self, server):
        url = server.put("/large.bin", 150 * MIB)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for part in getm.iter_content(url):
            assert len(part)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024


def written():
    """Return how many bytes this process has written to files so far."""
    return int(re.search(r"^wchar: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)[1])


def read_all(url, **options):
    with getm.open(url, **options) as file:
        return file.read()


def is_open(number):
    with contextlib.suppress(FileNotFoundError):
        return bool(Path(f"/proc/self/fd/{number}").readlink())
    return False
