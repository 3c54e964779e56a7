"""What a binary file object does when it is read: suites to inherit.

Whoever inherits gives a fixture `make`: called with bytes, it opens a file on them and sees to it that it is closed.
"""

import array
import ctypes
import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.content import assert_ramp, ramp

BLOCK = 2**20
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 3]
CONTENT = ramp(0, 1000)
TEXT = b"first\n\nthird, with a \r in it\r\n" + b"long " * 100 + b"\nlast, without an end"

WRITABLE_BUFFERS = {
    "bytearray": lambda: bytearray(600),
    "memoryview": lambda: memoryview(bytearray(700))[50:650],
    "memoryview of words": lambda: memoryview(bytearray(600)).cast("I"),
    "array of words": lambda: array.array("I", bytes(600)),
    "ctypes bytes": ctypes.c_ubyte * 600,
    "ctypes words": ctypes.c_uint32 * 150,
    "numpy bytes": lambda: np.zeros(600, np.uint8),
    "numpy 3-d": lambda: np.zeros((5, 15, 2), np.uint32),
    "numpy 0-d": lambda: np.zeros((), "V600"),
    "numpy big-endian": lambda: np.zeros(150, ">u4"),
    "numpy records": lambda: np.zeros(100, [("a", "<u2"), ("b", "<f4")]),
    "numpy row": lambda: np.zeros((3, 600), np.uint8)[1],
}
REFUSED_BUFFERS = {
    "every other byte": lambda: memoryview(bytearray(20))[::2],
    "numpy column": lambda: np.zeros((5, 4), np.uint8)[:, 1],
    "numpy reversed": lambda: np.zeros(10, np.uint8)[::-1],
    "numpy Fortran": lambda: np.zeros((4, 5), np.uint8, order="F"),
    "bytes": lambda: bytes(10),
    "read-only numpy": lambda: np.frombuffer(bytes(10), np.uint8),
    "text": lambda: "0123456789",
    "number": lambda: 10,
}


