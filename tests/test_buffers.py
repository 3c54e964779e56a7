"""Memory that is received into: laid out well, and never used where copying to it takes its time."""

import ctypes
import mmap
import os

import pytest

import getm
from getm import buffers
from getm.engine.targets import DIRECT_LEAST
from tests.content import assert_ramp

PAGE = mmap.PAGESIZE
MIB = 2**20


@pytest.fixture
def picky(monkeypatch):
    monkeypatch.setattr(buffers, "_is_picky", lambda: True)


def address(view):
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


@pytest.mark.parametrize("length", [0, 1, 4095, MIB, 8 * MIB])
def test_a_buffer_has_its_length_and_large_ones_lie_well(picky, length):
    buffer = buffers.buffer(length)
    assert length == len(buffer)
    assert not buffer.readonly
    if length >= MIB:
        assert not buffers.is_slow(buffer, 0)


@pytest.mark.parametrize(
    ("shift", "is_slow"), [(0, False), (1, True), (16, True), (31, True), (32, False), (64, False), (4095, False)]
)
@pytest.mark.parametrize("offset", [0, 5, PAGE + 4090, 3 * PAGE])
def test_what_is_slow_is_told_by_the_places_in_their_pages(picky, shift, is_slow, offset):
    memory = memoryview(mmap.mmap(-1, 4 * PAGE))
    assert is_slow == buffers.is_slow(memory[(shift + offset) % PAGE :], offset)


def test_other_processors_are_slow_nowhere(monkeypatch):
    monkeypatch.setattr(buffers, "_is_picky", lambda: False)
    assert not buffers.is_slow(memoryview(mmap.mmap(-1, 4 * PAGE))[1:], 0)


def test_what_the_processor_is_like_is_found_out_without_leaving_anything():
    before = os.listdir("/proc/self/fd")
    buffers._is_picky.cache_clear()
    assert buffers._is_picky() in (True, False)
    assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize("block_size", [MIB, 64 * 5 * 64])
@pytest.mark.parametrize("shift", [0, 16])
def test_one_request_goes_on_wherever_the_callers_memory_lies(picky, server, shift, block_size):
    size = 6 * MIB
    memory = memoryview(mmap.mmap(-1, size + PAGE))[shift : shift + size]
    with getm.open(server.put("/a.bin", size), concurrency=None, block_size=block_size) as file:
        assert size == file.readinto(memory)
        assert_ramp(bytes(memory), 0)
    assert 2 == len(server.log)


@pytest.mark.parametrize("shift", [0, 16, 64])
def test_bytes_are_right_wherever_the_callers_memory_lies(picky, server, shift):
    size = 6 * MIB + 12_345
    memory = memoryview(mmap.mmap(-1, size + PAGE))[shift : shift + size]
    with getm.open(server.put("/a.bin", size), concurrency=None) as file:
        for length in (DIRECT_LEAST, 3 * MIB, size):
            start = file.tell()
            count = file.readinto(memory[start : start + length])
            assert_ramp(bytes(memory[start : start + count]), start)
        assert size == file.tell()
