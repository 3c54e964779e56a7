"""What is handed out in order from the first byte to the last has the digest that was promised, or the last part is not."""

import base64
import contextlib
import hashlib
import itertools
import logging
import os
import pickle
import threading
import zlib

import numpy as np
import pytest
from awscrt import checksums

import getm
from getm import integrity
from getm.engine import default
from tests.content import ramp
from tests.contract import CONTENT, RandomOperationsContract, ReadOnlyFileContract
from tests.servers.fault import Fault
from tests.test_interrupt import Interrupt
from tests.threads import in_thread

BLOCK = MIB = 2**20
SIZE = 2 * BLOCK + 7
WHOLE = ramp(0, SIZE)
LINES = b"".join(b"%d: %s\n" % (number, b"x" * (number % 90)) for number in range(4000)) + b"no end"
SMALL_BLOCKS = {"block_size": 65_536}
EMPTY_MD5 = hashlib.md5().hexdigest()

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)


def md5(content):
    return "md5:" + hashlib.md5(content).hexdigest()


def crc32c(content):
    return "crc32c:" + checksums.crc32c(content).to_bytes(4, "big").hex()


WRONG = md5(b"other")
CHUNK_SIZES = [4999, 65_536, BLOCK, BLOCK + 1, 10 * BLOCK]
DIGESTS = {
    "md5": md5,
    "md5 in base64": lambda content: "md5:" + base64.b64encode(hashlib.md5(content).digest()).decode(),
    "bare": lambda content: hashlib.sha256(content).hexdigest(),
    "crc32c": crc32c,
    "crc32": lambda content: f"crc32={zlib.crc32(content):08x}",
}
HEADERS = {
    "x-goog-hash": lambda content: "crc32c=" + encoded(crc32c(content)) + ",md5=" + encoded(md5(content)),
    "Repr-Digest": lambda content: "sha-256=:" + base64.b64encode(hashlib.sha256(content).digest()).decode() + ":",
    "Digest": lambda content: "md5=" + encoded(md5(content)),
    "x-ms-blob-content-md5": lambda content: encoded(md5(content)),
}


def encoded(checksum):
    return base64.b64encode(bytes.fromhex(checksum.partition(":")[2])).decode()


def until_empty(read):
    return list(iter(read, b""))


def into(file, length):
    """Return what reads the next part by readinto."""

    def read():
        buffer = bytearray(length)
        return bytes(buffer[: file.readinto(buffer)])

    return read


# Each reads a file to its end, in parts.
WAYS = {
    "read": lambda file: [file.read()],
    "read in parts": lambda file: until_empty(lambda: file.read(100_003)),
    "small reads": lambda file: until_empty(lambda: file.read(4000)),
    "readall": lambda file: [file.readall()],
    "read1": lambda file: until_empty(file.read1),
    "read1 in parts": lambda file: until_empty(lambda: file.read1(300_000)),
    "readinto": lambda file: until_empty(into(file, 65_537)),
    "readinto a little": lambda file: until_empty(into(file, 5000)),
    "readline": lambda file: until_empty(file.readline),
    "iteration": list,
    "readlines": lambda file: file.readlines(),
    "all of them": lambda file: [
        *(file.read(10), file.readline(), next(file), file.read1(10), into(file, 10)(), *file.readlines(1000)),
        *(*itertools.islice(file, 100), file.peek() and file.readall()),
    ],
}


class Buffered:
    """A buffered reader, and a name of those that raw ones have: `readall`."""

    def __init__(self, file):
        self._file = file

    def readall(self):
        return self._file.read()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __iter__(self):
        return iter(self._file)

    def __next__(self):
        return next(self._file)


@pytest.fixture
def warned(caplog):
    """Return what returns the warnings so far."""
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("getm")
    ]


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


def assert_refused(read, position, tell):
    """Check that a part is not handed out, nor at the next try, and nothing moves."""
    for _ in range(2):
        with pytest.raises(getm.IntegrityError):
            read()
        assert position == tell()


