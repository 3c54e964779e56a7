"""Any slice of the content checks itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.content import PIECE, assert_ramp, ramp, write_ramp

WHOLE = ramp(0, 3 * PIECE)
OFFSETS = st.integers(0, len(WHOLE))


@given(OFFSETS, OFFSETS)
def test_slice_is_the_same_wherever_it_is_made(start, stop):
    assert WHOLE[start:stop] == ramp(start, stop)
    assert_ramp(WHOLE[start:stop], min(start, len(WHOLE)))


def test_no_word_occurs_twice():
    words = memoryview(WHOLE).cast("Q").tolist()
    assert len(words) == len(set(words))


def test_seeds_differ_everywhere():
    other = ramp(0, len(WHOLE), seed=1)
    assert not set(memoryview(WHOLE).cast("Q").tolist()) & set(memoryview(other).cast("Q").tolist())


def test_file_has_the_content(tmp_path):
    write_ramp(tmp_path / "file", 2 * PIECE + 3)
    assert ramp(0, 2 * PIECE + 3) == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("wrong", [0, 7, PIECE - 5, PIECE, 2 * PIECE + 2])
def test_first_wrong_offset_is_named(wrong):
    damaged = bytearray(ramp(5, 2 * PIECE + 8))
    damaged[wrong:] = bytes(byte ^ 1 for byte in damaged[wrong:])
    with pytest.raises(AssertionError, match=rf"wrong byte at offset {wrong + 5} \(byte {wrong} of {2 * PIECE + 3}\)"):
        assert_ramp(damaged, 5)


def test_shifted_content_is_wrong():
    with pytest.raises(AssertionError, match="offset 8 "):
        assert_ramp(WHOLE[:100], 8)