class Index:
    """An integer of somebody else's."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


class FileContract:
    """What every binary file object does that can be read and sought in."""

    @pytest.mark.parametrize("size", SIZES)
    def test_whole_content_is_read_at_once(self, make, size):
        file = make(ramp(0, size))
        content = file.read()
        assert size == len(content)
        assert_ramp(content, 0)
        assert (b"", b"", size) == (file.read(), file.read(1), file.tell())

    @pytest.mark.parametrize("size", SIZES)
    def test_parts_are_whole_and_in_order(self, make, size):
        file = make(ramp(0, size))
        for start in range(0, size, 333_333):
            part = file.read(333_333)
            assert min(333_333, size - start) == len(part)
            assert_ramp(part, start)
        assert b"" == file.read(333_333)

    @pytest.mark.parametrize("size", SIZES)
    def test_readinto_fills_the_buffer(self, make, size):
        file = make(ramp(0, size))
        buffer = bytearray(BLOCK + 5)
        for start in [*range(0, size, len(buffer)), size]:
            length = file.readinto(buffer)
            assert min(len(buffer), size - start) == length
            assert_ramp(memoryview(buffer)[:length], start)

    @pytest.mark.parametrize("arguments", [(), (-1,), (None,), (-7,), (10**6,)], ids=str)
    def test_read_returns_all_that_is_left(self, make, arguments):
        file = make(CONTENT)
        file.seek(10)
        assert CONTENT[10:] == file.read(*arguments)
        assert len(CONTENT) == file.tell()

    @pytest.mark.parametrize("position", [0, 500, len(CONTENT), len(CONTENT) + 5])
    def test_nothing_is_read_of_no_length(self, make, position):
        file = make(CONTENT)
        file.seek(position)
        assert (b"", b"", b"", 0) == (file.read(0), file.read1(0), file.readline(0), file.readinto(bytearray()))
        assert position == file.tell()

    @pytest.mark.parametrize("integer", [Index, np.int64, np.uint8], ids=lambda type_: type_.__name__)
    def test_integers_may_be_of_any_type(self, make, integer):
        file = make(CONTENT)
        assert 7 == file.seek(integer(7))
        assert type(file.tell()) is int
        assert CONTENT[7:19] == file.read(integer(12))
        assert len(CONTENT) - 3 == file.seek(-3, 2)
        assert len(CONTENT) == file.seek(integer(3), 1)

    @pytest.mark.parametrize("wrong", [1.5, "1", b"1"], ids=repr)
    def test_what_is_no_integer_is_refused(self, make, wrong):
        file = make(CONTENT)
        file.seek(5)
        for method in (file.read, file.readline, file.read1, file.seek):
            with pytest.raises(TypeError):
                method(wrong)
        with pytest.raises(TypeError):
            file.seek(None)
        assert 5 == file.tell()

    @pytest.mark.parametrize("name", WRITABLE_BUFFERS)
    def test_readinto_takes_any_contiguous_buffer(self, make, name):
        file = make(CONTENT)
        buffer = WRITABLE_BUFFERS[name]()
        assert 600 == file.readinto(buffer)
        assert CONTENT[:600] == memoryview(buffer).tobytes()

    @pytest.mark.parametrize("name", WRITABLE_BUFFERS)
    def test_readinto_leaves_the_rest_of_the_buffer_alone(self, make, name):
        file = make(CONTENT[:301])
        buffer = WRITABLE_BUFFERS[name]()
        assert 301 == file.readinto(buffer)
        assert CONTENT[:301] + bytes(299) == memoryview(buffer).tobytes()

    @pytest.mark.parametrize("name", REFUSED_BUFFERS)
    def test_readinto_refuses_other_buffers(self, make, name):
        file = make(CONTENT)
        file.seek(5)
        with pytest.raises((BufferError, TypeError)):
            file.readinto(REFUSED_BUFFERS[name]())
        assert 5 == file.tell()

    def test_read1_returns_something_until_the_end(self, make):
        content = ramp(0, 2 * BLOCK + 3)
        file = make(content)
        parts = list(iter(lambda: file.read1(100_000), b""))
        assert max(map(len, parts)) <= 100_000
        assert content == b"".join(parts)
        file.seek(-10, 2)
        assert content[-10:] == file.read1()
        assert b"" == file.read1(-1)

    @pytest.mark.parametrize("arguments", [(), (-1,), (None,)], ids=str)
    def test_readline_ends_after_a_newline_or_at_the_end(self, make, arguments):
        file = make(TEXT)
        lines = list(iter(lambda: file.readline(*arguments), b""))
        assert io.BytesIO(TEXT).readlines() == lines

    def test_readline_stops_at_its_limit(self, make):
        file = make(b"12345\n7\n")
        assert [b"123", b"45\n", b"7\n", b""] == [file.readline(limit) for limit in (3, 3, 100, 3)]

    def test_line_may_be_longer_than_a_block(self, make):
        lines = [b"a" * (BLOCK + 10) + b"\n", b"b" * (BLOCK - 12) + b"\n", b"\n", b"end"]
        assert lines == list(make(b"".join(lines)))

    @pytest.mark.parametrize("hint", [None, -1, 0, 1, 8, 10**6])
    def test_readlines_stops_after_its_hint(self, make, hint):
        assert io.BytesIO(TEXT).readlines(hint) == make(TEXT).readlines(hint)

    def test_iteration_goes_over_lines_and_may_be_mixed_with_reads(self, make):
        file = make(TEXT)
        assert b"first\n" == next(file)
        assert 6 == file.tell()
        assert b"\n" == file.read(1)
        assert io.BytesIO(TEXT).readlines()[2:] == list(file)
        with pytest.raises(StopIteration):
            next(file)
        file.seek(0)
        assert b"first\n" == next(file)

    def test_whoever_iterates_may_ask_where_he_is_and_go_elsewhere(self, make):
        lines = io.BytesIO(TEXT).readlines()
        file = make(TEXT)
        position = 0
        for line, expected in zip(file, lines[:3], strict=False):
            assert expected == line
            position += len(line)
            assert position == file.tell()
        assert lines[3 + 1 :] == list(file)  # zip has asked for one more
        file.seek(0)
        lines_of_file = iter(file)
        assert lines[0] == next(lines_of_file)
        assert lines[1] == file.readline()
        assert lines[2] == next(lines_of_file)
        assert lines[3][:2] == file.read(2)
        assert lines[3][2:] == next(lines_of_file)
        file.seek(len(lines[0]))
        assert lines[1] == next(lines_of_file)
        assert lines[2] == next(iter(file))
        assert lines[3] == next(lines_of_file)
        file.seek(0, io.SEEK_END)
        assert [] == list(lines_of_file)

    def test_iterating_ends_with_the_file(self, make):
        file = make(TEXT)
        lines = iter(file)
        next(lines)
        file.close()
        with pytest.raises(ValueError, match="closed"):
            next(lines)

    @pytest.mark.parametrize(
        ("offset", "whence", "position"),
        [(0, 0, 0), (20, 0, 20), (20, 1, 120), (-100, 1, 0), (0, 2, 1000), (-1000, 2, 0), (-1, 2, 999), (5, 2, 1005)],
    )
    def test_seek_goes_from_the_start_from_here_or_from_the_end(self, make, offset, whence, position):
        file = make(CONTENT)
        file.seek(100)
        assert position == file.seek(offset, whence)
        assert position == file.tell()
        assert CONTENT[position : position + 10] == file.read(10)

    @pytest.mark.parametrize("distance", [0, 1, BLOCK, 2**62])
    def test_nothing_is_read_past_the_end(self, make, distance):
        file = make(CONTENT)
        position = file.seek(len(CONTENT) + distance)
        assert (b"", b"", b"", b"") == (file.read(), file.read(1), file.readline(), file.read1(1))
        assert (0, []) == (file.readinto(bytearray(10)), list(file))
        assert len(CONTENT) + distance == position == file.tell()

    def test_seek_before_the_start_is_refused_and_nothing_moves(self, make):
        file = make(CONTENT)
        file.seek(100)
        with pytest.raises(ValueError):
            file.seek(-1)
        assert 100 == file.tell()
        assert CONTENT[100:110] == file.read(10)

    @pytest.mark.parametrize("whence", [-1, 5, 99])
    def test_seek_from_anywhere_else_is_refused_and_nothing_moves(self, make, whence):
        file = make(CONTENT)
        file.seek(100)
        with pytest.raises(ValueError):
            file.seek(0, whence)
        assert 100 == file.tell()

    def test_file_tells_what_it_can(self, make):
        file = make(CONTENT)
        assert isinstance(file, io.IOBase)
        assert (True, True, False) == (file.readable(), file.seekable(), file.isatty())
        file.flush()
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()

    def test_closing_is_final_and_may_be_repeated(self, make):
        file = make(CONTENT)
        assert not file.closed
        file.close()
        file.close()
        assert file.closed

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            *[
                ("read", ()),
                ("read", (0,)),
                ("read1", (1,)),
                ("readinto", (bytearray(1),)),
                ("readinto", (bytearray(),)),
            ],
            *[("readline", ()), ("readlines", ()), ("__next__", ()), ("seek", (0,)), ("tell", ())],
            *[("readable", ()), ("seekable", ()), ("isatty", ()), ("flush", ()), ("__enter__", ())],
        ],
    )
    def test_closed_file_refuses(self, make, name, arguments):
        file = make(CONTENT)
        file.close()
        with pytest.raises(ValueError):
            getattr(file, name)(*arguments)

    def test_context_manager_closes(self, make):
        with make(CONTENT) as file:
            assert CONTENT == file.read()
        assert file.closed
        with pytest.raises(ZeroDivisionError), make(CONTENT) as file:
            raise ZeroDivisionError
        assert file.closed

    @pytest.mark.parametrize("newline", [None, "", "\n", "\r\n"], ids=repr)
    def test_text_wrapper_reads_it(self, make, newline):
        content = "ÄÖÜ\r\nzweite Zeile\n\n€uro".encode() * 10_000
        expected = list(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=newline))
        with io.TextIOWrapper(make(content), "utf-8", newline=newline) as text:
            assert expected == list(text)
            text.seek(0)
            assert expected[0] == text.readline()
            place = text.tell()
            assert expected[1] == text.readline()
            text.seek(place)
            assert "".join(expected[1:]) == text.read()
        assert text.buffer.closed

    @pytest.mark.parametrize("buffer_size", [1, 100, 2 * BLOCK])
    def test_buffered_reader_reads_it(self, make, buffer_size):
        content = ramp(0, BLOCK + 100)
        with io.BufferedReader(make(content), buffer_size) as buffered:
            assert content[:10] == buffered.read(10)
            assert content[10:11] == buffered.peek(1)[:1]
            assert content[10:300_000] == buffered.read(299_990)
            buffered.seek(-50, 2)
            assert content[-50:] == buffered.read()
            buffered.seek(5)
            assert content[5:] == buffered.read()
        assert buffered.raw.closed

    def test_copyfileobj_copies_it(self, make):
        content = ramp(0, BLOCK + 1)
        target = io.BytesIO()
        shutil.copyfileobj(make(content), target)
        assert content == target.getvalue()


class ReadOnlyFileContract(FileContract):
    """What one that is read-only and raw does on top.

    io.BytesIO is neither, and takes a negative position for 0.
    """

    @pytest.mark.parametrize(("offset", "whence"), [(-101, 1), (-1001, 2), (np.int64(-101), 1), (Index(-1), 0)])
    def test_no_seek_goes_before_the_start(self, make, offset, whence):
        file = make(CONTENT)
        file.seek(100)
        with pytest.raises(ValueError):
            file.seek(offset, whence)
        assert 100 == file.tell()
        assert CONTENT[100:110] == file.read(10)

    def test_nothing_can_be_written(self, make):
        file = make(CONTENT)
        assert not file.writable()
        for write in (
            lambda: file.write(b"x"),
            lambda: file.writelines([b"x"]),
            file.truncate,
            lambda: file.truncate(0),
        ):
            with pytest.raises(io.UnsupportedOperation):
                write()
        assert CONTENT == file.read()

    @pytest.mark.parametrize("size", SIZES)
    def test_readall_returns_all_that_is_left(self, make, size):
        file = make(ramp(0, size))
        start = file.seek(size // 2)
        content = file.readall()
        assert size - start == len(content)
        assert_ramp(content, start)
        assert b"" == file.readall()

    @pytest.mark.parametrize("position", [0, 1, BLOCK - 1, BLOCK])
    def test_peek_shows_what_comes_and_moves_nothing(self, make, position):
        content = ramp(0, BLOCK + 1)
        file = make(content)
        file.seek(position)
        for arguments in [(), (0,), (1,), (100,)]:
            peeked = file.peek(*arguments)
            assert len(peeked) >= 1
            assert content[position : position + len(peeked)] == peeked
        assert position == file.tell()
        file.seek(0, 2)
        assert b"" == file.peek(1)

    @pytest.mark.parametrize("name", ["write", "writelines", "truncate", "readall", "peek", "writable"])
    def test_closed_file_refuses_this_too(self, make, name):
        file = make(CONTENT)
        file.close()
        with pytest.raises(ValueError):
            getattr(file, name)(*([b"x"] if name.startswith("write") else []))


class RandomOperationsContract:
    """Whatever is done to a file, in whatever order, it does what io.BytesIO does."""

    def test_random_operations_have_the_results_of_bytesio(self, make):
        largest = 5 * 65_536
        sizes = st.one_of(st.integers(0, 100), st.integers(0, largest))
        contents = st.one_of(sizes, st.sampled_from([65_535, 65_536, 65_537, 3 * 65_536]))
        operations = st.one_of(
            st.tuples(st.just("read"), st.one_of(st.none(), st.just(-1), sizes)),
            st.tuples(st.just("readinto"), sizes),
            st.tuples(st.just("readline"), st.one_of(st.just(-1), sizes)),
            st.tuples(st.just("read1"), sizes),
            st.tuples(st.just("seek"), sizes, st.just(0)),
            st.tuples(st.just("seek"), st.integers(-largest, largest), st.sampled_from([1, 2])),
        )

        @settings(max_examples=60, deadline=None)
        @given(contents, st.lists(operations, max_size=30))
        def agree(size, operations):
            content = ramp(0, size)
            expected = io.BytesIO(content)
            with make(content) as file:
                for operation in operations:
                    apply(operation, expected, file)
                    assert expected.tell() == file.tell(), operation

        agree()


def apply(operation, expected, file):
    """Do the same to both files, and compare what they return."""
    name, *arguments = operation
    if name == "readinto":
        buffers = bytearray(arguments[0]), bytearray(arguments[0])
        assert expected.readinto(buffers[0]) == file.readinto(buffers[1]), operation
        assert same(*buffers), operation
    elif name == "read1":  # may return less, but for the end
        part = file.read1(*arguments)
        assert len(part) <= arguments[0]
        assert same(expected.read(len(part)), part), operation
        assert part or not arguments[0] or not expected.read(1), operation
    elif name == "seek":
        here = {0: 0, 1: expected.tell(), 2: len(expected.getbuffer())}[arguments[1]]
        if here + arguments[0] >= 0:  # io.BytesIO takes any other for 0
            assert expected.seek(*arguments) == file.seek(*arguments), operation
    else:
        assert same(getattr(expected, name)(*arguments), getattr(file, name)(*arguments)), operation


def same(expected, found):
    """Compare outside of the assert, which would take its time to explain a difference of many bytes."""
    return expected == found