class TestRightDigest:
    @EVERY
    def test_is_seen_however_a_file_is_read(self, server, warned, concurrency):
        for way, read in WAYS.items():
            url = server.put("/" + way.replace(" ", "-"), LINES)
            with getm.open(url, checksum=md5(LINES), concurrency=concurrency, **SMALL_BLOCKS) as file:
                assert file.verified is None
                assert LINES == b"".join(read(file)), way
                assert "the caller" == file.verified, way
                assert b"" == file.read()
                assert "the caller" == file.verified
        assert [] == warned()

    def test_is_seen_through_a_buffer(self, server, warned):
        url = server.put("/a.txt", LINES)
        for way, read in WAYS.items():
            with getm.open(url, buffering=-1, checksum=md5(LINES)) as file:
                assert LINES == b"".join(read(Buffered(file))), way
                assert "the caller" == file.raw.verified, way
        assert [] == warned()

    @pytest.mark.parametrize("read", [lambda text: text.read(), "".join, lambda text: "".join(text.readlines())])
    def test_is_seen_through_text(self, server, warned, read):
        url = server.put("/a.txt", LINES)
        with getm.open(url, "r", checksum=md5(LINES), concurrency=None) as text:
            assert LINES.decode() == read(text)
            assert "the caller" == text.buffer.raw.verified
        assert [] == warned()

    @EVERY
    def test_is_seen_by_a_stream(self, url, warned, concurrency):
        for length in (100_003, BLOCK, SIZE - 1, SIZE, 2 * SIZE):
            with getm.urlopen(url, checksum=md5(WHOLE), concurrency=concurrency) as stream:
                while stream.tell() < SIZE:
                    assert stream.verified is None
                    assert WHOLE[stream.tell() :][:length] == stream.read(length)
                assert "the caller" == stream.verified
            with getm.urlopen(url, checksum=md5(WHOLE), concurrency=concurrency) as stream:
                assert WHOLE == b"".join(until_empty(into(stream, length)))
                assert "the caller" == stream.verified
        with getm.urlopen(url, checksum=md5(WHOLE), concurrency=concurrency) as stream:
            assert WHOLE == stream.read()
            assert "the caller" == stream.verified
        assert [] == warned()

    @EVERY
    def test_lets_all_parts_pass(self, url, concurrency):
        for chunk_size in CHUNK_SIZES:
            parts = getm.iter_content(url, chunk_size, checksum=md5(WHOLE), concurrency=concurrency)
            assert WHOLE == b"".join(map(bytes, parts))

    @pytest.mark.parametrize("form", DIGESTS)
    def test_may_be_of_any_form(self, url, form):
        with getm.open(url, checksum=DIGESTS[form](WHOLE), concurrency=None) as file:
            file.read()
            assert "the caller" == file.verified

    @pytest.mark.parametrize("header", HEADERS)
    def test_may_be_the_servers(self, server, header):
        url = server.put("/a.bin", SIZE, {header: HEADERS[header](WHOLE)})
        with (
            getm.open(url, checksum="auto", concurrency=None) as file,
            getm.urlopen(url, checksum="auto", concurrency=None) as stream,
        ):
            file.read()
            stream.read()
            assert (header, header) == (file.verified, stream.verified)

    @pytest.mark.parametrize("header", ["x-amz-checksum-crc32c", "Content-MD5"])
    def test_may_be_that_of_an_answer_that_is_the_whole_object(self, server, header):
        digest = {"Content-MD5": md5, "x-amz-checksum-crc32c": crc32c}[header](CONTENT)
        url = server.put("/a.bin", CONTENT, {header: encoded(digest), "x-amz-checksum-type": "FULL_OBJECT"})
        with getm.open(url, checksum="auto", concurrency=None) as file:
            file.read()
            assert header == file.verified

    def test_may_be_an_etag_of_parts(self, server, warned):
        halves = b"".join(hashlib.md5(WHOLE[start : start + 5 * MIB]).digest() for start in range(0, SIZE, 5 * MIB))
        etag = f'"{hashlib.md5(halves).hexdigest()}-1"'
        with getm.open(
            server.put("/a", SIZE, {"Server": "AmazonS3", "ETag": etag}), checksum="auto", concurrency=None
        ) as file:
            file.read()
            assert "ETag" == file.verified
        unknown = {"Server": "AmazonS3", "ETag": f'"{"0" * 32}-2"'}  # one of parts of a length that nobody knows
        with getm.open(server.put("/b", SIZE, unknown), checksum="auto", concurrency=None) as file:
            file.read()
            assert file.verified is None
        hopeless = {"Server": "AmazonS3", "ETag": f'"{"0" * 32}-9999"'}  # no length of parts makes so many
        with getm.open(server.put("/c", SIZE, hopeless), checksum="auto", concurrency=None) as file:
            file.read(5)
            file.seek(100)
            file.read()
            assert file.verified is None
        assert [] == warned()

    @pytest.mark.parametrize("parts", [1_000, 2])
    def test_of_the_callers_that_cannot_be_told_is_warned_of(self, server, warned, parts):
        url = server.put("/b", SIZE)
        with getm.open(url, checksum=f"s3-etag:{'0' * 32}-{parts}", concurrency=None) as file:
            assert WHOLE == file.read()
            assert file.verified is None
        assert [f"{url}: not verified, {integrity.UNTOLD}"] == warned()

    @pytest.mark.parametrize("checksum", [None, "none", "auto"])
    def test_is_nobodys_if_nobody_promises_one(self, url, warned, checksum):
        with (
            getm.open(url, checksum=checksum, concurrency=None) as file,
            getm.urlopen(url, checksum=checksum, concurrency=None) as stream,
        ):
            file.seek(5)
            assert WHOLE[5:] == file.read()
            assert WHOLE == stream.read()
            assert (None, None) == (file.verified, stream.verified)
        assert [] == warned()

    def test_is_seen_of_a_server_without_ranges(self, server, url):
        server.fail(Fault(whole=True, framing="chunks"), times=None)
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            assert WHOLE == b"".join(WAYS["read in parts"](file))
            assert "the caller" == file.verified


