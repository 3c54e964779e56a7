"""Ranges that a caller announces, or reads at once, and views of what is read."""

import random
import threading

import numpy as np
import pytest

import getm
from tests.content import ramp
from tests.servers.fault import Fault
from tests.test_fetching import at_once, ranges, take_first_block

KIB = 2**10
BLOCK = MIB = 2**20
LARGE = 2**40
EVERY = pytest.mark.parametrize("concurrency", [None, 1, 8], ids="concurrency-{}".format)


def scattered(count, length, *, seed=0, most=LARGE):
    chance = random.Random(seed)
    starts = [chance.randrange(BLOCK, most - length) for _ in range(count)]
    return [(start, start + length) for start in starts]


class TestPrefetch:
    def test_asks_for_all_at_once_and_returns(self, server):
        url = server.put("/a.bin", LARGE)
        spans = scattered(8, 200 * KIB)
        answer = threading.Event()
        server.fail(Fault(delay=answer), when=lambda request: request.start >= BLOCK, times=None)
        with getm.open(url, concurrency=8) as file:
            take_first_block(file)
            file.prefetch(spans)
            log = server.wait_for(lambda log: len(log) == 9)
            answer.set()
            for start, stop in spans:
                assert ramp(start, stop) == file.read_at(start, stop - start)
        assert 9 == len(server.log)
        assert {start - start % (16 * KIB) for start, _ in spans} == {request.start for request in log[1:]}

    def test_neighbours_are_asked_for_by_one_request(self, server):
        url = server.put("/a.bin", LARGE)
        spans = [(start, start + 10 * KIB) for start in range(2**30, 2**30 + MIB // 2, 50 * KIB)]
        with getm.open(url, concurrency=8) as file:
            take_first_block(file)
            file.prefetch(reversed(spans))
            server.wait_for(lambda log: len(log) == 2)
            for start, stop in spans:
                file.seek(start)
                assert ramp(start, stop) == file.read(stop - start)
        assert [(0, BLOCK), (2**30, 2**30 + 512 * KIB)] == ranges(server.log)

    def test_a_long_range_is_shared_by_all_connections(self, server):
        url = server.put("/a.bin", LARGE)
        with getm.open(url, concurrency=4) as file:
            take_first_block(file)
            file.prefetch([(2**30, 2**30 + 8 * MIB)])
            assert ramp(2**30, 2**30 + 8 * MIB) == file.read_at(2**30, 8 * MIB)
        assert {2**30 + number * 2 * MIB for number in range(4)} == {request.start for request in server.log[1:]}

    def test_what_it_asked_for_is_not_cancelled_by_reading_elsewhere(self, server):
        url = server.put("/a.bin", LARGE)
        spans = scattered(4, 100 * KIB)
        with getm.open(url, concurrency=8) as file:
            take_first_block(file)
            file.prefetch(spans)
            assert ramp(2**33, 2**33 + 10) == file.read_at(2**33, 10)
            for start, stop in spans:
                assert ramp(start, stop) == file.read_at(start, stop - start)
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert not any(request.gone for request in log)
        assert 6 == len(log)

    def test_what_a_caller_waits_for_goes_first(self, server):
        url = server.put("/a.bin", LARGE)
        answer = threading.Event()
        server.fail(Fault(delay=answer), when=lambda request: request.start >= 2**35, times=None)
        with getm.open(url, concurrency=2) as file:
            take_first_block(file)
            file.prefetch([(2**35 + number * MIB, 2**35 + number * MIB + 10) for number in range(8)])
            server.wait_for(lambda log: len(log) == 3)
            assert ramp(2**30, 2**30 + 10) == file.read_at(2**30, 10)
            answer.set()

    def test_more_than_memory_holds_comes_as_it_is_read(self, server, new_engine):
        url = server.put("/a.bin", LARGE)
        engine = new_engine(memory=8 * MIB)
        spans = sorted(scattered(40, MIB))
        with getm.open(url, concurrency=4, engine=engine) as file:
            file.prefetch(spans)
            for start, stop in spans:
                assert ramp(start, stop) == file.read_at(start, stop - start)
            assert file.stats.fetched <= 41 * (MIB + 32 * KIB)
        assert at_once(server.wait_for(lambda log: all(request.finished for request in log))) <= 4

    def test_what_cannot_be_had_fails_the_read_and_not_the_announcement(self, server):
        url = server.put("/a.bin", LARGE)
        server.fail(Fault(status=404), when=lambda request: request.start >= 2**30, times=None)
        with getm.open(url) as file:
            take_first_block(file)
            file.prefetch([(2**30, 2**30 + 10)])
            with pytest.raises(getm.NotFound):
                file.read_at(2**30, 10)
            server.heal()
            assert ramp(2**30, 2**30 + 10) == file.read_at(2**30, 10)

    @EVERY
    def test_of_nothing_and_beyond_the_end_is_harmless(self, server, concurrency):
        url = server.put("/a.bin", 3 * MIB)
        with getm.open(url, concurrency=concurrency) as file:
            file.prefetch([])
            file.prefetch([(5, 5), (7, 3), (3 * MIB, 4 * MIB), (3 * MIB - 1, 9 * MIB)])
            assert ramp(3 * MIB - 1, 3 * MIB) == file.read_at(3 * MIB - 1, 10)

    @pytest.mark.parametrize("wrong", [(-1, 5), (0, -1)])
    def test_of_a_negative_range_is_refused(self, server, wrong):
        with getm.open(server.put("/a.bin", 10)) as file:
            with pytest.raises(ValueError, match="negative"):
                file.prefetch([(0, 5), wrong])
            with pytest.raises(ValueError, match="negative"):
                file.read_ranges([(0, 5), wrong])

    def test_of_a_closed_reader_is_refused(self, server):
        file = getm.open(server.put("/a.bin", 10))
        file.close()
        for method in (file.prefetch, file.read_ranges, lambda _: file.read_buffer(1)):
            with pytest.raises(ValueError, match="closed"):
                method([])


class TestReadRanges:
    @EVERY
    def test_gives_each_in_the_order_asked_for(self, server, concurrency):
        url = server.put("/a.bin", LARGE)
        spans = [*scattered(30, 50 * KIB), *scattered(3, 3 * MIB, seed=1), (10, 10), (LARGE - 5, LARGE + 5), (0, 1)]
        spans += [spans[0], (spans[1][0] + 7, spans[1][1] + 7), (numpy := np.int64(BLOCK), numpy + 1)]
        with getm.open(url, concurrency=concurrency) as file:
            file.seek(17)
            parts = file.read_ranges(spans)
            assert 17 == file.tell()
        assert [ramp(int(start), min(int(stop), LARGE)) for start, stop in spans] == parts

    def test_has_as_many_requests_under_way_as_it_may(self, server):
        url = server.put("/a.bin", LARGE)
        server.fail(Fault(delay=0.05), times=None)
        with getm.open(url, concurrency=8) as file:
            file.read_ranges(scattered(40, 10 * KIB))
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert 6 <= at_once(log) <= 8

    def test_of_two_threads_are_right(self, server):
        url = server.put("/a.bin", LARGE)
        found = {}
        with getm.open(url) as file:

            def read(seed):
                found[seed] = file.read_ranges(scattered(20, 30 * KIB, seed=seed))

            threads = [threading.Thread(target=read, args=(seed,)) for seed in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for seed in (1, 2):
            assert [ramp(*span) for span in scattered(20, 30 * KIB, seed=seed)] == found[seed]


class TestReadBuffer:
    @EVERY
    @pytest.mark.parametrize("length", [0, 1, 10 * KIB, MIB, 3 * MIB + 1])
    def test_gives_a_view_that_stays_right(self, server, concurrency, length):
        url = server.put("/a.bin", 64 * MIB)
        with getm.open(url, concurrency=concurrency) as file:
            file.seek(MIB + 5)
            views = [file.read_buffer(length) for _ in range(3)]
            assert MIB + 5 + 3 * length == file.tell()
            file.read()
        for number, view in enumerate(views):
            start = MIB + 5 + number * length
            assert view.readonly
            assert ramp(start, start + length) == view

    def test_is_on_shared_memory_within_a_block(self, server):
        with getm.open(server.put("/a.bin", 64 * MIB)) as file:
            for block in range(1, 20):
                file.seek(block * MIB)
                file.read_buffer(MIB)
            assert 0 == file.stats.private

    def test_without_a_length_gives_what_is_left(self, server):
        with getm.open(server.put("/a.bin", 3 * MIB)) as file:
            file.seek(MIB)
            assert ramp(MIB, 3 * MIB) == file.read_buffer()
            assert b"" == bytes(file.read_buffer(5))

    def test_what_cannot_be_had_leaves_the_position(self, server):
        with getm.open(server.put("/a.bin", 64 * MIB)) as file:
            server.fail(Fault(status=404), when=lambda request: request.start >= MIB, times=None)
            file.seek(32 * MIB)
            with pytest.raises(getm.NotFound):
                file.read_buffer(MIB)
            assert 32 * MIB == file.tell()

    def test_counts_for_a_checksum(self, server):
        import hashlib

        promised = "sha256:" + hashlib.sha256(ramp(0, 3 * MIB)).hexdigest()
        with getm.open(server.put("/a.bin", 3 * MIB), checksum=promised) as file:
            while len(file.read_buffer(MIB // 2)):
                pass
            assert "the caller" == file.verified
