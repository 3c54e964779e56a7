"""A copy ends as a whole file in its place, or as an error and nothing."""

import errno
import hashlib
import os
import stat

import pytest

import getm
from getm.engine import planner, runs
from tests.content import ramp
from tests.servers.fault import Fault

BLOCK = MIB = 2**20
SIZE = 4 * BLOCK + 5

IN_PARTS = {"x-amz-request-id": "1", "ETag": f'"{"0" * 32}-3"'}  # and how long they were, nobody knows

UNTOLD = "not verified, only who knows how long its parts were can tell: give s3-etag:HEX-N:LENGTH"

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


class TestTerms:
    def test_leave_a_file_alone_whose_etag_tells_nothing_by_size_and_time(self, server, tmp_path):
        url = server.put("/a.bin", SIZE, headers=IN_PARTS)
        getm.copy(url, tmp_path / "a.bin")
        assert getm.copy(url, tmp_path / "a.bin", skip=True).is_skipped
        assert [(0, 1)] == [(request.start, request.stop) for request in server.log[-1:]]

    def test_do_not_leave_a_file_alone_that_has_another_size(self, url, tmp_path):
        getm.copy(url, tmp_path / "a.bin")
        with pytest.raises(getm.IntegrityError, match=f"{SIZE + 1} bytes were promised") as caught:
            getm.copy(url, tmp_path / "a.bin", skip=True, size=SIZE + 1)
        assert url == caught.value.url

    def test_of_a_digest_that_cannot_be_told_are_an_error_before_a_byte_where_no_length_fits(self, server, url, tmp_path):
        with pytest.raises(getm.IntegrityError, match=UNTOLD):
            getm.copy(url, tmp_path / "a.bin", checksum=f"s3-etag:{'0' * 32}-777")
        assert [] == list(tmp_path.iterdir())
        assert 1 == len(server.log)

    def test_of_a_digest_that_cannot_be_told_leave_what_they_brought_to_who_can(self, server, tmp_path):
        content = ramp(0, 20 * MIB + 5)
        url = server.put("/b.bin", content)
        parts = [content[start : start + 7 * MIB] for start in range(0, len(content), 7 * MIB)]
        etag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + "-3"
        with pytest.raises(getm.IntegrityError, match=UNTOLD) as caught:
            getm.copy(url, tmp_path / "b.bin", checksum=f"s3-etag:{etag}")
        assert ("s3-etag", etag, "") == (caught.value.algorithm, caught.value.expected, caught.value.actual)
        assert {"b.bin.part", "b.bin.part.json"} == set(os.listdir(tmp_path))
        before = len(server.log)
        copied = getm.copy(url, tmp_path / "b.bin", checksum=f"s3-etag:{etag}:7MiB")
        assert ("the caller", len(content)) == (copied.verified, copied.resumed)
        assert content == (tmp_path / "b.bin").read_bytes()
        assert [(0, 1)] == [(request.start, request.stop) for request in server.log[before:]]

    @pytest.mark.parametrize("terms", [{"limit_rate": "2M"}, {"limit_rate": 1}, {"size": "12"}, {"checksum": ""}], ids=repr)
    def test_that_make_no_sense_are_refused(self, server, url, tmp_path, terms):
        with pytest.raises(getm.UsageError):
            getm.copy(url, tmp_path / "a.bin", **terms)
        assert [] == server.log

    def test_without_a_byte_for_too_long_are_over(self, server, url, tmp_path):
        server.fail(Fault(delay=60.0), times=None)
        with pytest.raises(getm.TransferTimeout):
            getm.copy(url, tmp_path / "a.bin", deadline=0.2)