class TestWrongDigest:
    @pytest.mark.parametrize(
        ("checksum", "concurrency"), [(WRONG, None), (crc32c(b"other"), 1), ("auto", 4)], ids=["md5", "crc32c", "auto"]
    )
    def test_keeps_the_last_part_back(self, server, concurrency, checksum):
        url = server.put("/a.bin", SIZE, {"x-goog-hash": HEADERS["x-goog-hash"](b"other")})
        with getm.open(url, checksum=checksum, concurrency=concurrency) as file:
            assert WHOLE[: 2 * BLOCK] == file.read(2 * BLOCK)
            assert_refused(lambda: file.read(7), 2 * BLOCK, file.tell)
            assert_refused(file.read, 2 * BLOCK, file.tell)
            assert_refused(file.readall, 2 * BLOCK, file.tell)
            assert_refused(file.read1, 2 * BLOCK, file.tell)
            assert_refused(file.readline, 2 * BLOCK, file.tell)
            assert_refused(lambda: next(file), 2 * BLOCK, file.tell)
            assert_refused(lambda: file.readinto(bytearray(100)), 2 * BLOCK, file.tell)
            assert_refused(lambda: file.read(1), 2 * BLOCK, file.tell)
            assert file.verified is None

    @EVERY
    def test_is_seen_however_a_file_is_read(self, server, concurrency):
        for way, read in WAYS.items():
            url = server.put("/" + way.replace(" ", "-"), LINES)
            with getm.open(url, checksum=WRONG, concurrency=concurrency, **SMALL_BLOCKS) as file:
                with pytest.raises(getm.IntegrityError):
                    read(file)
                assert file.tell() < len(LINES), way
                assert file.verified is None

    @EVERY
    @pytest.mark.parametrize("ending", [b"no end", b"end\n", b"x" * BLOCK])
    def test_keeps_the_last_line_back(self, server, concurrency, ending):
        lines = [*LINES.splitlines(keepends=True)[:-1], ending]
        with getm.open(server.put("/a.txt", b"".join(lines)), checksum=WRONG, concurrency=concurrency) as file:
            found = iter(file)
            assert lines[:-1] == list(itertools.islice(found, len(lines) - 1))
            for again in found, file:
                assert_refused(lambda again=again: next(again), sum(map(len, lines[:-1])), file.tell)

    @pytest.mark.parametrize("options", [{"mode": "rb", "buffering": -1}, {"mode": "r"}], ids=["buffered", "text"])
    @pytest.mark.parametrize("read", [lambda file: file.read(), list, lambda file: until_or_empty(file, 1000)])
    def test_is_seen_through_wrappers(self, server, options, read):
        url = server.put("/a.txt", LINES)
        with getm.open(url, checksum=WRONG, **options, concurrency=None) as file:
            for _ in range(2):
                with pytest.raises(getm.IntegrityError):
                    read(file)

    def test_is_never_taken_for_the_end(self, url):
        with getm.open(url, checksum=WRONG, concurrency=None) as file:
            with pytest.raises(getm.IntegrityError):
                file.read()
            file.seek(0, 2)
            assert_refused(lambda: file.read(1), SIZE, file.tell)
            assert_refused(lambda: file.readinto(bytearray(1)), SIZE, file.tell)
            assert_refused(file.readline, SIZE, file.tell)
            assert_refused(lambda: list(file), SIZE, file.tell)
            file.seek(0)
            assert_refused(lambda: file.read(1), 0, file.tell)

    @EVERY
    def test_is_seen_by_a_stream(self, url, concurrency):
        with getm.urlopen(url, checksum=WRONG, concurrency=concurrency) as stream:
            assert WHOLE[: SIZE - 5] == stream.read(SIZE - 5)
            for read in (stream.read, lambda: stream.read(5), lambda: stream.read(1), lambda: stream.readinto(bytearray(9))):
                assert_refused(read, SIZE - 5, stream.tell)
            assert stream.verified is None

    @EVERY
    def test_comes_in_place_of_the_last_part(self, url, concurrency):
        for chunk_size in CHUNK_SIZES:
            parts = getm.iter_content(url, chunk_size, checksum=WRONG, concurrency=concurrency)
            for start in range(0, SIZE - chunk_size, chunk_size):
                assert WHOLE[start : start + chunk_size] == next(parts)
            with pytest.raises(getm.IntegrityError):
                next(parts)
            assert [] == default(concurrency)._hub.feeds

    def test_leaves_nobody_a_view_of_the_last_part(self, url, new_engine):
        engine = new_engine(memory=4 * BLOCK)
        with getm.urlopen(url, checksum=WRONG, engine=engine) as stream:
            stream.read(2 * BLOCK).release()
            with pytest.raises(getm.IntegrityError) as caught:
                stream.read()
            assert [] == views_of(caught.tb)

    def test_is_told_with_all_facts_and_no_secret(self, server, url):
        with (
            getm.open(url + "?key=SECRET", checksum=WRONG, concurrency=None) as file,
            pytest.raises(getm.IntegrityError) as caught,
        ):
            file.read()
        expected, actual = (text.partition(":")[2] for text in (WRONG, md5(WHOLE)))
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert ("md5", expected, actual, url) == (error.algorithm, error.expected, error.actual, error.url)
            assert f"{url}: md5 is {actual}, the caller promised {expected}" == str(error)

    def test_is_told_by_the_name_of_the_header(self, server):
        url = server.put("/a", SIZE, {"x-goog-hash": "md5=" + encoded(WRONG)})
        with (
            getm.urlopen(url, checksum="auto", concurrency=None) as stream,
            pytest.raises(getm.IntegrityError, match="x-goog-hash promised"),
        ):
            stream.read()

    @EVERY
    @pytest.mark.parametrize("door", [getm.open, getm.urlopen])
    def test_is_not_remembered_for_those_who_open_it_again(self, server, door, concurrency):
        url, good = server.put("/a.bin", CONTENT), {"ETag": '"version-0"', "Content-Range": "bytes 0-999/1000"}
        server.fail(Fault(status=206, body=bytes(1000), headers=good))
        with door(url, checksum=md5(CONTENT), concurrency=concurrency) as file, pytest.raises(getm.IntegrityError):
            file.read()
        with door(url, checksum=md5(CONTENT), concurrency=concurrency) as file:
            assert CONTENT == file.read()
            assert "the caller" == file.verified


