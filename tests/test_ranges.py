"""Range arithmetic, against sets of bytes."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from getm.ranges import (
    ALL_PIECES,
    PIECES,
    ContentRange,
    block_parts,
    ceil,
    coalesce,
    cut,
    floor,
    missing_parts,
    overlap,
    parse_content_range,
    pieces_touched,
    pieces_whole,
    present_around,
    present_until,
    range_header,
    subtract,
)

GRAINS = st.integers(1, 40)
OFFSETS = st.integers(0, 3000)
BITS = st.one_of(
    st.integers(0, ALL_PIECES),
    st.sampled_from([0, ALL_PIECES, 1, 1 << PIECES - 1, ALL_PIECES >> 1, ALL_PIECES - 1]),
    st.sets(st.integers(0, PIECES - 1), max_size=5).map(lambda there: ALL_PIECES - sum(1 << piece for piece in there)),
)


@st.composite
def ranges(draw, most=200, least=0):
    """Draw a range of at least *least* bytes below *most*."""
    start = draw(st.integers(0, most - least))
    return start, draw(st.integers(start + least, most))


@st.composite
def parts_of_a_block(draw):
    """Draw the bytes of a piece, and a range that is not empty within a block of such pieces."""
    piece = draw(st.integers(1, 9))
    return piece, *draw(ranges(PIECES * piece, 1))


def pieces_of(bits):
    return {piece for piece in range(PIECES) if bits >> piece & 1}


def bytes_of(bits, piece):
    return {byte for index in pieces_of(bits) for byte in range(index * piece, (index + 1) * piece)}


@given(OFFSETS, GRAINS)
def test_floor_and_ceil_are_the_multiples_around(offset, grain):
    multiples = range(0, offset + grain + 1, grain)
    assert max(multiple for multiple in multiples if multiple <= offset) == floor(offset, grain)
    assert min(multiple for multiple in multiples if multiple >= offset) == ceil(offset, grain)


@given(ranges(3000), GRAINS)
def test_block_parts_are_the_bytes_of_the_range_in_order_one_part_a_block(span, block_size):
    parts = list(block_parts(*span, block_size))
    assert list(range(*span)) == [block * block_size + byte for block, first, last in parts for byte in range(first, last)]
    assert sorted({byte // block_size for byte in range(*span)}) == [block for block, _, _ in parts]


@given(parts_of_a_block())
def test_pieces_touched_hold_a_byte_of_the_range(part):
    piece, first, last = part
    assert {byte // piece for byte in range(first, last)} == pieces_of(pieces_touched(first, last, piece))


@given(parts_of_a_block(), st.data())
def test_pieces_whole_are_within_the_range_and_the_object(part, data):
    piece, first, last = part
    length = data.draw(st.integers(last, PIECES * piece))
    there = set(range(first, last))
    whole = pieces_of(pieces_whole(first, last, piece, length))
    for index in range(PIECES):
        held = set(range(index * piece, min(length, (index + 1) * piece)))
        if held:
            assert (held <= there) == (index in whole)
        else:  # behind the object's end: there as soon as the end is
            assert (last == length) == (index in whole)


@given(GRAINS, st.data())
def test_pieces_of_a_last_block_that_come_one_by_one_add_up_to_a_whole_block(piece, data):
    length = data.draw(st.integers(1, PIECES * piece))
    cuts = data.draw(st.sets(st.integers(0, length - 1).map(lambda offset: floor(offset, piece)), max_size=6))
    stops = [*sorted(cuts | {0}), length]
    bits = 0
    for first, last in pairwise(stops):
        bits |= pieces_whole(first, last, piece, length)
    assert ALL_PIECES == bits


@given(BITS, parts_of_a_block())
def test_missing_parts_are_the_touched_pieces_that_are_not_there_neighbours_together(present, part):
    piece, first, last = part
    parts = list(missing_parts(present, first, last, piece))
    touched = {byte // piece for byte in range(first, last)}
    assert touched - pieces_of(present) == {byte // piece for low, high in parts for byte in range(low, high)}
    assert all(0 == bound % piece for bounds in parts for bound in bounds)
    assert all(low < high for low, high in parts)
    assert all(one[1] < other[0] for one, other in pairwise(parts))


@given(BITS, parts_of_a_block())
def test_present_until_is_the_first_byte_that_is_not_there(present, part):
    piece, first, _ = part
    there = bytes_of(present, piece)
    assert next(byte for byte in range(first, PIECES * piece + 1) if byte not in there) == present_until(
        present, first, piece
    )


@given(BITS, parts_of_a_block())
@example(0b01, (16, 16 + 3, 64))  # pieces below were taken to reach up to the byte, whose own is not there
def test_present_around_is_the_widest_range_there(present, part):
    piece, first, _ = part
    there = bytes_of(present, piece)
    low, high = present_around(present, first, piece)
    if first not in there:
        assert low == high
        return
    assert set(range(low, high)) <= there
    assert low <= first < high
    assert low - 1 not in there
    assert high not in there


@given(ranges(), st.lists(ranges(), max_size=6))
def test_subtract_leaves_the_bytes_that_nobody_took(wanted, taken):
    rest = subtract(wanted, taken)
    gone = {byte for start, stop in taken for byte in range(start, stop)}
    assert sorted(set(range(*wanted)) - gone) == [byte for start, stop in rest for byte in range(start, stop)]
    assert all(start < stop for start, stop in rest)


def test_subtract_keeps_neighbours_together_across_a_taken_range_that_is_empty():
    assert [(0, 10)] == subtract((0, 10), [(5, 5)])


@given(ranges(60, 1), ranges(60, 1))
def test_overlap_is_a_byte_in_both(one, other):
    assert bool(set(range(*one)) & set(range(*other))) == overlap(one, other)


# Range and Content-Range.


@given(ranges(3000, 1), st.one_of(st.none(), st.integers(0, 3000)))
def test_what_a_server_answers_to_a_range_header_says_that_range(span, behind):
    header = range_header(*span)
    first, last = map(int, header.removeprefix("bytes=").split("-"))
    assert set(range(*span)) == set(range(first, last + 1))
    size = None if behind is None else span[1] + behind
    text = f"bytes {first}-{last}/{'*' if size is None else size}"
    assert ContentRange(*span, size) == parse_content_range(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bytes 0-0/1", ContentRange(0, 1, 1)),
        ("bytes 5-9/*", ContentRange(5, 10, None)),
        ("bytes */0", ContentRange(None, None, 0)),
        ("bytes */1234", ContentRange(None, None, 1234)),
        ("BYTES 0-9/10", ContentRange(0, 10, 10)),
        ("  bytes\t0 - 9 / 10 ", ContentRange(0, 10, 10)),
        ("bytes 000-009/0010", ContentRange(0, 10, 10)),
        ("bytes 9223372036854775806-9223372036854775806/9223372036854775807", ContentRange(2**63 - 2, 2**63 - 1, 2**63 - 1)),
    ],
)
def test_content_range_is_understood(text, said):
    assert said == parse_content_range(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes ",
        "bytes 0-9",
        "bytes=0-9/10",
        "bytes0-9/10",
        "bytes 0-9/",
        "bytes -9/10",
        "bytes 0-/10",
        "bytes 9-0/10",  # backwards
        "bytes 0-10/10",  # beyond the end
        "bytes 10-10/10",
        "bytes 0-0/0",
        "bytes */*",
        "bytes +1-2/10",
        "bytes 1_0-11/20",
        "bytes 0x1-2/10",
        "bytes 1.0-2/10",
        "bytes \u0660-\u0669/\u0661\u0660",  # digits, but not of ASCII
        "bytes 0-9/10, 20-29/30",
        "bytes 0-9/10\0",
        "items 0-9/10",
        "bytes " + "9" * 5000 + "-" + "9" * 5000 + "/*",  # int() refuses so many digits
    ],
)
def test_other_content_ranges_say_nothing(text):
    assert parse_content_range(text) is None


PARTS = st.sampled_from(["bytes", "Bytes", " ", "\t", "*", "/", "-", "0", "1", "09", "10", "9" * 20, "=", ",", "é"])
LIKELY = st.from_regex(r"bytes (\d+-\d+|\*)/(\d+|\*)", fullmatch=True)


@given(st.one_of(st.text(), st.lists(PARTS, max_size=10).map("".join), LIKELY))
def test_content_range_never_raises_and_never_contradicts_itself(text):
    said = parse_content_range(text)
    if said is None:
        return
    assert (said.start is None) == (said.stop is None)
    if said.start is None or said.stop is None:
        assert said.size is not None
        assert said.size >= 0
        return
    assert 0 <= said.start < said.stop
    assert said.size is None or said.stop <= said.size


@given(st.lists(ranges(), max_size=8), st.integers(0, 30))
def test_coalesced_ranges_hold_the_same_bytes_and_the_gaps_that_are_short(spans, gap):
    spans = [span for span in spans if span[0] < span[1]]
    merged = coalesce(spans, gap)
    there = {byte for span in spans for byte in range(*span)}
    assert there <= {byte for span in merged for byte in range(*span)}
    assert all(one[1] + gap < other[0] for one, other in pairwise(merged))
    assert {span[0] for span in merged} <= {span[0] for span in spans}
    assert {span[1] for span in merged} <= {span[1] for span in spans}
    if gap == 0:
        assert there == {byte for span in merged for byte in range(*span)}


@given(st.lists(ranges(), max_size=8), ranges())
def test_what_is_cut_out_and_what_stays_are_all_there_was(spans, span):
    left = coalesce(span for span in spans if span[0] < span[1])
    there = {byte for each in left for byte in range(*each)}
    parts = cut(left, *span)
    assert there & set(range(*span)) == {byte for part in parts for byte in range(*part)}
    assert there - set(range(*span)) == {byte for each in left for byte in range(*each)}
    assert left == sorted(left)
    assert all(start < stop for start, stop in (*left, *parts))
