"""Streams hand out views of the memory that the bytes were received in, and those stay right."""

import gc
import io
import threading

import numpy as np
import pytest

import getm
from getm.engine import default
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

BLOCK = MIB = 2**20
CONCURRENCIES = [None, 1, 8]
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3]

EVERY = pytest.mark.parametrize("concurrency", CONCURRENCIES, ids="concurrency-{}".format)


def address(view):
    return np.frombuffer(view, np.uint8).__array_interface__["data"][0]


def is_shared(view, engine):
    """Tell whether a view lies in the engine's memory."""
    arena = engine._hub.core.memory.arena
    first = address(arena.memory)
    return first <= address(view) and address(view) + len(view) <= first + arena.slots * arena.slot_size


@pytest.fixture
def url(server):
    return server.put("/a.bin", 8 * BLOCK)


class TestRead:
    @EVERY
    @pytest.mark.parametrize("length", [333_333, BLOCK, 2 * BLOCK + 1])
    def test_every_part_but_the_last_is_whole(self, server, concurrency, length):
        for size in SIZES:
            with getm.urlopen(server.put(f"/{size}", size), concurrency=concurrency) as stream:
                assert size == stream.size
                for start in range(0, size, length):
                    part = stream.read(length)
                    assert isinstance(part, memoryview)
                    assert ("B", 1, True) == (part.format, part.ndim, part.readonly)
                    assert min(length, size - start) == len(part)
                    assert_ramp(part, start)
                    assert start + len(part) == stream.tell()
                assert (b"", size) == (stream.read(length), stream.tell())

    @EVERY
    @pytest.mark.parametrize("arguments", [(), (-1,)], ids=str)
    def test_all_that_is_left_is_read_at_once(self, server, concurrency, arguments):
        for size in SIZES:
            with getm.urlopen(server.put(f"/{size}", size), concurrency=concurrency) as stream:
                start = len(stream.read(size // 3))
                rest = stream.read(*arguments)
                assert size - start == len(rest)
                assert_ramp(rest, start)
                assert b"" == stream.read()

    @EVERY
    def test_nothing_is_read_of_no_length(self, url, concurrency):
        with getm.urlopen(url, concurrency=concurrency) as stream:
            assert (b"", 0) == (stream.read(0), stream.tell())
            assert 0 == stream.readinto(bytearray())
            assert ramp(0, 1) == stream.read(1)

    @EVERY
    def test_buffers_are_filled(self, server, concurrency):
        buffer = np.zeros((3, 100_000), np.uint32)
        for size in SIZES:
            with getm.urlopen(server.put(f"/{size}", size), concurrency=concurrency) as stream:
                for start in [*range(0, size, buffer.nbytes), size]:
                    length = stream.readinto(buffer)
                    assert min(buffer.nbytes, size - start) == length
                    assert_ramp(memoryview(buffer).cast("B")[:length], start)

    @pytest.mark.parametrize(
        ("buffer", "error"), [(bytes(5), TypeError), (memoryview(bytearray(9))[::2], BufferError), ("text", TypeError)]
    )
    def test_other_buffers_are_refused(self, url, buffer, error):
        with getm.urlopen(url) as stream:
            with pytest.raises(error):
                stream.readinto(buffer)
            assert 0 == stream.tell()

    def test_reading_and_filling_may_be_mixed(self, url):
        with getm.urlopen(url) as stream:
            buffer = bytearray(100_000)
            for start in range(0, 6_000_000, 200_000):
                assert_ramp(stream.read(100_000), start)
                stream.readinto(buffer)
                assert_ramp(buffer, start + 100_000)

    @pytest.mark.parametrize("wrong", [1.5, "1", b""], ids=repr)
    def test_what_is_no_integer_is_refused(self, url, wrong):
        with getm.urlopen(url) as stream:
            with pytest.raises(TypeError):
                stream.read(wrong)
            assert np.int64(5) == len(stream.read(np.int64(5)))

    def test_other_block_sizes_read_the_same(self, url):
        for block_size in (4096, 65_536, 2**19):
            with getm.urlopen(url, concurrency=2, block_size=block_size) as stream:
                for start in range(0, 8 * BLOCK, 700_000):
                    assert_ramp(stream.read(700_000), start)

    def test_a_failure_moves_nothing_and_is_not_remembered(self, server, url):
        server.fail(Fault(status=500), when=lambda request: request.start >= BLOCK, times=None)
        with getm.urlopen(url, retries=0) as stream:
            assert_ramp(stream.read(BLOCK), 0)
            for _ in range(2):
                with pytest.raises(getm.BadStatus, match="500"):
                    stream.read(BLOCK)
                with pytest.raises(getm.BadStatus):
                    stream.readinto(bytearray(10))
                assert BLOCK == stream.tell()
            server.heal()
            rest = stream.read()
            assert 7 * BLOCK == len(rest)
            assert_ramp(rest, BLOCK)

    def test_it_says_what_it_is(self, url):
        with getm.urlopen(url + "?key=SECRET") as stream:
            stream.read(10)
            assert ("a.bin", url, 8 * BLOCK) == (stream.name, stream.url, stream.size)
            assert f"<getm.Stream {url!r} at 10 of {8 * BLOCK}>" == repr(stream)
        assert "closed" in repr(stream)


class TestClose:
    @EVERY
    def test_is_final_and_may_be_repeated(self, url, concurrency):
        with getm.urlopen(url, concurrency=concurrency) as stream:
            part = stream.read(100)
            assert not stream.closed
        stream.close()
        assert stream.closed
        for refused in (stream.read, lambda: stream.read(0), lambda: stream.readinto(bytearray(1)), stream.__enter__):
            with pytest.raises(ValueError, match="closed"):
                refused()
        assert_ramp(part, 0)

    def test_of_one_stream_does_not_disturb_another(self, url):
        with getm.urlopen(url, concurrency=2) as stream:
            stream.read(BLOCK)
            with getm.urlopen(url, concurrency=2) as other:
                other.read(2 * BLOCK)
            rest = stream.read()
            assert_ramp(rest, BLOCK)


class TestParts:
    @EVERY
    @pytest.mark.parametrize("chunk_size", [BLOCK, 65_536, 999_983, 2 * BLOCK + 7])
    def test_every_one_but_the_last_has_the_size_asked_for(self, server, concurrency, chunk_size):
        for size in SIZES:
            sizes = []
            for part in getm.iter_content(server.put(f"/{size}", size), chunk_size, concurrency=concurrency):
                assert_ramp(part, sum(sizes))
                sizes.append(len(part))
            assert [chunk_size] * (size // chunk_size) + [size % chunk_size] * (size % chunk_size > 0) == sizes

    @EVERY
    def test_each_is_released_at_the_next_step(self, url, concurrency):
        parts = getm.iter_content(url, 100_003, concurrency=concurrency)
        before = next(parts)
        for part in parts:
            with pytest.raises(ValueError, match="released"):
                before[0]
            before = part
        with pytest.raises(ValueError, match="released"):
            before[0]

    def test_what_was_made_of_one_stays_right(self, url):
        arrays = [np.frombuffer(part[10:-10], np.uint8) for part in map(memoryview, getm.iter_content(url))]
        for number, array in enumerate(arrays):
            assert_ramp(array, number * BLOCK + 10)

    @EVERY
    def test_none_is_copied_if_their_size_divides_the_block(self, server, concurrency):
        engine = default(concurrency)
        for chunk_size in (BLOCK, BLOCK // 2, BLOCK // 64, 4096):
            url = server.put(f"/{chunk_size}", 3 * BLOCK)
            assert all(is_shared(part, engine) for part in getm.iter_content(url, chunk_size, concurrency=concurrency))

    def test_none_is_copied_in_a_long_object_either(self, server):
        url = server.put("/a.bin", 150 * BLOCK)
        engine = default(8)
        assert all(is_shared(part, engine) for part in getm.iter_content(url, concurrency=8))

    def test_one_over_a_boundary_of_blocks_may_be(self, url):
        sizes = [len(part) for part in getm.iter_content(url, BLOCK + 1)]
        assert [BLOCK + 1] * 7 + [BLOCK - 7] == sizes

    def test_the_stream_is_closed_at_the_end_and_when_it_is_left(self, server, url):
        for parts in (getm.iter_content(url), getm.iter_content(url, concurrency=8)):
            next(parts)
            parts.close()
        assert [] == default(8)._hub.feeds
        server.wait_for(lambda log: all(request.finished for request in log))
        assert 8 == len([None for _ in getm.iter_content(url)])
        assert [] == default(8)._hub.feeds

    @pytest.mark.parametrize("chunk_size", [0, -1, 1.5, None, True])
    def test_a_size_that_cannot_be_is_refused_at_once(self, server, url, chunk_size):
        with pytest.raises(getm.UsageError):
            getm.iter_content(url, chunk_size)
        assert [] == server.log

    def test_a_missing_object_is_told_at_once(self, server):
        with pytest.raises(getm.NotFound):
            getm.iter_content(server.url + "/none")


class TestViews:
    @EVERY
    def test_stay_right_while_everything_goes_on(self, server, concurrency, new_engine):
        url, other = server.put("/a.bin", 24 * BLOCK), server.put("/other.bin", 12 * BLOCK)
        engine = new_engine(memory=8 * BLOCK, processes=0 if concurrency is None else 8)
        stream = getm.urlopen(url, concurrency=concurrency, engine=engine)
        held = []
        for start in range(0, 24 * BLOCK, BLOCK // 2):
            part = stream.read(BLOCK // 2)
            assert_ramp(part, start)
            if start < 4 * BLOCK or start % 3 == 0:
                held.append((start, part))
        with getm.open(other, engine=engine, concurrency=concurrency) as file:
            assert_ramp(file.read(), 0)
        for start, part in held:
            assert_ramp(part, start)
        stream.close()
        with getm.open(other, engine=engine, concurrency=concurrency) as file:
            assert_ramp(file.read(), 0)
        engine.close()
        with getm.open(other, engine=engine, concurrency=concurrency) as file:
            assert_ramp(file.read(), 0)
        for start, part in held:
            assert_ramp(part, start)

    @pytest.mark.usefixtures("workers_at_once")
    @pytest.mark.parametrize("step", [BLOCK // 3, BLOCK, 2 * BLOCK])
    @pytest.mark.parametrize("door", ["urlopen", "open"])
    @EVERY
    def test_that_are_held_cost_no_byte_twice(self, server, concurrency, new_engine, door, step):
        size = 60 * BLOCK
        url = server.put("/a.bin", size)
        engine = new_engine(memory=16 * BLOCK, processes=0 if concurrency is None else 8)
        with getattr(getm, door)(url, concurrency=concurrency, engine=engine) as file:
            read = file.read if door == "urlopen" else file.read_buffer
            hoard = list(iter(lambda: read(step), b""))
            assert size + BLOCK >= file.stats.fetched
        assert size == sum(map(len, hoard))
        for number, part in enumerate(hoard):
            assert_ramp(part, number * step)

    @EVERY
    def test_that_are_all_hoarded_become_private_and_stop_nobody(self, server, concurrency, new_engine):
        size = 20 * BLOCK
        url, other = server.put("/a.bin", size), server.put("/other.bin", size)
        engine = new_engine(memory=8 * BLOCK, processes=0 if concurrency is None else 8)
        with getm.urlopen(url, concurrency=concurrency, engine=engine) as stream:
            hoard = [stream.read(BLOCK) for _ in range(20)]
            shared = sum(is_shared(part, engine) for part in hoard)
            assert 2 <= shared <= 4
            assert engine.memory <= 8 * BLOCK
            with getm.open(other, concurrency=concurrency, engine=engine) as file:
                assert_ramp(file.read(), 0)
            with getm.urlopen(other, concurrency=concurrency, engine=engine) as second:
                more = [second.read(BLOCK) for _ in range(20)]
                assert not any(is_shared(part, engine) for part in more)
            for number, (part, another) in enumerate(zip(hoard, more, strict=True)):
                assert_ramp(part, number * BLOCK)
                assert_ramp(another, number * BLOCK)
            hoard.clear()
            more.clear()
            del part, another
        with getm.urlopen(other, concurrency=concurrency, engine=engine) as stream:
            assert is_shared(stream.read(BLOCK), engine)

    def test_that_are_hoarded_by_several_threads_stop_nobody(self, server, new_engine):
        engine = new_engine(memory=4 * BLOCK, processes=4)
        urls = [server.put(f"/{number}", 6 * BLOCK) for number in range(4)]
        done = []

        def work(url):
            with getm.urlopen(url, engine=engine, concurrency=2) as stream:
                hoard = [stream.read(300_000) for _ in range(20)]
                for number, part in enumerate(hoard):
                    assert_ramp(part, number * 300_000)
                done.append(url)

        threads = [threading.Thread(target=work, args=(url,), daemon=True) for url in urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(done) == sorted(urls)

    @EVERY
    def test_give_their_memory_back_when_they_are_released_or_forgotten(self, server, concurrency, new_engine):
        url = server.put("/a.bin", 24 * BLOCK)
        engine = new_engine(memory=4 * BLOCK, processes=0 if concurrency is None else 2)
        with getm.urlopen(url, concurrency=concurrency, engine=engine) as stream:
            for number in range(24):
                part = stream.read(BLOCK)
                assert is_shared(part, engine)
                if number % 2:
                    part.release()
                del part

    def test_hold_their_memory_as_long_as_anything_made_of_them(self, server, new_engine):
        url = server.put("/a.bin", 40 * BLOCK)
        engine = new_engine(memory=8 * BLOCK)
        with getm.urlopen(url, engine=engine) as stream:
            with stream.read(BLOCK) as part:
                array = np.frombuffer(part[100:200], np.uint8)[::2]
            with stream.read(BLOCK) as part:
                words = part[:800].cast("Q")
            for start in range(2 * BLOCK, 40 * BLOCK, BLOCK):
                assert_ramp(stream.read(BLOCK), start)
            assert ramp(100, 200)[::2] == array.tobytes()
            assert_ramp(words, BLOCK)
        del array, words, part

    def test_cannot_be_written(self, url):
        with getm.urlopen(url) as stream:
            part = stream.read(100)
            with pytest.raises(TypeError):
                part[0] = 1
            with pytest.raises(ValueError, match="read-only"):
                np.frombuffer(part, np.uint8)[0] = 1
            with pytest.raises((TypeError, BufferError)):
                io.BytesIO(b"x" * 10).readinto(part)

    def test_in_a_cycle_of_garbage_are_harmless(self, url):
        with getm.urlopen(url, concurrency=2) as stream:
            for start in range(0, 8 * BLOCK, BLOCK):
                cycle = [stream.read(BLOCK)]
                cycle.append(cycle)
                assert_ramp(cycle[0], start)
        del cycle
        gc.collect()

    @EVERY
    def test_over_several_blocks_are_right(self, url, concurrency):
        with getm.urlopen(url, concurrency=concurrency) as stream:
            stream.read(BLOCK - 50)
            part = stream.read(100)
            assert_ramp(part, BLOCK - 50)
            part = stream.read(4 * BLOCK)
            assert_ramp(part, BLOCK + 50)


def test_a_stream_that_was_forgotten_is_closed(server, url):
    stream = getm.urlopen(url, concurrency=2)
    stream.read(2 * BLOCK)
    del stream
    gc.collect()
    default(8)._hub.let_go()
    assert [] == default(8)._hub.feeds