class TestTarget:
    def test_may_be_bytes(self, url, tmp_path):
        assert str(tmp_path / "a.bin") == getm.copy(url, os.fsencode(tmp_path / "a.bin")).path

    def test_that_ends_in_a_slash_is_an_error(self, server, url, tmp_path):
        with pytest.raises(IsADirectoryError):
            getm.copy(url, f"{tmp_path}/missing/")
        assert [] == server.log

    def test_keeps_its_mode(self, url, tmp_path):
        target = tmp_path / "a.bin"
        target.write_bytes(b"old")
        target.chmod(0o600)
        getm.copy(url, target)
        assert 0o600 == stat.S_IMODE(target.stat().st_mode)
        assert ramp(0, SIZE) == target.read_bytes()

    def test_that_is_a_link_is_followed(self, url, tmp_path):
        (tmp_path / "folder").mkdir()
        link = tmp_path / "link"
        link.symlink_to("folder/a.bin")
        for _ in range(2):
            assert str(link) == getm.copy(url, link).path
            assert link.is_symlink()
            assert ramp(0, SIZE) == (tmp_path / "folder" / "a.bin").read_bytes()
        assert ["a.bin"] == os.listdir(tmp_path / "folder")

    def test_that_is_no_regular_file_is_left_alone(self, server, url, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("pipe")
        for name in ("pipe", "link"):
            with pytest.raises(OSError, match="not a regular file") as caught:
                getm.copy(url, tmp_path / name)
            assert str(tmp_path / name) == caught.value.filename
        with pytest.raises(IsADirectoryError):
            getm.copy(url, tmp_path)
        assert (tmp_path / "pipe").is_fifo()
        assert [] == server.log

    @pytest.mark.parametrize(("length", "is_possible"), [(250, True), (251, False), (255, False), (256, False)])
    def test_a_name_wants_room_for_that_of_the_unfinished_file(self, server, url, tmp_path, length, is_possible):
        target = tmp_path / ("n" * length)
        if is_possible:
            assert SIZE == getm.copy(url, target).size
            return
        with pytest.raises(OSError, match="too long") as caught:
            getm.copy(url, target)
        assert (errno.ENAMETOOLONG, str(target), []) == (caught.value.errno, caught.value.filename, server.log)
        assert (".part" in str(caught.value)) == (length < 256)

    def test_without_a_folder_is_an_error_that_names_the_folder(self, server, url, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            getm.copy(url, tmp_path / "missing" / "a.bin")
        assert str(tmp_path / "missing") == caught.value.filename
        with pytest.raises(getm.UsageError, match="empty"):
            getm.copy(url, "")
        assert [] == server.log

    def test_whose_part_is_a_link_is_an_error(self, url, tmp_path):
        (tmp_path / "a.part").symlink_to("elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            getm.copy(url, tmp_path / "a")
        assert not (tmp_path / "elsewhere").exists()


class TestTrouble:
    @EVERY
    def test_bodies_that_all_break_off_in_the_middle_are_gone_on_with(self, server, url, tmp_path, concurrency):
        server.fail(lambda request: Fault(cut=(min(request.stop, SIZE) - request.start) // 2 + 1), times=None)
        getm.copy(url, tmp_path / "a.bin", concurrency=concurrency, retries=1)
        assert ramp(0, SIZE) == (tmp_path / "a.bin").read_bytes()
        answered = sum(request.sent for request in server.wait_for(lambda log: all(one.finished for one in log)))
        assert answered <= SIZE + 64 * len(server.log)

    def test_a_limited_rate_takes_no_more_requests_than_there_are_parts(self, server, tmp_path):
        url = server.put("/c.bin", 3 * MIB)
        getm.copy(url, tmp_path / "c.bin", concurrency=8, limit_rate=3 * MIB)
        assert 3 >= len(server.log)

    def test_all_connections_share_a_limited_rate(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(planner, "CROWD", 1)
        url = server.put("/c.bin", 16 * MIB)
        getm.copy(url, tmp_path / "c.bin", concurrency=4, limit_rate=16 * MIB)
        assert 5 <= len(server.log)  # the first MiB, and a part of the rest for each

    @pytest.mark.parametrize("algorithm", [None, "sha256"])
    @pytest.mark.parametrize(
        "fault",
        [Fault(pace=MIB / 2), Fault(stall=MIB), Fault(stall=1000), Fault(stall=0)],
        ids=["slow", "silent", "mute", "dumb"],
    )
    def test_what_a_late_connection_still_has_to_bring_is_brought_by_others(
        self, server, tmp_path, monkeypatch, fault, algorithm
    ):
        monkeypatch.setattr(planner, "CROWD", 4)
        monkeypatch.setattr(runs, "STUCK_SECONDS", 0.3)
        size = 32 * MIB + 5
        url = server.put("/c.bin", size)
        server.fail(fault, when=lambda request: request.start > 16 * MIB)
        checksum = algorithm and f"{algorithm}:{hashlib.new(algorithm, ramp(0, size)).hexdigest()}"
        getm.copy(url, tmp_path / "c.bin", checksum=checksum, concurrency=4, retries=0, timeout=(5, 60))
        assert ramp(0, size) == (tmp_path / "c.bin").read_bytes()
        late = next(request for request in server.log if request.start > 16 * MIB)
        assert late.sent < late.stop - late.start

    @EVERY
    def test_a_dripping_body_is_a_stall(self, server, url, tmp_path, concurrency):
        server.fail(Fault(pace=100), times=None)
        for resume in (True, False):
            with pytest.raises(getm.TransferTimeout):
                getm.copy(url, tmp_path / "a.bin", concurrency=concurrency, timeout=(5, 0.2), retries=0, resume=resume)
            assert ({"a.bin.part", "a.bin.part.json"} if resume else set()) == set(os.listdir(tmp_path))