def until_or_empty(file, length):
    while file.read(length):
        pass


def views_of(traceback):
    """Return the views that getm's frames of a traceback still show bytes by."""
    found = []
    while traceback is not None:
        for value in traceback.tb_frame.f_locals.values():
            with contextlib.suppress(ValueError):
                if isinstance(value, memoryview) and "getm" in traceback.tb_frame.f_code.co_filename:
                    found.append(value.nbytes)
        traceback = traceback.tb_next
    return found


class TestOrder:
    @pytest.mark.parametrize("way", ["read in parts", "readinto", "iteration"])
    def test_is_not_broken_by_looking_around_first(self, url, warned, way):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            assert SIZE == file.seek(0, 2)
            assert SIZE == file.tell()
            file.seek(100)
            file.seek(0)
            assert WHOLE == b"".join(WAYS[way](file))
            assert "the caller" == file.verified
        assert [] == warned()

    def test_is_not_broken_by_what_hands_nothing_out(self, url, warned):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            file.read(1000)
            for position in (0, 5, SIZE, SIZE + 5):
                file.seek(position)
                assert (b"", b"", b"") == (file.read(0), file.readline(0), file.read1(0))
                assert (0, 0) == (file.readinto(bytearray()), file.readinto(np.zeros((0, 5))))
                assert WHOLE[position : position + 1] == file.peek(1)[:1]
            assert b"" == file.read()
            file.seek(1000)
            assert WHOLE[1000:] == file.read()
            assert "the caller" == file.verified
        assert [] == warned()

    def test_is_not_broken_by_reads_without_a_position_which_are_not_verified(self, url, warned):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            for start in range(0, SIZE, 300_000):
                read_at = in_thread(file.read_at, SIZE - start - 10, 10)
                assert WHOLE[start : start + 300_000] == file.read(300_000)
                assert WHOLE[start : start + 9] == file.read_at(start, 9)
                assert WHOLE[SIZE - start - 10 : SIZE - start] == read_at()
            assert "the caller" == file.verified
            assert [WHOLE[:7], b""] == file.read_ranges([(0, 7), (SIZE, SIZE + 1)])
        assert [f"{url}: what is read without a position is not verified"] == warned()

    @pytest.mark.parametrize("read", [lambda file: file.read_at(0, SIZE), lambda file: file.read_ranges([(0, SIZE)])[0]])
    def test_is_none_without_a_position_even_of_all(self, url, warned, read):
        with getm.open(url, checksum=WRONG, concurrency=None) as file:
            assert b"" == file.read_at(SIZE, 1)
            assert [] == warned()
            assert WHOLE == read(file)
            assert file.verified is None
        assert 1 == len(warned())

    def test_that_was_complete_is_enough_for_reads_without_a_position(self, url, warned):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            file.read()
            assert WHOLE[5:7] == file.read_at(5, 2)
        assert [] == warned()

    @pytest.mark.parametrize("skip", [lambda file: file.seek(10, 1), lambda file: file.seek(-10, 1)], ids=["on", "back"])
    def test_that_is_broken_is_told_once_and_reading_goes_on(self, url, warned, skip):
        with getm.open(url + "?key=SECRET", checksum=WRONG, concurrency=None) as file:
            file.read(1000)
            position = skip(file)
            for start in range(position, position + 1000, 100):
                assert WHOLE[start : start + 100] == file.read(100)
            skip(file)
            file.read(10)
            file.seek(0)
            assert WHOLE == file.read()
            assert file.verified is None
        assert [f"{url}: not read in order, so it is not verified"] == warned()

    @pytest.mark.parametrize("way", ["read in parts", "readinto", "readline", "iteration"])
    def test_that_begins_elsewhere_is_none(self, url, warned, way):
        with getm.open(url, checksum=WRONG, concurrency=None) as file:
            file.seek(7)
            assert WHOLE[7:] == b"".join(WAYS[way](file))
            assert file.verified is None
        assert 1 == len(warned())

    @pytest.mark.parametrize("looks", [1, 3])
    def test_may_begin_anew_at_the_first_byte(self, url, warned, looks):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            for length in range(1, looks + 1):
                assert WHOLE[:length] == file.read(length)
                file.seek(0)
            assert WHOLE == b"".join(WAYS["read in parts"](file))
            assert "the caller" == file.verified
        with getm.open(url, checksum=WRONG, concurrency=None) as file:
            file.read(SIZE - 1)
            file.seek(0)
            assert_refused(file.read, 0, file.tell)
        assert [] == warned()

    def test_that_was_complete_once_is_enough(self, url, warned):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            file.read()
            for position in (0, 5, BLOCK):
                file.seek(position)
                assert WHOLE[position:] == file.read()
                assert "the caller" == file.verified
        assert [] == warned()

    def test_of_threads_that_take_turns_is_one(self, url, warned):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            parts = [in_thread(file.read, 300_000)() for _ in range(0, SIZE, 300_000)]
            assert WHOLE == b"".join(parts)
            assert "the caller" == file.verified
        assert [] == warned()

    @pytest.mark.parametrize("way", ["read in parts", "small reads", "readinto", "readline", "iteration"])
    def test_of_threads_that_read_at_once_raises_no_false_alarm(self, server, warned, way):
        url = server.put("/a.txt", LINES)
        with getm.open(url, checksum=md5(LINES), concurrency=4, **SMALL_BLOCKS) as file:
            start = threading.Barrier(4)

            def work():
                start.wait(30)
                return WAYS[way](file)

            for result in [in_thread(work) for _ in range(4)]:
                result()
            assert (file.verified is None) == (warned() != [])

    def test_of_threads_that_all_read_from_the_start_raises_no_false_alarm(self, server):
        url = server.put("/a.txt", LINES)
        with getm.open(url, checksum=md5(LINES), concurrency=None) as file:
            start = threading.Barrier(4)

            def work():
                start.wait(30)
                for _ in range(20):
                    file.seek(0)
                    assert LINES[:50_000] == file.read(50_000)
                file.seek(0)
                return file.read()

            for result in [in_thread(work) for _ in range(4)]:
                assert LINES == result()

    def test_of_lines_is_theirs_whatever_other_threads_seek_meanwhile(self, server, monkeypatch):
        url, readline = server.put("/a.txt", LINES), getm.Reader.readline
        with getm.open(url, checksum=md5(LINES), concurrency=None) as file:
            with monkeypatch.context() as patch:
                patch.setattr(getm.Reader, "readline", lambda *given: in_thread(file.seek, 500)() and readline(*given))
                line = file.readline()
            file.seek(len(line))
            assert LINES == line + file.read()
            assert "the caller" == file.verified

    @EVERY
    def test_survives_failures_of_the_network(self, server, url, warned, concurrency):
        server.fail(Fault(cut=200_000), times=3)
        server.fail(Fault(status=503), times=2)
        with getm.open(url, checksum=md5(WHOLE), concurrency=concurrency) as file:
            assert WHOLE == b"".join(WAYS["read in parts"](file))
            assert "the caller" == file.verified
        assert [] == warned()

    @EVERY
    @pytest.mark.parametrize("door", [getm.open, getm.urlopen])
    def test_survives_reads_that_fail_and_are_repeated(self, server, url, warned, door, concurrency):
        server.fail(Fault(status=500), when=lambda request: request.start >= BLOCK, times=None)
        with door(url, checksum=md5(WHOLE), concurrency=concurrency, retries=0) as file:
            assert WHOLE[:BLOCK] == file.read(BLOCK)
            for read in (lambda: file.read(9), lambda: file.readinto(bytearray(100)), file.read):
                with pytest.raises(getm.BadStatus):
                    read()
                assert BLOCK == file.tell()
            server.heal()
            assert WHOLE[BLOCK:] == file.read()
            assert "the caller" == file.verified
        assert [] == warned()

    def test_survives_lines_that_fail_and_are_repeated(self, server, warned):
        content = b"short\n" + b"x" * 2 * BLOCK + b"\nend"
        url = server.put("/a.txt", content)
        server.fail(Fault(status=500), when=lambda request: request.start >= BLOCK, times=None)
        with getm.open(url, checksum=md5(content), retries=0, concurrency=None) as file:
            assert b"short\n" == next(file)
            for read in (file.readline, lambda: next(file), file.readlines):
                with pytest.raises(getm.BadStatus):
                    read()
                assert 6 == file.tell()
            server.heal()
            assert content[6:] == b"".join(file)
            assert "the caller" == file.verified
        assert [] == warned()


