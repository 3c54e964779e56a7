"""A copy is what was promised and was written, or an error that says what is wrong: digests, disks, times, limits."""

import base64
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import getm
from getm import config, integrity
from getm import engine as engines
from getm import part as parts
from getm.engine import default
from getm.progress import Progress
from getm.transfer import Copy, Stopped, Terms
from tests import leftovers
from tests.content import ramp
from tests.parts import CUT, asked, broken, said
from tests.servers.answer import FIRST_MODIFIED
from tests.servers.fault import Fault

MIB = 2**20
SIZE = 4 * MIB + 5
CONTENT = ramp(0, SIZE)
MD5 = hashlib.md5(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)
BOTH = pytest.mark.parametrize("concurrency", [None, 4], ids="concurrency-{}".format)


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "a.bin"


@pytest.fixture
def mounted(tmp_path):
    """Mount file systems on a folder, and change them."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(*arguments):
        if subprocess.run(["mount", *arguments, folder], capture_output=True, check=False).returncode:
            pytest.skip("may not mount")
        return folder

    yield mount
    while os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)  # a traceback may hold what was opened there


def in_base64(algorithm, content=CONTENT):
    hashed = integrity.new(algorithm)
    hashed.update(content)
    return base64.b64encode(hashed.digest()).decode()


def promise(server, headers, content=SIZE):
    return server.put("/promised.bin", content, headers)


PART = 3 * MIB  # of an upload, of which nobody knows
ETAG = hashlib.md5(hashlib.md5(CONTENT[:PART]).digest() + hashlib.md5(CONTENT[PART:]).digest()).hexdigest() + "-2"
OTHER = hashlib.md5(b"other").hexdigest()
PROMISES = {
    "goog-crc32c": ({"x-goog-hash": f"crc32c={in_base64('crc32c')}"}, "x-goog-hash", "crc32c"),
    "goog-md5": ({"x-goog-hash": f"md5={in_base64('md5')}"}, "x-goog-hash", "md5"),
    "amz-crc64nvme": (
        {"x-amz-checksum-crc64nvme": in_base64("crc64nvme"), "x-amz-checksum-type": "FULL_OBJECT"},
        None,
        "crc64nvme",
    ),
    "repr-digest": ({"Repr-Digest": f"sha-256=:{in_base64('sha256')}:"}, "Repr-Digest", "sha256"),
    "digest": ({"Digest": f"SHA-256={in_base64('sha256')}"}, "Digest", "sha256"),
    "azure": ({"x-ms-blob-content-md5": in_base64("md5")}, "x-ms-blob-content-md5", "md5"),
    "etag": ({"ETag": f'"{MD5.hexdigest()}"', "Server": "AmazonS3"}, "ETag", "s3-etag"),
    "trust": (
        {"x-goog-hash": f"crc32c={in_base64('crc32c')}", "Digest": "md5=" + in_base64("md5", b"other")},
        "x-goog-hash",
        "crc32c",
    ),
}


class TestPromise:
    @pytest.mark.parametrize(("headers", "origin", "algorithm"), PROMISES.values(), ids=PROMISES)
    def test_of_a_header_is_kept(self, server, target, headers, origin, algorithm):
        copied = getm.copy(promise(server, headers), target, concurrency=None, require_checksum=origin is not None)
        assert CONTENT == target.read_bytes()
        assert origin == copied.verified
        if origin is not None:
            hashed = integrity.new("md5" if algorithm == "s3-etag" else algorithm)
            hashed.update(CONTENT)
            assert {algorithm: hashed.hexdigest()} == copied.digests

    @pytest.mark.parametrize("header", ["Content-MD5", "x-amz-checksum-sha256"])
    def test_of_a_header_about_all_that_was_sent_is_kept(self, server, target, header):
        content = b"all of it"
        algorithm = "md5" if header == "Content-MD5" else "sha256"
        url = promise(server, {header: in_base64(algorithm, content), "x-amz-checksum-type": "FULL_OBJECT"}, content)
        assert header == getm.copy(url, target).verified

    @EVERY
    @pytest.mark.parametrize("size", [0, 1, MIB, SIZE])
    def test_of_the_caller_is_kept(self, server, target, concurrency, size):
        url = promise(server, {"x-goog-hash": "md5=" + in_base64("md5", b"other")}, size)
        digest = hashlib.sha256(ramp(0, size)).hexdigest()
        copied = getm.copy(url, target, concurrency=concurrency, checksum=f"sha256:{digest}")
        assert ("the caller", {"sha256": digest}) == (copied.verified, copied.digests)

    def test_of_nobody_is_said_or_an_error(self, server, url, tmp_path, target):
        copied = getm.copy(url, target)
        assert (None, {}) == (copied.verified, copied.digests)
        target.unlink()
        for checksum in ("auto", None):
            with pytest.raises(getm.IntegrityError, match="promises no digest") as caught:
                getm.copy(f"{url}?secret", target, require_checksum=True, checksum=checksum)
            assert str(caught.value).startswith(f"{url}: ")
        assert [] == os.listdir(tmp_path)

    def test_that_cannot_be_told_is_none_or_an_error(self, server, tmp_path, target):
        url = promise(server, {"ETag": f'"{OTHER}-2"', "Server": "AmazonS3"})
        assert getm.copy(url, target).verified is None
        target.unlink()
        with pytest.raises(getm.IntegrityError, match="how long its parts were"):
            getm.copy(url, target, require_checksum=True)
        assert {f"{target.name}.part", f"{target.name}.part.json"} == set(os.listdir(tmp_path))

    def test_of_parts_is_kept_by_who_knows_their_size(self, server, target):
        url = promise(server, {"ETag": f'"{ETAG}"', "Server": "AmazonS3"})
        assert "the caller" == getm.copy(url, target, checksum=f"s3-etag:{ETAG}:3MiB").verified
        target.unlink()
        assert "ETag" == getm.copy(url, target).verified

    @EVERY
    def test_that_is_broken_is_tried_twice_and_leaves_the_old_file(self, server, target, concurrency):
        url = promise(server, {"x-goog-hash": "md5=" + in_base64("md5", b"other")})
        target.write_bytes(b"old")
        with pytest.raises(getm.IntegrityError) as caught:
            getm.copy(f"{url}?secret", target, concurrency=concurrency)
        error = caught.value
        assert ("md5", OTHER, MD5.hexdigest()) == (error.algorithm, error.expected, error.actual)
        assert f"{url}: md5 is {MD5.hexdigest()}, x-goog-hash promised {OTHER}" == str(error)
        assert 2 * SIZE == sum(request.sent for request in server.wait_for(lambda log: all(one.finished for one in log)))
        assert b"old" == target.read_bytes()
        assert ["a.bin"] == os.listdir(target.parent)

    @EVERY
    @pytest.mark.parametrize("resume", [False, True])
    def test_that_is_kept_by_the_second_try_is_kept(self, server, url, target, concurrency, resume):
        server.fail(Fault(body=b"x" * SIZE, headers={"ETag": '"version-0"'}))
        copied = getm.copy(url, target, concurrency=concurrency, checksum=f"sha256:{SHA256}", resume=resume)
        assert ("the caller", {"sha256": SHA256}) == (copied.verified, copied.digests)
        assert CONTENT == target.read_bytes()
        assert ["a.bin"] == os.listdir(target.parent)

    @EVERY
    def test_finds_out_what_was_spoiled_on_the_disk(self, server, url, target, concurrency):
        broken(server, url, target)
        with open(f"{target}.part", "r+b") as file:
            file.seek(1000)
            file.write(b"X")
        count = len(server.log)
        copied = getm.copy(url, target, concurrency=concurrency, checksum=f"sha256:{SHA256}")
        assert ("the caller", 0) == (copied.verified, copied.resumed)
        assert CONTENT == target.read_bytes()
        assert [(0, SIZE)] == asked(server.log[count:], SIZE)

    @EVERY
    def test_is_kept_over_interruptions(self, server, target, concurrency):
        url = promise(server, {"x-goog-hash": f"crc32c={in_base64('crc32c')}"})
        broken(server, url, target, concurrency=4)
        copied = getm.copy(url, target, concurrency=concurrency)
        assert "x-goog-hash" == copied.verified
        assert copied.resumed
        assert CONTENT == target.read_bytes()

    def test_of_another_size_is_an_error_that_leaves_nothing(self, server, url, tmp_path, target):
        with pytest.raises(getm.IntegrityError, match=f"7 bytes were promised, the object has {SIZE}") as caught:
            getm.copy(url, target, size=7)
        assert ("size", "7") == (caught.value.algorithm, caught.value.expected)
        assert 1 == len(server.log)
        assert [] == os.listdir(tmp_path)
        assert SIZE == getm.copy(url, target, size=SIZE).size

    @pytest.mark.parametrize("checksum", ["md5:xyz", "nonsense", 5])
    def test_that_is_none_is_a_usage_error(self, server, url, tmp_path, target, checksum):
        with pytest.raises(getm.UsageError):
            getm.copy(url, target, checksum=checksum)
        assert [] == os.listdir(tmp_path)
        assert [] == server.log


class TestSkip:
    @pytest.fixture
    def there(self, url, target):
        getm.copy(url, target)
        return target

    @EVERY
    def test_by_size_and_time(self, server, url, there, concurrency):
        count = len(server.log)
        copied = getm.copy(url, there, skip=True, concurrency=concurrency)
        assert (True, SIZE, str(there)) == (copied.is_skipped, copied.size, copied.path)
        assert [1] == [request.sent for request in server.wait_for(lambda log: log[-1].finished)[count:]]
        os.utime(there, (0, 0))
        assert not getm.copy(url, there, skip=True).is_skipped
        assert FIRST_MODIFIED == there.stat().st_mtime

    def test_not_of_another_size_or_version(self, server, url, there):
        there.write_bytes(CONTENT[:-1])
        os.utime(there, (FIRST_MODIFIED, FIRST_MODIFIED))
        assert not getm.copy(url, there, skip=True).is_skipped
        server.put("/a.bin", SIZE)
        assert not getm.copy(url, there, skip=True).is_skipped
        assert ramp(0, SIZE, 1) == there.read_bytes()

    def test_by_the_servers_digest(self, server, target):
        url = promise(server, {"x-goog-hash": f"crc32c={in_base64('crc32c')}", "Last-Modified": None})
        target.write_bytes(CONTENT)
        copied = getm.copy(url, target, skip=True)
        assert (True, "x-goog-hash") == (copied.is_skipped, copied.verified)
        target.write_bytes(CONTENT[:-1] + b"x")
        assert not getm.copy(url, target, skip=True).is_skipped
        assert CONTENT == target.read_bytes()

    def test_by_the_callers_digest_without_asking(self, server, url, target):
        target.write_bytes(CONTENT)
        copied = getm.copy(url, target, skip=True, checksum=f"sha256:{SHA256}")
        assert (True, {"sha256": SHA256}) == (copied.is_skipped, copied.digests)
        assert [] == server.log
        target.write_bytes(b"other")
        assert not getm.copy(url, target, skip=True, checksum=f"sha256:{SHA256}").is_skipped
        assert CONTENT == target.read_bytes()

    def test_not_where_a_digest_is_required_and_nobody_promises_one(self, server, url, there):
        with pytest.raises(getm.IntegrityError):
            getm.copy(url, there, skip=True, require_checksum=True)
        assert CONTENT == there.read_bytes()

    def test_not_of_an_object_that_is_gone(self, server, url, there):
        server.fail(Fault(status=404), times=None)
        with pytest.raises(getm.NotFound):
            getm.copy(url, there, skip=True)
        assert CONTENT == there.read_bytes()

    @pytest.mark.parametrize("framing", ["length", "chunks"])
    def test_on_a_server_without_ranges(self, server, url, there, framing):
        server.fail(Fault(whole=True, framing=framing), times=None)
        assert (framing == "length") == getm.copy(url, there, skip=True).is_skipped
        assert CONTENT == there.read_bytes()

    def test_closes_its_line_of_progress(self, url, there, monkeypatch):
        closed = []

        def close(self):
            closed.append(self)

        monkeypatch.setattr(Progress, "close", close)
        getm.copy(url, there, skip=True)
        with pytest.raises(IsADirectoryError):
            getm.copy(url, there.parent)
        assert 2 == len(closed)


class TestDisk:
    @BOTH
    def test_that_is_full_is_an_error_that_names_the_file(self, server, url, mounted, concurrency):
        target = mounted("-t", "tmpfs", "-o", "size=2M", "none") / "a.bin"
        target.write_bytes(b"old")
        with pytest.raises(OSError, match="No space left") as caught:
            getm.copy(url, target, concurrency=concurrency)
        assert (errno.ENOSPC, f"{target}.part") == (caught.value.errno, caught.value.filename)
        assert b"old" == target.read_bytes()
        left = set(os.listdir(target.parent))
        assert left in ({"a.bin"}, {"a.bin", "a.bin.part", "a.bin.part.json"})
        mounted("-o", "remount,size=16M")
        getm.copy(url, target, concurrency=concurrency)
        assert CONTENT == target.read_bytes()
        assert ["a.bin"] == os.listdir(target.parent)

    def test_that_was_full_goes_on_with_the_last_record_there_was_room_for(self, server, url, mounted, monkeypatch):
        target = mounted("-t", "tmpfs", "-o", "size=2M", "none") / "a.bin"
        monkeypatch.setattr(parts, "RECORD_SECONDS", 0.0)
        with pytest.raises(OSError, match="No space left"):
            getm.copy(url, target, concurrency=None)
        mounted("-o", "remount,size=16M")
        assert MIB == getm.copy(url, target, concurrency=None).resumed
        assert CONTENT == target.read_bytes()

    @BOTH
    def test_that_says_so_beforehand_is_not_filled(self, server, url, mounted, tmp_path, concurrency):
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no mkfs.ext4")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(3 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
        target = mounted("-o", "loop", str(image)) / "a.bin"
        free = os.statvfs(target.parent).f_bfree
        with pytest.raises(OSError, match="No space left"):
            getm.copy(url, target, concurrency=concurrency)
        assert ["lost+found"] == os.listdir(target.parent)
        assert free == os.statvfs(target.parent).f_bfree
        assert 1 == len(server.log)

    def test_without_reservations_is_written_to(self, server, url, mounted):
        target = mounted("-t", "ramfs", "none") / "a.bin"
        getm.copy(url, target, concurrency=4)
        assert CONTENT == target.read_bytes()

    @BOTH
    def test_that_is_read_only_is_an_error_before_any_request(self, server, url, mounted, concurrency):
        target = mounted("-t", "tmpfs", "-o", "ro", "none") / "a.bin"
        with pytest.raises(OSError, match="Read-only file system") as caught:
            getm.copy(url, target, concurrency=concurrency)
        assert (errno.EROFS, f"{target}.part") == (caught.value.errno, caught.value.filename)
        assert [] == server.log

    @BOTH
    def test_with_a_limit_to_files_is_an_error_that_names_the_file(self, server, url, target, concurrency):
        script = f"""
