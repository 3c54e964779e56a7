"""What is fetched next, for each pattern of reading; and what holds for any reads at all."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from getm.config import FETCH_LEAST, KIB, MIB, RUN_MOST
from getm.engine import planner as planning
from getm.engine.caller import AT_HAND
from getm.engine.planner import RAMP, Planner, Want

SIZE = 1 << 30
BLOCK = MIB
PIECE = BLOCK // 64
ROOM = 96 * MIB


def planner(size=SIZE, concurrency=8, room=ROOM, **options):
    planner = Planner(size, BLOCK, concurrency, **options)
    planner.allow(room)
    return planner


def missed(planner, start, length):
    """Read what is not there, and return what is wanted for it: the demand, and what is to be fetched ahead."""
    planner.read(start, start + length)
    planner.waited()
    first, *ahead = planner.wants([(start, start, start + length)])
    assert first.is_demand
    assert not any(want.is_demand for want in ahead)
    return first, ahead


def ranges(wants):
    return [(want.start, want.stop) for want in wants]


class TestSequence:
    def test_the_first_read_fetches_nothing_ahead(self):
        first, ahead = missed(planner(), 0, 10)
        assert (0, FETCH_LEAST) == (first.start, first.stop)
        assert [] == ahead

    def test_the_window_grows_with_what_was_read(self):
        reader = planner()
        widths = []
        for offset in range(0, 4 * MIB, 64 * KIB):
            _, ahead = missed(reader, offset, 64 * KIB)
            read = offset + 64 * KIB
            width = ahead[0].stop - read if ahead else 0
            assert width <= RAMP * read if read >= BLOCK else width <= read
            widths.append(width)
        assert sorted(widths) == widths
        assert 0 == widths[0]
        assert RAMP * 4 * MIB == widths[-1]

    def test_the_window_does_not_grow_while_the_reader_need_not_wait(self):
        reader = planner()
        missed(reader, 0, MIB)
        (width,) = {want.stop - MIB for want in reader.wants([])}
        for offset in range(MIB, 8 * MIB, MIB):
            reader.read(offset, offset + MIB)
            assert [(offset + MIB, offset + MIB + width)] == ranges(reader.wants([]))

    @pytest.mark.parametrize("room", [0, 1, PIECE, BLOCK, 3 * BLOCK])
    def test_the_window_is_no_wider_than_the_room(self, room):
        reader = planner(room=room)
        for offset in range(0, 16 * MIB, MIB):
            _, ahead = missed(reader, offset, MIB)
        assert ahead == [] if not room else ahead[0].stop - 16 * MIB == max(room, PIECE)

    def test_the_window_is_no_wider_than_a_run_for_each_connection_and_one_behind_them(self):
        reader = planner(room=SIZE)
        reader.observe(0.03, 10e6)  # a run of ten first-byte times: 3 MB
        for offset in range(0, 128 * MIB, MIB):
            _, ahead = missed(reader, offset, MIB)
        assert pytest.approx(9 * 3e6, abs=PIECE) == ahead[0].stop - 128 * MIB

    def test_runs_last_ten_first_byte_times(self):
        reader = planner(room=SIZE)
        reader.observe(0.1, 8e6)
        for offset in range(0, 64 * MIB, MIB):
            _, ahead = missed(reader, offset, MIB)
        assert 7 * MIB == ahead[0].run  # 8 MB, in whole blocks

    def test_runs_are_no_longer_than_a_connection_s_share_of_the_window(self):
        reader = planner()
        first, ahead = missed(reader, 0, 2 * MIB)
        assert 4 * MIB == first.run == ahead[0].run  # an eighth of sixteen times what was read
        reader.allow(4 * MIB)
        assert BLOCK == reader.run

    def test_runs_have_a_longest_length(self):
        reader = planner(room=SIZE, forward=True)
        reader.observe(10.0, 1e9)
        missed(reader, 0, 1)
        assert RUN_MOST == reader.run

    def test_a_short_skip_is_read_through(self):
        reader = planner()
        for offset in range(0, 4 * MIB, 256 * KIB):
            first, ahead = missed(reader, offset, 128 * KIB)
        assert reader.is_sequential
        assert first.is_open
        assert [(4 * MIB - 128 * KIB, True)] == [(want.start, want.is_open) for want in ahead]

    def test_a_skip_is_short_if_it_comes_in_one_first_byte_time(self):
        for gap, is_sequential in ((MIB, True), (MIB + 1, False)):
            reader = planner()
            reader.observe(0.5, 2.0 * MIB)
            missed(reader, 0, MIB)
            missed(reader, MIB + gap, 10)
            assert is_sequential == reader.is_sequential

    def test_one_long_read_behind_a_jump_is_no_sequence_but_another_behind_it_makes_one(self):
        reader = planner()
        _, ahead = missed(reader, SIZE // 2, 4 * MIB)
        assert [] == ahead
        _, ahead = missed(reader, SIZE // 2 + 4 * MIB, 10)
        assert [SIZE // 2 + 4 * MIB] == [want.start for want in ahead]

    def test_a_jump_ends_it(self):
        reader = planner()
        missed(reader, 0, 16 * MIB)
        _, ahead = missed(reader, SIZE // 2, 10)
        assert [] == ahead

    def test_nothing_is_wanted_behind_the_object_s_end(self):
        reader = planner(size=16 * MIB + 5)
        for offset in range(0, 16 * MIB, MIB):
            _, ahead = missed(reader, offset, MIB)
        assert [Want(16 * MIB, 16 * MIB + 5, is_demand=False, run=reader.run)] == ahead
        first, ahead = missed(reader, 16 * MIB, 5)
        assert 16 * MIB + 5 == first.stop
        assert [] == ahead

    def test_what_is_read_without_the_engine_is_part_of_it(self):
        reader = planner()
        missed(reader, 0, 10)
        reader.follow(MIB)
        missed(reader, MIB, 10)
        assert reader.is_sequential


class TestAlone:
    """What the calling thread fetches by itself before workers are up."""

    def test_it_gets_as_far_as_one_connection_brings_it_in_that_time(self):
        reader = planner()
        missed(reader, 0, MIB)
        reader.observe(0.03, 50e6)
        assert 5 * MIB == reader.reach(MIB, 0.1)
        assert MIB == reader.reach(MIB, 0.0)

    def test_but_no_further_than_is_worth_fetching(self):
        reader = planner()
        missed(reader, 0, MIB)
        (ahead,) = reader.wants([])
        assert ahead.stop == reader.reach(MIB, 0.1)  # nobody knows how fast it is
        reader.observe(0.0, 2e9)
        assert ahead.stop == reader.reach(MIB, 0.1)

    def test_the_end_need_not_be_that_of_a_block(self):
        reader = planner(size=4 * MIB + 5, forward=True)
        missed(reader, 0, 10)
        assert reader.reach(10, 0.1) > 4 * MIB
        reader.observe(0.0, 2e9)
        assert reader.reach(10, 0.1) > 4 * MIB

    def test_a_short_rest_needs_no_workers(self):
        reader = planner(size=8 * MIB)
        reader.read(0, MIB)
        assert not reader.is_short(0.1)
        reader.observe(0.03, 100 * MIB)
        assert reader.is_short(0.1)


class TestConnections:
    """Not more than help, of those that may be."""

    @pytest.fixture(autouse=True)
    def crowd(self, monkeypatch):
        monkeypatch.setattr(planning, "CROWD", 3)

    @pytest.mark.parametrize(("first_byte", "rate"), [(None, None), (0.03, None), (0.03, 1e9), (0.001, 20e6), (0.008, 90e6)])
    def test_all_to_a_distant_server_and_to_one_that_holds_back(self, first_byte, rate):
        reader = planner(forward=True)
        reader.observe(first_byte, rate)
        assert 8 == reader.connections

    @pytest.mark.parametrize("rate", [None, 1e9])
    def test_few_to_a_near_one(self, monkeypatch, rate):
        monkeypatch.setattr(planning, "WINDOW_NEAR", ROOM)
        reader = planner(forward=True)
        reader.observe(0.001, rate)
        assert 3 == reader.connections
        assert 1 == planner(concurrency=1).connections
        reader.waited()
        (want,) = reader.wants([])
        assert 4 == (want.stop - want.start) // reader.run

    @pytest.mark.parametrize(
        ("first_byte", "rate", "is_bounded"),
        [(0.001, None, True), (0.01, 1e9, True), (0.014, 60e6, False), (0.03, 1e9, False), (None, None, False)],
    )
    def test_little_is_ahead_of_a_near_one(self, first_byte, rate, is_bounded):
        reader = planner(forward=True)
        reader.observe(first_byte, rate)
        reader.waited()
        (want,) = reader.wants([])
        assert is_bounded == (want.stop - want.start <= planning.WINDOW_NEAR)

    def test_all_to_a_near_one_that_is_not_read_on(self):
        reader = planner()
        reader.observe(0.001, 1e9)
        reader.announce([(start, start + KIB) for start in range(MIB, SIZE, SIZE // 20)])
        assert 8 < len(reader.wants([])) < 20

    def test_it_is_near_though_it_was_slow_once(self):
        reader = planner(forward=True)
        for seconds in (0.2, 0.001, 0.2):
            reader.observe(seconds, None)
        assert 3 == reader.connections

    def test_it_is_held_back_from_now_on(self):
        reader = planner(forward=True)
        reader.observe(0.001, 200e6)
        assert 3 == reader.connections
        for _ in range(5):
            reader.observe(None, 20e6)
        assert 8 == reader.connections


class TestLate:
    """What another connection had better bring."""

    @pytest.mark.parametrize(("left", "rate"), [(40_000_000, 5e6), (3_000_000, 1e6), (1_000_000, 1e3)])
    def test_is_what_is_slower_than_usual(self, left, rate):
        reader = planner()
        reader.observe(0.030, 50e6)
        assert not reader.is_late(left, rate, 1.0)  # nobody knows yet
        reader.ended(50e6)
        assert reader.is_late(left, rate, 1.0)
        assert reader.is_late(left, 3 * rate, 3.0)
        assert not reader.is_late(left, rate / 10, 0.1)  # it comes to its rate by and by

    @pytest.mark.parametrize(("left", "rate"), [(10_000, 1e5), (500_000, 1e6), (200_000_000, 30e6), (7_000_000, 60e6)])
    def test_is_nothing_that_would_hardly_be_sooner(self, left, rate):
        reader = planner()
        reader.observe(0.030, 50e6)
        reader.ended(50e6)
        assert not reader.is_late(left, rate, 1.0)

    def test_is_nothing_where_all_are_slow(self):
        reader = planner()
        reader.observe(0.030, 50e6)
        reader.ended(50e6)
        for _ in range(8):
            reader.ended(100e3)
        assert not reader.is_late(40_000_000, 60e3, 1.0)
        for _ in range(8):
            reader.ended(50e6)
        assert reader.is_late(40_000_000, 60e3, 1.0)

    def test_is_nothing_before_a_server_that_begins_late_with_each(self):
        reader = planner()
        reader.observe(10.0, 50e6)
        reader.ended(50e6)
        assert not reader.is_late(4_000_000, 1e8, 100.0)


class TestSingleConnection:
    def test_sequential_reading_is_one_run_to_the_end(self):
        reader = planner(concurrency=1)
        first, ahead = missed(reader, 0, MIB)
        assert all(want.run >= SIZE and want.is_open for want in (first, *ahead))

    def test_a_stream_s_is_from_the_first_read(self):
        first, ahead = missed(planner(concurrency=1, forward=True), 0, 10)
        assert all(want.run >= SIZE and want.is_open for want in (first, *ahead))

    def test_a_jump_is_not(self):
        first, _ = missed(planner(concurrency=1), SIZE // 2, 10)
        assert (SIZE // 2, SIZE // 2 + FETCH_LEAST, False) == (first.start, first.stop, first.is_open)


class TestForward:
    def test_it_starts_with_the_widest_window(self):
        reader = planner(forward=True, room=SIZE)
        _, ahead = missed(reader, 0, 10)
        assert [(0, 9 * 8 * MIB + PIECE)] == ranges(ahead)
        for offset in range(10, 1000, 10):
            missed(reader, offset, 10)
        assert 9 * 8 * MIB + PIECE == reader.wants([])[0].stop

    def test_it_is_no_wider_than_the_room(self):
        _, ahead = missed(planner(forward=True, room=20 * MIB), 0, PIECE)
        assert [(PIECE, PIECE + 20 * MIB)] == ranges(ahead)


class TestJump:
    @pytest.mark.parametrize("start", [SIZE // 2, SIZE // 2 + 5, SIZE // 2 + PIECE - 1, SIZE // 3])
    @pytest.mark.parametrize("length", [1, PIECE, FETCH_LEAST, FETCH_LEAST + 1, 10 * FETCH_LEAST])
    def test_the_pieces_asked_for_are_fetched_and_no_less_than_64_kib(self, start, length):
        first, ahead = missed(planner(), start, length)
        low = start // PIECE * PIECE
        high = -(-(start + length) // PIECE) * PIECE
        assert (low, max(high, low + FETCH_LEAST)) == (first.start, first.stop)
        assert not first.is_open
        assert [] == ahead

    def test_far_misses_do_not_fetch_more(self):
        reader = planner()
        for start in (100 * MIB, 500 * MIB, 300 * MIB, 20 * MIB, 800 * MIB):
            first, _ = missed(reader, start, 10)
            assert (start, start + FETCH_LEAST) == (first.start, first.stop)

    def test_a_large_read_is_split_over_all_connections(self):
        first, _ = missed(planner(), SIZE // 2, 32 * MIB)
        assert (SIZE // 2, SIZE // 2 + 32 * MIB, 4 * MIB) == (first.start, first.stop, first.run)

    def test_a_read_that_is_not_so_large_is_split_over_fewer(self):
        first, _ = missed(planner(), SIZE // 2, 2 * MIB)
        assert MIB // 2 == first.run

    @pytest.mark.parametrize("start", [SIZE // 2, SIZE // 2 + 1, SIZE // 2 + PIECE - 1])
    def test_its_parts_are_alike(self, start):
        first, _ = missed(planner(), start, 650 * KIB)
        assert first.run * 2 - PIECE <= first.stop - first.start <= first.run * 2

    @pytest.mark.parametrize("concurrency", [1, 2, 7, 8])
    @pytest.mark.parametrize("length", [33 * MIB, 300 * MIB])
    def test_a_read_larger_than_the_room_is_split_over_all_connections_too(self, length, concurrency):
        """Its share of the whole read was longer than the room: one connection fetched, the others a few bytes at a time."""
        reader = planner(room=32 * MIB, concurrency=concurrency)
        start = SIZE // 2 + 5
        reader.read(start, start + length)
        asked = SIZE // 2
        for position in range(start, start + length, 100 * KIB):
            want = reader.demand(start, position, start + length)
            assert position < want.stop <= position + 32 * MIB + PIECE
            if asked == SIZE // 2:
                assert concurrency == -(-(want.stop - asked) // want.run)
            if want.stop < start + length:
                assert 0 == (want.stop - asked) % want.run
            asked = want.stop
        assert asked >= start + length

    def test_after_three_of_several_reads_the_next_fetches_as_much_as_each_of_them_had(self):
        reader = planner()
        starts = (100 * MIB, 500 * MIB, 300 * MIB, 200 * MIB, 800 * MIB)
        fetched = []
        for start, length in zip(starts, (400 * KIB, 3 * MIB, 608 * KIB, 512 * KIB, 512 * KIB), strict=True):
            first, ahead = missed(reader, start, 39)
            fetched.append(first.stop - first.start)
            assert [] == ahead
            rest, _ = missed(reader, start + 39, length - 39)
            assert max(start + length, first.stop) == rest.stop
        assert [64 * KIB, 64 * KIB, 64 * KIB, 400 * KIB, 512 * KIB] == fetched

    def test_but_no_more_than_a_block(self):
        reader = planner()
        for start in (100 * MIB, 500 * MIB, 300 * MIB, 200 * MIB):
            missed(reader, start, 39)
            missed(reader, start + 39, 3 * MIB)
        assert MIB == missed(reader, 700 * MIB, 39)[0].stop - 700 * MIB

    def test_without_room_a_block_is_fetched(self):
        first, _ = missed(planner(room=0), SIZE // 2, 32 * MIB)
        assert (SIZE // 2, SIZE // 2 + BLOCK) == (first.start, first.stop)

    @pytest.mark.parametrize("length", [100, 3 * MIB, 5 * MIB + 1])
    @pytest.mark.parametrize("block_size", [96 * KIB, 3 * MIB, 7 * MIB])
    def test_a_split_lies_between_pieces(self, block_size, length):
        """A run of 512 KiB ended within a piece of 48 KiB, and the next one was given a place before its first byte."""
        reader = Planner(SIZE, block_size, 8)
        reader.allow(ROOM)
        first, _ = missed(reader, 42 * block_size, length)
        assert first.run >= first.stop - first.start or 0 == first.run % (block_size // 64)


class TestNearMiss:
    def test_each_upwards_fetches_twice_as_much(self):
        reader = planner()
        start, lengths = SIZE // 2, []
        for _ in range(7):
            first, _ = missed(reader, start, 10)
            assert start // PIECE * PIECE == first.start
            lengths.append(first.stop - first.start)
            start += 300 * KIB + len(lengths)  # never the same distance: that would be a stride
        assert [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MIB, MIB, MIB] == lengths

    def test_each_downwards_fetches_twice_as_much_before_it(self):
        reader = planner()
        start, lengths = SIZE // 2, []
        for _ in range(6):
            first, _ = missed(reader, start, PIECE)
            lengths.append(first.stop - first.start)
            if len(lengths) > 1:
                assert start + PIECE == first.stop
                assert first.run >= lengths[-1], "what is asked for would come last"
            start -= 20 * PIECE + len(lengths) * PIECE
        assert [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MIB, MIB] == lengths

    def test_one_among_short_blocks_fetches_no_less_than_a_jump(self):
        reader = Planner(SIZE, 4 * KIB, 8)
        for start in (SIZE // 2, SIZE // 2 + 3 * KIB):
            first, _ = missed(reader, start, 10)
            assert FETCH_LEAST <= first.stop - first.start

    def test_a_far_one_begins_anew(self):
        reader = planner()
        for start in (SIZE // 2, SIZE // 2 + 300 * KIB, SIZE // 2 + 700 * KIB, 5 * MIB):
            first, _ = missed(reader, start, 10)
        assert (5 * MIB, 5 * MIB + FETCH_LEAST) == (first.start, first.stop)

    def test_near_the_beginning_nothing_before_it_is_wanted(self):
        reader = planner()
        for start in (900 * KIB, 500 * KIB, 100 * KIB):
            first, _ = missed(reader, start, PIECE)
        assert (0, 100 * KIB + PIECE) == (first.start, -(-first.stop // KIB) * KIB - 12 * KIB)


class TestStride:
    @pytest.mark.parametrize("distance", [5 * MIB, -5 * MIB, 3 * MIB + 1000, -(3 * MIB + 1000)])
    def test_after_three_equal_gaps_the_next_are_wanted_before_they_are_read(self, distance):
        reader = planner()
        starts = [SIZE // 2 + number * distance for number in range(5)]
        for start in starts[:4]:
            _, ahead = missed(reader, start, 1000)
        wanted = [(want.start, want.stop) for want in ahead]
        for number in range(9):  # the one being read, and one for each connection
            start = starts[3] + number * distance
            assert any(low <= start and start + 1000 <= high for low, high in wanted)
        assert 9 == len(wanted)
        assert all(high - low <= 2 * PIECE for low, high in wanted)

    def test_after_two_they_are_not(self):
        reader = planner()
        for number in range(3):
            _, ahead = missed(reader, SIZE // 2 + number * 5 * MIB, 1000)
        assert [] == ahead

    def test_the_demand_is_not_stretched(self):
        reader = planner()
        for number in range(4):
            first, _ = missed(reader, SIZE // 2 + number * 5 * MIB, PIECE)
        assert PIECE == first.stop - first.start

    def test_it_may_be_made_of_several_reads_each(self):
        reader = planner()
        for number in range(5):
            start = SIZE // 2 + number * 5 * MIB
            missed(reader, start, 1000)
            _, ahead = missed(reader, start + 1000, 500)
        assert any(want.start <= start + 5 * MIB < want.stop for want in ahead)

    def test_it_ends_with_a_gap_of_another_length(self):
        reader = planner()
        for number in range(6):
            missed(reader, SIZE // 2 + number * 5 * MIB, 1000)
        _, ahead = missed(reader, SIZE // 4, 1000)
        assert [] == ahead

    @pytest.mark.parametrize("distance", [5 * MIB, -5 * MIB])
    def test_it_ends_at_the_object_s_bounds(self, distance):
        reader = planner(size=40 * MIB)
        start = 20 * MIB - 3 * distance
        for number in range(5):
            _, ahead = missed(reader, start + number * distance, 1000)
        assert {20 * MIB + distance * number for number in range(1, 5)} - {40 * MIB} == {want.start for want in ahead}

    def test_it_keeps_to_the_room(self):
        reader = planner(room=5 * MIB)
        for number in range(5):
            _, ahead = missed(reader, number * 20 * MIB + MIB, 2 * MIB)
        assert 2 == len(ahead)


class TestWorth:
    WANTS = (Want(10 * MIB, 20 * MIB, is_demand=False, run=MIB),)

    @pytest.mark.parametrize(
        ("start", "stop", "is_worth"),
        [
            (10 * MIB, 20 * MIB, True),
            (15 * MIB, 16 * MIB, True),
            (19 * MIB, 500 * MIB, True),  # wanted at its beginning
            (9 * MIB, 12 * MIB, True),  # a block before is less than a new connection costs
            (9 * MIB - PIECE, 12 * MIB, False),
            (20 * MIB, 21 * MIB, False),
            (9 * MIB, 10 * MIB, False),
            (30 * MIB, 30 * MIB + PIECE, True),  # as good as done
            (30 * MIB, 30 * MIB + PIECE + 1, False),
        ],
    )
    def test_a_run_is_while_something_wanted_lies_at_its_beginning_or_it_is_nearly_done(self, start, stop, is_worth):
        assert is_worth == planner().is_worth(start, stop, self.WANTS)

    @pytest.mark.parametrize(("start", "is_worth"), [(20 * MIB, True), (21 * MIB, True), (21 * MIB + PIECE, False)])
    def test_a_run_is_that_has_filled_the_last_block_of_a_window(self, start, is_worth):
        wants = (Want(10 * MIB, 20 * MIB + PIECE, is_demand=False, run=4 * MIB, is_open=True),)
        assert is_worth == planner().is_worth(start, 500 * MIB, wants)

    def test_with_nothing_wanted_only_the_last_piece_is(self):
        assert not planner().is_worth(0, PIECE + 1, ())
        assert planner().is_worth(0, PIECE, ())


class Clock:
    """Tells a planner how a caller spends his time."""

    def __init__(self, reader):
        self._reader, self._now, self._fetched = reader, 0.0, 0
        reader.here(0.0, 0)

    def spend(self, away, here, count):
        self._now += away
        self._reader.away(self._now)
        self._now, self._fetched = self._now + here, self._fetched + count
        self._reader.here(self._now, self._fetched)


class TestAtHand:
    @pytest.fixture
    def reader(self, monkeypatch):
        """Return the planner of a reader who reads on, over two connections that help, and has measured nothing yet."""
        monkeypatch.setattr(planning, "CROWD", 2)
        reader = planner(concurrency=8)
        reader.observe(0.001, None)
        reader.read(0, MIB)
        return reader

    def test_is_what_comes_quickly_to_a_thread_that_only_reads(self, reader):
        assert reader.is_at_hand  # until something is known
        reader.observe(None, 2 * AT_HAND)
        clock = Clock(reader)
        for _ in range(100):
            clock.spend(0.01, 0.09, AT_HAND)
        assert reader.is_at_hand

    def test_is_not_who_sends_slowly(self, reader):
        reader.observe(None, AT_HAND - 1.0)
        assert not reader.is_at_hand

    def test_is_not_who_comes_to_send_slowly(self, reader):
        reader.observe(None, 2.0 * AT_HAND)
        reader.waited()
        clock = Clock(reader)
        clock.spend(0.0, 1.0, MIB)
        assert reader.is_at_hand  # once is not enough
        clock.spend(0.0, 1.0, MIB)
        assert not reader.is_at_hand
        assert reader.reach(MIB, 1.0) == 2 * MIB  # as far as it comes at that rate

    def test_is_not_for_who_computes(self, reader):
        reader.observe(None, 20.0 * AT_HAND)  # what had come while he was elsewhere
        assert reader.is_short(0.1)
        clock = Clock(reader)
        for _ in range(2):
            clock.spend(1.0, 0.0, 0)
            clock.spend(0.0, 1.0, SIZE)
        assert reader.is_at_hand  # not twice in a row
        clock.spend(1.0, 0.0, 0)
        clock.spend(1.0, 0.0, 0)
        assert not reader.is_at_hand
        assert not reader.is_short(0.1)
        clock.spend(0.0, 1.0, SIZE)
        assert not reader.is_at_hand

    def test_is_not_for_several_threads(self, reader):
        reader.share()
        assert not reader.is_at_hand

    def test_is_not_for_what_was_announced(self, reader):
        reader.announce([(SIZE // 2, SIZE)])
        assert not reader.is_at_hand

    def test_is_not_after_a_jump(self, reader):
        reader.read(SIZE // 2, SIZE // 2 + 1)
        assert not reader.is_at_hand

    def test_is_not_where_more_connections_help(self, reader, monkeypatch):
        monkeypatch.setattr(planning, "CROWD", 3)
        assert not reader.is_at_hand

    def test_is_not_who_is_distant(self, monkeypatch):
        monkeypatch.setattr(planning, "CROWD", 2)
        reader = planner(concurrency=8)
        reader.observe(0.03, None)
        reader.read(0, MIB)
        assert not reader.is_at_hand


class TestAnnounced:
    def test_is_wanted_in_order_after_what_is_waited_for(self):
        reader = planner()
        reader.announce([(100 * MIB, 101 * MIB), (10 * MIB, 11 * MIB)])
        first, ahead = missed(reader, 500 * MIB, 10)
        assert 500 * MIB == first.start
        assert [(10 * MIB, 11 * MIB), (100 * MIB, 101 * MIB)] == ranges(ahead)

    def test_neighbours_are_one(self):
        reader = planner()
        reader.announce([(4 * MIB, 5 * MIB), (5 * MIB + FETCH_LEAST, 6 * MIB), (6 * MIB + FETCH_LEAST + 1, 7 * MIB)])
        assert [(4 * MIB, 6 * MIB), (6 * MIB + FETCH_LEAST, 7 * MIB)] == ranges(reader.wants([]))

    def test_a_long_one_is_shared_by_all_connections(self):
        reader = planner(concurrency=4)
        reader.announce([(8 * MIB, 40 * MIB)])
        (want,) = reader.wants([])
        assert 8 * MIB == want.run

    def test_no_more_of_it_is_wanted_than_there_is_room_for(self):
        reader = planner(room=8 * MIB)
        reader.announce([(number * 32 * MIB, number * 32 * MIB + 5 * MIB) for number in range(1, 5)])
        assert [(32 * MIB, 37 * MIB), (64 * MIB, 67 * MIB)] == ranges(reader.wants([]))

    def test_what_has_come_takes_room_until_it_is_read(self):
        reader = planner(room=8 * MIB)
        reader.announce([(number * 32 * MIB, number * 32 * MIB + 5 * MIB) for number in range(1, 5)])
        reader.came(32 * MIB, 37 * MIB)
        assert [(64 * MIB, 67 * MIB)] == ranges(reader.wants([]))
        reader.read(32 * MIB, 37 * MIB)
        reader.read(500 * MIB, 501 * MIB)
        assert [(64 * MIB, 69 * MIB), (96 * MIB, 99 * MIB)] == ranges(reader.wants([]))

    def test_what_was_read_is_wanted_no_more(self):
        reader = planner()
        reader.announce([(32 * MIB, 40 * MIB)])
        reader.read(34 * MIB, 36 * MIB)
        reader.read(500 * MIB, 501 * MIB)
        assert [(32 * MIB, 34 * MIB), (36 * MIB, 40 * MIB)] == ranges(reader.wants([]))

    def test_no_more_of_it_is_wanted_at_once_than_there_are_connections_for(self):
        reader = planner(concurrency=4)
        reader.announce([(number * MIB, number * MIB + 1) for number in range(1, 1000)])
        assert 5 == len(reader.wants([]))

    def test_ends_with_the_object(self):
        reader = planner(size=10 * MIB)
        reader.announce([(9 * MIB, 99 * MIB), (11 * MIB, 12 * MIB), (3 * MIB, 3 * MIB)])
        assert [(9 * MIB, 10 * MIB)] == ranges(reader.wants([]))


# Whatever is read.


KINDS = ["onward", "skip", "near", "jump", "stride", "follow", "waited", "observe", "allow", "announce", "came"]


@st.composite
def readers(draw):
    """Draw how a planner is made, and what is done to it; offsets are within the object."""
    block_size = draw(st.sampled_from([4 * KIB, 96 * KIB, MIB, 3 * MIB]))
    size = draw(st.one_of(st.integers(1, 10 * block_size), st.integers(1, SIZE)))
    near = st.integers(-2 * block_size, 2 * block_size)
    position, stride = 0, draw(near)
    steps = []
    for kind in draw(st.lists(st.sampled_from(KINDS), max_size=25)):
        if kind in ("onward", "skip", "near", "jump", "stride"):
            start = {"skip": position + 3000, "stride": position + stride}.get(kind, position)
            start = draw(st.integers(0, size)) if kind == "jump" else start + draw(near) if kind == "near" else start
            start = min(max(start, 0), size - 1)
            position = min(size, start + draw(st.sampled_from([1, 1000, 64 * KIB, MIB, 8 * MIB, SIZE])))
            steps.append(("read", start, position))
        elif kind == "follow":
            position = min(size, position + draw(st.integers(0, block_size)))
            steps.append(("follow", position))
        elif kind == "observe":
            steps.append(
                ("observe", draw(st.sampled_from([None, 1e-6, 0.03, 5.0])), draw(st.sampled_from([None, 1.0, 5e7, 1e12])))
            )
        elif kind in ("announce", "came"):
            spans = st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted).map(tuple)
            some = draw(st.lists(spans, min_size=1, max_size=4))
            steps.append(("announce", some) if kind == "announce" else ("came", *some[0]))
        elif kind == "allow":
            steps.append(("allow", draw(st.sampled_from([0, 1, block_size, 3 * block_size, ROOM]))))
        else:
            steps.append((kind,))
    made = (size, block_size, draw(st.sampled_from([1, 2, 8])), draw(st.booleans()))
    return made, steps


def play(made, steps, asked=()):
    """Make a planner and do steps; *asked* is what it is asked for on the way."""
    size, block_size, concurrency, is_forward = made
    planner = Planner(size, block_size, concurrency, forward=is_forward)
    for name, *args in steps:
        getattr(planner, name)(*args)
        for demands in asked:
            planner.wants(demands)
            planner.is_worth(0, size, [planner.demand(*demand) for demand in demands])
    return planner


@st.composite
def readers_with_demands(draw):
    made, steps = draw(readers())
    offsets = st.integers(0, made[0])
    spans = st.tuples(offsets, offsets, offsets).map(sorted).map(tuple)
    demands = draw(st.lists(spans.filter(lambda demand: demand[1] < demand[2]), max_size=3))
    reads = [step for step in steps if step[0] == "read"]
    if reads and draw(st.booleans()):
        _, start, stop = reads[-1]
        demands.append((start, start, stop))
    return made, steps, demands


@given(readers_with_demands())
@settings(max_examples=400, deadline=None)
@example(((10 * MIB, 3 * MIB, 8, False), [("read", 5 * MIB, 6 * MIB)], [(5 * MIB, 5 * MIB, 6 * MIB)]))
def test_what_is_wanted_can_be_fetched(drawn):
    (size, block_size, concurrency, is_forward), steps, demands = drawn
    planner = play((size, block_size, concurrency, is_forward), steps)
    room = next((step[1] for step in reversed(steps) if step[0] == "allow"), 0)
    piece = block_size // 64
    wants = planner.wants(demands)

    for want in wants:
        assert 0 <= want.start < want.stop <= size
        assert 0 == want.start % piece
        assert want.stop == size or 0 == want.stop % piece
        assert want.run > 0
        assert want.run >= want.stop - want.start or 0 == want.run % piece
    assert [True] * len(demands) + [False] * (len(wants) - len(demands)) == [want.is_demand for want in wants]
    most = max(room - room % piece, block_size)
    for (_, position, stop), want in zip(demands, wants, strict=False):
        assert want.start <= position
        assert min(stop, position + 1 + most - min(want.run, most)) <= want.stop
        assert want.stop >= (stop if stop - position <= most else position + 1)
        assert want.stop - want.start <= most + max(block_size, FETCH_LEAST) + 2 * piece
        assert planner.is_worth(want.start, want.stop, wants)
    ahead = wants[len(demands) :]
    assert len(ahead) <= 2 * (concurrency + 1)
    assert sum(want.stop - want.start for want in ahead) <= room + 2 * piece * len(ahead)
    if concurrency == 1:
        assert all(want.run >= size for want in wants if want.is_open)


@given(readers_with_demands())
@settings(max_examples=100, deadline=None)
def test_asking_changes_nothing(drawn):
    made, steps, demands = drawn
    assert play(made, steps).wants(demands) == play(made, steps, [demands, []]).wants(demands)


@given(readers())
@settings(max_examples=100, deadline=None)
def test_nothing_is_wanted_that_was_read_in_sequence(drawn):
    made, steps = drawn
    planner = play(made, steps)
    if planner.is_sequential and not any(name == "announce" for name, *_ in steps):
        position = next((step[-1] for step in reversed(steps) if step[0] in ("read", "follow")), 0)
        assert all(want.stop > position for want in planner.wants([]))