class TestLines:
    @EVERY
    def test_are_hashed_by_many(self, server, monkeypatch, concurrency):
        url, add, added = server.put("/a.txt", LINES), getm.handout.Handout.add, []
        monkeypatch.setattr(getm.handout.Handout, "add", lambda *given: added.append(given) or add(*given))
        with getm.open(url, checksum=md5(LINES), concurrency=concurrency) as file:
            assert LINES == b"".join(file)
            assert "the caller" == file.verified
        assert 20 > len(added)

    @pytest.mark.parametrize("count", [0, 1, 100, 3999, 4000])
    @pytest.mark.parametrize(
        "go_on", [getm.Reader.readall, list, getm.Reader.readlines], ids=["read", "iterate", "readlines"]
    )
    def test_that_are_left_are_gone_on_with(self, server, warned, count, go_on):
        with getm.open(server.put("/a.txt", LINES), checksum=md5(LINES), concurrency=None) as file:
            lines = list(itertools.islice(file, count))
            assert file.verified is None
            rest = go_on(file)
            assert LINES == b"".join(lines) + (rest if isinstance(rest, bytes) else b"".join(rest))
            assert "the caller" == file.verified
        assert [] == warned()


class TestEmptyObject:
    @EVERY
    def test_is_verified_at_once(self, server, concurrency):
        url = server.put("/empty", b"")
        with getm.open(url, checksum="md5:" + EMPTY_MD5, concurrency=concurrency) as file:
            assert ("the caller", b"", "the caller") == (file.verified, file.read(), file.verified)
        with getm.urlopen(url, checksum="md5:" + EMPTY_MD5, concurrency=concurrency) as stream:
            assert ("the caller", b"") == (stream.verified, stream.read())
        assert [] == list(getm.iter_content(url, checksum="md5:" + EMPTY_MD5, concurrency=concurrency))

    @EVERY
    @pytest.mark.parametrize("checksum", [WRONG, "auto"])
    @pytest.mark.parametrize(
        "door", [getm.open, lambda *given, **options: getm.open(*given, "r", **options), getm.urlopen, getm.iter_content]
    )
    def test_that_is_wrong_is_not_opened_and_leaves_nothing(self, server, door, checksum, concurrency):
        url = server.put("/empty", b"", {"x-goog-hash": "md5=" + encoded(WRONG)})
        with pytest.raises(getm.IntegrityError) as caught:
            door(url, checksum=checksum, concurrency=concurrency)
        assert str(caught.value).startswith(url + ": md5 is " + EMPTY_MD5)
        assert [] == default(concurrency)._hub.feeds