import getm, resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
try:
    getm.copy({url!r}, {str(target)!r}, concurrency={concurrency})
except OSError as error:
    print(type(error).__name__, error.errno, error.filename)
"""
        folder = Path(getm.__file__).parents[1]
        done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, check=True, text=True)
        assert f"OSError {errno.EFBIG} {target}.part\n" == done.stdout
        finished = said(target)["finished"]
        assert finished[-1][1] <= 2 * MIB
        getm.copy(url, target, concurrency=concurrency)
        assert CONTENT == target.read_bytes()

    def test_that_takes_little_at_once_gets_all(self, url, target, monkeypatch):
        pwrite = os.pwrite
        monkeypatch.setattr(engines.fetching.os, "pwrite", lambda file, data, offset: pwrite(file, data[:100_001], offset))
        getm.copy(url, target, concurrency=None)
        assert CONTENT == target.read_bytes()

    def test_that_tells_only_at_the_end_that_it_is_full_is_believed(self, url, target, monkeypatch):
        def dup(_descriptor):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        target.write_bytes(b"old")
        monkeypatch.setattr(parts.os, "dup", dup)
        with pytest.raises(OSError, match="quota") as caught:
            getm.copy(url, target, concurrency=None)
        monkeypatch.undo()
        assert f"{target}.part" == caught.value.filename
        assert b"old" == target.read_bytes()
        assert ["a.bin"] == os.listdir(target.parent)

    def test_is_not_blamed_for_what_a_refresh_raises(self, server, url, target):
        def refresh():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "no new URL")

        server.fail(Fault(status=403), times=None)
        with pytest.raises(ConnectionRefusedError, match="no new URL") as caught:
            getm.copy(url, target, refresh=refresh)
        assert caught.value.filename is None

    def test_of_a_server_without_ranges_that_is_full_is_an_error_that_names_the_file(self, server, url, mounted):
        target = mounted("-t", "tmpfs", "-o", "size=2M", "none") / "a.bin"
        server.fail(Fault(whole=True, framing="chunks"), times=None)
        with pytest.raises(OSError, match="No space left") as caught:
            getm.copy(url, target)
        assert f"{target}.part" == caught.value.filename
        assert [] == os.listdir(target.parent)

    def test_is_asked_to_keep_it_only_if_that_is_wanted(self, url, target, monkeypatch):
        synced = []
        fsync = os.fsync
        monkeypatch.setattr(
            parts.os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file)
        )
        getm.copy(url, target)
        assert [] == synced
        getm.copy(url, target, fsync=True)
        assert [f"{target}.part", str(target.parent)] == synced


class TestMode:
    @pytest.fixture(autouse=True)
    def umask(self):
        before = os.umask(0o027)
        yield
        os.umask(before)

    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_of_a_new_file_is_that_of_any(self, url, target):
        getm.copy(url, target)
        assert 0o640 == self.mode(target)

    @pytest.mark.parametrize(("before", "after"), [(0o666, 0o666), (0o400, 0o400), (0o4755, 0o755), (0o2775, 0o775)])
    def test_of_a_file_that_was_there_is_kept_but_for_rights_of_its_owner(self, url, target, before, after):
        target.write_bytes(b"old")
        target.chmod(before)
        getm.copy(url, target)
        assert after == self.mode(target)

    def test_is_no_wider_while_it_grows(self, server, url, target):
        target.write_bytes(b"old")
        target.chmod(0o400)
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=None, retries=0)
        assert 0o600 == self.mode(f"{target}.part")
        server.heal()
        assert getm.copy(url, target).resumed
        assert 0o400 == self.mode(target)


class TestTime:
    def test_is_the_servers_or_now(self, url, target):
        getm.copy(url, target)
        assert FIRST_MODIFIED == target.stat().st_mtime
        began = time.time()
        getm.copy(url, target, keep_time=False)
        assert target.stat().st_mtime > began - 1

    @pytest.mark.parametrize(
        "text", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 -0000"]
    )
    def test_in_any_form_is_that_of_greenwich(self, server, target, monkeypatch, text):
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            getm.copy(server.put("/b.bin", 10, {"Last-Modified": text}), target)
        finally:
            monkeypatch.undo()
            time.tzset()
        assert 784111777 == target.stat().st_mtime

    @pytest.mark.parametrize(
        "text",
        [
            "Mon, 01 Jan 0001 00:00:00 GMT",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Fri, 31 Dec 99999 23:59:59 GMT",
            "Sun, 99 Nov 1994 99:99:99 GMT",
            "Sun, 06 Nov 1994 08:49:37 +9999999999",
            "Sun, 06 Nov 1994 08:49:37 -9999",
            "Thu, 01 Jan 1900 00:00:00 GMT",
            "0",
            ",",
            "1 2 3 4 5 6 7",
            "-1",
            "garbage",
            "\xe9" * 100,
            "9" * 5000,
        ],
    )
    def test_that_is_none_is_no_error(self, server, target, text):
        getm.copy(server.put("/b.bin", 10, {"Last-Modified": text}), target)
        assert ramp(0, 10) == target.read_bytes()

    def test_that_may_not_be_set_is_no_error(self, url, target, monkeypatch):
        def utime(*_):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(parts.os, "utime", utime)
        getm.copy(url, target)
        assert CONTENT == target.read_bytes()


class TestLimit:
    @BOTH
    @pytest.mark.parametrize("size", [MIB // 2, 3 * MIB])
    def test_is_roughly_held(self, server, target, concurrency, size):
        url = server.put("/b.bin", size)
        began = time.monotonic()
        getm.copy(url, target, concurrency=concurrency, limit_rate=4 * size)
        assert time.monotonic() - began > 0.25 / 2
        assert ramp(0, size) == target.read_bytes()

    @pytest.mark.parametrize(("size", "requests"), [(100, 1), (MIB, 1), (2 * MIB, 2), (16 * MIB, 4)])
    def test_is_shared_by_the_requests_that_there_are(self, server, target, size, requests, monkeypatch):
        paces = []
        save = engines.Engine.save
        monkeypatch.setattr(engines.Engine, "save", lambda self, feed: paces.append(feed.saving.pace) or save(self, feed))
        getm.copy(server.put("/b.bin", size), target, concurrency=4, limit_rate=1e9)
        assert [1e9 / requests] == paces

    @pytest.mark.parametrize("limit_rate", [0, -1, 1023, float("nan")])
    def test_that_is_none_is_a_usage_error(self, server, url, target, limit_rate):
        with pytest.raises(getm.UsageError, match="limit_rate"):
            getm.copy(url, target, limit_rate=limit_rate)
        assert [] == server.log


class TestProgress:
    @EVERY
    def test_grows_to_the_whole(self, url, target, concurrency):
        told = []
        getm.copy(url, target, concurrency=concurrency, progress=lambda *numbers: told.append(numbers))
        assert sorted(set(told)) == told
        assert {SIZE} == {total for _, total in told}
        assert (SIZE, SIZE) == told[-1]

    @EVERY
    def test_begins_with_what_was_there(self, server, url, target, concurrency):
        broken(server, url, target)
        told = []
        copied = getm.copy(url, target, concurrency=concurrency, progress=lambda *numbers: told.append(numbers))
        assert copied.resumed == told[0][0] > 0
        assert sorted(set(told)) == told
        assert (SIZE, SIZE) == told[-1]

    def test_of_nothing_is_whole_at_once(self, server, target):
        told = []
        copied = getm.copy(server.put("/b.bin", 0), target, progress=lambda *numbers: told.append(numbers))
        assert ([(0, 0)], 0) == (told, copied.size)

    def test_that_fails_leaves_what_can_be_gone_on_with(self, url, target):
        def fail(count, _total):
            if count:
                raise BrokenPipeError(errno.EPIPE, "nobody looks")

        with pytest.raises(BrokenPipeError) as caught:
            getm.copy(url, target, concurrency=None, progress=fail)
        assert caught.value.filename is None
        assert MIB == getm.copy(url, target).resumed

    def test_that_is_interrupted_twice_leaves_what_can_be_gone_on_with(self, server, url, target, monkeypatch):
        record = broken(server, url, target)

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(parts.json, "dump", interrupt)
        with pytest.raises(KeyboardInterrupt):
            getm.copy(url, target, concurrency=None, progress=interrupt)
        monkeypatch.undo()
        assert record == said(target)
        assert getm.copy(url, target).resumed
        assert ["a.bin"] == os.listdir(target.parent)


class TestServers:
    @EVERY
    @pytest.mark.parametrize("size", [0, 1])
    def test_of_little(self, server, target, concurrency, size):
        copied = getm.copy(server.put("/b.bin", size), target, concurrency=concurrency, fsync=True)
        assert (size, ramp(0, size)) == (copied.size, target.read_bytes())
        assert 1 == len(server.log)
        assert ["a.bin"] == os.listdir(target.parent)

    @EVERY
    @pytest.mark.parametrize("framing", ["length", "chunks", "connection"])
    def test_without_ranges_send_it_once_to_no_other_file(self, server, url, target, concurrency, framing, monkeypatch):
        def temporary(*_arguments, **_options):
            raise AssertionError

        monkeypatch.setattr("tempfile.TemporaryFile", temporary)
        server.fail(Fault(whole=True, framing=framing), times=None)
        copied = getm.copy(url, target, concurrency=concurrency, spool=10, checksum=f"sha256:{SHA256}")
        assert ("the caller", SIZE) == (copied.verified, copied.size)
        assert CONTENT == target.read_bytes()
        assert 1 == len(server.log)

    @EVERY
    @pytest.mark.parametrize("framing", ["length", "chunks"])
    def test_without_ranges_that_break_off_are_asked_again(self, server, url, target, concurrency, framing):
        server.fail(Fault(whole=True, framing=framing, cut=2 * MIB + 1))
        server.fail(Fault(whole=True, framing=framing), times=None)
        getm.copy(url, target, concurrency=concurrency)
        assert CONTENT == target.read_bytes()
        assert 2 == len(server.log)

    def test_without_ranges_whose_object_shrinks_after_they_broke_off_bring_the_new_one(self, server, url, target):
        def fault(request):
            if len(server.log) == 1:
                return Fault(whole=True, framing="chunks", cut=2 * MIB + 1)
            if len(server.log) == 2:
                server.put("/a.bin", MIB)
            return Fault(whole=True, framing="chunks")

        server.fail(fault, times=None)
        assert MIB == getm.copy(url, target).size
        assert ramp(0, MIB, 1) == target.read_bytes()

    def test_without_ranges_that_give_out_leave_what_can_be_gone_on_with(self, server, url, target):
        server.fail(Fault(whole=True, cut=2 * MIB + 1), times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, retries=0)
        server.heal()
        assert getm.copy(url, target).resumed > MIB
        assert CONTENT == target.read_bytes()

    @EVERY
    def test_that_redirect(self, server, url, target, concurrency):
        server.fail(Fault(status=302, headers={"Location": url}), when=lambda request: request.path == "/x", times=None)
        getm.copy(f"{server.url}/x", target, concurrency=concurrency)
        assert CONTENT == target.read_bytes()


class TestStop:
    @EVERY
    def test_by_another_thread_leaves_what_can_be_gone_on_with(self, server, url, target, concurrency):
        server.fail(lambda request: Fault(stall=MIB // 2) if request.start else None, times=None)
        settings = config.settings({"concurrency": concurrency})
        copy = Copy(url, str(target), settings, Terms(), default(concurrency), Progress())
        errors = []

        def run():
            try:
                copy.run()
            except Stopped as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        server.wait_for(lambda log: any(request.start and request.sent == MIB // 2 for request in log))
        copy.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert 1 == len(errors)
        assert default(concurrency)._hub.leader is None  # otherwise all others wait for it, a second each time
        server.heal()
        assert getm.copy(url, target, concurrency=concurrency).resumed >= MIB
        assert CONTENT == target.read_bytes()

    def test_before_it_has_begun_leaves_nothing(self, server, url, tmp_path, target):
        copy = Copy(url, str(target), config.settings({"concurrency": None}), Terms(), default(None), Progress())
        copy.stop()
        with pytest.raises(Stopped):
            copy.run()
        assert [] == os.listdir(tmp_path)


class TestDescriptors:
    @BOTH
    def test_of_a_copy_are_closed_however_it_ends(self, server, url, target, concurrency):
        getm.copy(url, target, concurrency=concurrency)
        with pytest.raises(getm.IntegrityError):
            getm.copy(url, target, concurrency=concurrency, size=1)
        with pytest.raises(getm.NotFound):
            getm.copy(url + "x", target, concurrency=concurrency)
        getm.copy(url, target, concurrency=concurrency, skip=True)
        assert [] == [each for each in leftovers._descriptors() if str(target.parent) in each]
