"""A copy ends as a whole file in its place, or as an error and nothing."""

import os
import stat

import pytest

import getm
from tests.content import ramp
from tests.servers.fault import Fault

BLOCK = MIB = 2**20
SIZE = 4 * BLOCK + 5

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


class TestTarget:
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

    @EVERY
    def test_a_dripping_body_is_a_stall(self, server, url, tmp_path, concurrency):
        server.fail(Fault(pace=100), times=None)
        for resume in (True, False):
            with pytest.raises(getm.TransferTimeout):
                getm.copy(url, tmp_path / "a.bin", concurrency=concurrency, timeout=(5, 0.2), retries=0, resume=resume)
            assert ({"a.bin.part", "a.bin.part.json"} if resume else set()) == set(os.listdir(tmp_path))