class TestChecksum:
    @pytest.mark.parametrize("checksum", ["md5:12", "sha3:" + "0" * 64, "", "nonsense", b"md5:" + b"0" * 32, 5])
    @pytest.mark.parametrize("door", [getm.open, getm.urlopen, getm.iter_content])
    def test_that_cannot_be_used_is_refused_before_anything_is_sent(self, server, url, door, checksum):
        with pytest.raises(getm.UsageError):
            door(url, checksum=checksum)
        assert [] == server.log


class TestElsewhere:
    @pytest.mark.parametrize("checksum", [md5(WHOLE), "auto"])
    def test_a_pickled_reader_verifies_there(self, server, warned, checksum):
        url = server.put("/a.bin", SIZE, {"x-goog-hash": HEADERS["x-goog-hash"](WHOLE)})
        with getm.open(url, checksum=checksum, concurrency=None) as file, pickle.loads(pickle.dumps(file)) as again:
            assert WHOLE == again.read()
            assert again.verified in ("the caller", "x-goog-hash")
            assert file.verified is None
        assert [] == warned()

    def test_a_pickled_reader_refuses_there(self, url):
        with getm.open(url, checksum=WRONG, concurrency=None) as file, pickle.loads(pickle.dumps(file)) as again:
            assert_refused(again.read, 0, again.tell)

    def test_a_reader_pickled_halfway_verifies_only_what_is_read_from_the_start(self, url, warned):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            file.read(1000)
            with pickle.loads(pickle.dumps(file)) as again, pickle.loads(pickle.dumps(file)) as other:
                assert WHOLE[1000:] == again.read()
                assert (None, 1) == (again.verified, len(warned()))
                other.seek(0)
                assert WHOLE == other.read()
                assert "the caller" == other.verified
            assert WHOLE[1000:] == file.read()
            assert "the caller" == file.verified

    @EVERY
    @pytest.mark.parametrize("door", [getm.open, getm.urlopen])
    def test_a_forked_child_goes_on_by_itself(self, url, warned, door, concurrency):
        with door(url, checksum=md5(WHOLE), concurrency=concurrency) as file:
            file.read(BLOCK + 5)
            assert 0 == exit_code_of_child(
                lambda: bytes(file.read()) == WHOLE[BLOCK + 5 :] and file.verified == "the caller"
            )
            assert WHOLE[BLOCK + 5 :] == file.read()
            assert "the caller" == file.verified
        assert [] == warned()

    def test_a_child_forked_while_a_thread_hashes_raises_no_false_alarm(self, url, monkeypatch):
        with getm.open(url, checksum=md5(WHOLE), concurrency=None) as file:
            is_hashing, is_forked = threading.Event(), threading.Event()
            monkeypatch.setattr("getm.handout.Check.update", waiting(is_hashing, is_forked))
            part = in_thread(file.read, BLOCK)
            assert is_hashing.wait(30)
            pid = os.fork()
            if pid == 0:
                is_forked.set()
                os._exit(exit_code(lambda: bytes(file.read()) == WHOLE[BLOCK:] and file.verified is None))
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            is_forked.set()
            assert WHOLE == part() + file.read()
            assert "the caller" == file.verified


def waiting(is_hashing, may_go_on):
    """Return a `Check.update` that waits in the middle, the first time."""
    update = getm.handout.Check.update

    def wait(check, data):
        update(check, data)
        is_hashing.set()
        may_go_on.wait(30)

    return wait


def exit_code_of_child(holds):
    """Return what a forked child ends with."""
    pid = os.fork()
    if pid == 0:
        os._exit(exit_code(holds))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def exit_code(holds):
    try:
        return 0 if holds() else 1
    except BaseException:  # noqa: BLE001  # the parent's test must not go on in the child
        return 2


@pytest.mark.parametrize("door", [getm.open, getm.urlopen])
def test_an_interrupt_at_any_line_raises_no_false_alarm(server, monkeypatch, door):
    files = tuple(module.__file__ for module in (getm.handout, getm.integrity, getm.verifying, getm.stream))
    monkeypatch.setattr("tests.test_interrupt.PACKAGE", files)
    url = server.put("/a.bin", CONTENT)
    for number in itertools.count(1):
        interrupt = Interrupt(number)
        with door(url, checksum=md5(CONTENT), concurrency=None) as file:
            with contextlib.suppress(KeyboardInterrupt), interrupt:
                file.read(500)
                file.read(500)
            position = file.tell()
            assert CONTENT[position:] == file.read(), interrupt.place
            if interrupt.place is None:
                assert "the caller" == file.verified
                break
    assert number > 50


class TestVerifyingReader(ReadOnlyFileContract):
    """It is a file as every other is, whether what it reads is verified in the end or not."""

    @pytest.fixture
    def make(self, server):
        yield from opening(server)


class TestVerifyingReaderOfSmallBlocks(RandomOperationsContract):
    @pytest.fixture
    def make(self, server):
        yield from opening(server, block_size=65_536)


def opening(server, **options):
    """Yield what opens a verifying reader on given bytes; close them all at the end."""
    opened = []

    def make(content):
        url = server.put(f"/{len(opened)}", content)
        opened.append(getm.open(url, checksum=crc32c(content), **options))
        return opened[-1]

    yield make
    for file in opened:
        file.close()
