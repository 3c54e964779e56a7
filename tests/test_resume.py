"""A copy that was interrupted goes on where it was, if the object is the same, and never with bytes of anything else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import getm
from getm import part as parts
from getm.part import Part
from getm.sources import Version
from tests.content import ramp
from tests.parts import CUT, asked, broken, missing, said, say
from tests.servers.fault import Fault

MIB = 2**20
SIZE = 8 * MIB + 5
SMALL = 2 * MIB + 5
EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)

COPY = """
import sys, getm, getm.part
getm.part.RECORD_SECONDS = 0.0
getm.copy(sys.argv[1], sys.argv[2], concurrency=eval(sys.argv[3]))
"""


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "a.bin"


@pytest.fixture
def waiting(monkeypatch):
    """Return an event that is set when somebody waits for a part that another is writing."""
    event, slept = threading.Event(), time.sleep

    def sleep(seconds):
        event.set()
        slept(seconds)

    monkeypatch.setattr(parts.time, "sleep", sleep)
    return event


@contextmanager
def copying(script, *arguments):
    """Start a process that copies; at the end it is killed, if it was not before, and waited for."""
    folder = Path(getm.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=folder, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def stuck(request):
    """Send the first half of what is asked for, slowly, and no more; but all of what a copy begins with."""
    length = min(request.stop, SIZE) - request.start
    return Fault(pace=8 * MIB, stall=length // 2) if length > MIB else None


def wait_until(condition):
    """Wait for what no event tells."""
    stop = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.005)


def has_finished(target, count):
    with suppress(OSError):
        return sum(stop - start for start, stop in said(target)["finished"]) >= count
    return False


def is_whole(target):
    return ramp(0, SIZE) == target.read_bytes() and [target.name] == os.listdir(target.parent)


class TestKilled:
    @pytest.mark.parametrize(
        ("number", "concurrency"),
        [(signal.SIGKILL, None), (signal.SIGKILL, 1), (signal.SIGKILL, 4), (signal.SIGTERM, 4), (signal.SIGINT, 4)],
    )
    def test_the_next_run_asks_for_what_is_missing_and_nothing_else(self, server, url, target, concurrency, number):
        server.fail(stuck, times=None)
        with copying(COPY, url, target, concurrency) as process:
            wait_until(lambda: has_finished(target, MIB + MIB // 2))
            process.send_signal(number)
            assert b"Error" not in process.stderr.read()
        assert -number == process.returncode
        server.heal()
        record, count = said(target), len(server.log)
        copied = getm.copy(url, target, concurrency=concurrency)
        assert is_whole(target)
        assert missing(record) == asked(server.log[count:], SIZE)
        assert SIZE - sum(stop - start for start, stop in missing(record)) == copied.resumed

    def test_with_its_workers_leaves_what_the_next_run_goes_on_with(self, server, url, target):
        server.fail(stuck, times=None)
        with copying(COPY, url, target, 4) as process:
            wait_until(lambda: has_finished(target, MIB + MIB // 2))
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
        server.heal()
        assert getm.copy(url, target, concurrency=4).resumed > MIB
        assert is_whole(target)

    @EVERY
    def test_between_the_last_byte_and_the_end_leaves_a_byte_to_ask_for(self, server, url, target, concurrency):
        script = "import os, signal, getm.part\n"
        script += "getm.part.Part.publish = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        with copying(script + COPY, url, target, concurrency) as process:
            process.wait()
        assert -signal.SIGKILL == process.returncode
        assert [[0, SIZE]] == said(target)["finished"]
        count = len(server.log)
        assert SIZE == getm.copy(url, target, concurrency=concurrency).resumed
        assert [(0, 1)] == asked(server.log[count:], SIZE)
        assert is_whole(target)

    def test_again_and_again_brings_it_whole(self, server, url, target):
        server.fail(stuck, times=None)
        last = 0
        for _ in range(3):
            with copying(COPY, url, target, None):
                wait_until(lambda last=last: has_finished(target, last + 1))
            last = sum(stop - start for start, stop in said(target)["finished"])
        server.heal()
        assert last == getm.copy(url, target).resumed
        assert is_whole(target)

    def test_leaves_a_lock_to_its_dying_workers_that_is_waited_for(self, server, url, target, waiting):
        broken(server, url, target)
        waiting.clear()
        script = "import fcntl, sys\nfile = open(sys.argv[1], 'r+')\nfcntl.flock(file, 2)\nprint(flush=True)\ninput()"
        with subprocess.Popen(
            [sys.executable, "-c", script, f"{target}.part"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            holder.stdout.readline()
            copy = threading.Thread(target=getm.copy, args=(url, target), kwargs={"concurrency": None})
            copy.start()
            assert waiting.wait(10)
            assert not target.exists()
            holder.stdin.close()
            copy.join()
        assert is_whole(target)


class TestBroken:
    @EVERY
    def test_by_a_server_that_resets_for_good_leaves_what_came(self, server, url, target, concurrency):
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=concurrency, retries=0)
        server.heal()
        record, count = said(target), len(server.log)
        assert MIB < sum(stop - start for start, stop in record["finished"]) < SIZE
        copied = getm.copy(url, target, concurrency=concurrency)
        assert is_whole(target)
        assert missing(record) == asked(server.log[count:], SIZE)
        assert copied.resumed

    @EVERY
    def test_before_any_byte_leaves_nothing(self, server, url, tmp_path, target, concurrency):
        server.fail(Fault(status=404), times=None)
        with pytest.raises(getm.NotFound):
            getm.copy(url, target, concurrency=concurrency)
        server.heal()
        server.fail(Fault(reset=0), times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=concurrency, retries=0)
        assert [] == os.listdir(tmp_path)

    @EVERY
    @pytest.mark.parametrize("fault", [Fault(status=404), Fault(status=403), Fault(status=500), Fault(drop=True)])
    def test_and_then_refused_at_the_first_request_keeps_what_is_there(self, server, url, target, concurrency, fault):
        record = broken(server, url, target)
        server.fail(fault, times=None)
        with pytest.raises(getm.GetmError):
            getm.copy(url, target, concurrency=concurrency, retries=0)
        assert record == said(target)
        server.heal()
        assert SIZE - sum(stop - start for start, stop in missing(record)) == getm.copy(url, target).resumed
        assert is_whole(target)

    def test_of_a_url_that_cannot_be_used_keeps_what_is_there(self, server, url, target):
        record = broken(server, url, target)
        with pytest.raises(getm.UsageError):
            getm.copy("ftp://x/a.bin", target)
        assert record == said(target)

    @EVERY
    @pytest.mark.parametrize("resume", [True, False])
    @pytest.mark.parametrize(
        "wrong", [lambda url: url + "?id=1", lambda url: url + "x", lambda _: "http://127.0.0.1:1/a.bin"], ids=range(3)
    )
    def test_and_then_of_another_url_that_gives_nothing_keeps_what_is_there(
        self, server, url, target, concurrency, wrong, resume
    ):
        record = broken(server, url, target)
        server.fail(Fault(status=403), when=lambda request: request.query, times=None)
        with pytest.raises(getm.GetmError):
            getm.copy(wrong(url), target, concurrency=concurrency, retries=0, resume=resume)
        assert record == said(target)
        assert SIZE - sum(stop - start for start, stop in missing(record)) == getm.copy(url, target).resumed
        assert is_whole(target)

    @EVERY
    @pytest.mark.parametrize("framing", ["length", "chunks"])
    def test_and_then_of_another_url_without_ranges_forgets_what_is_there_before_it_is_written_over(
        self, server, url, target, concurrency, framing
    ):
        broken(server, url, target)
        other = server.put("/other", SIZE)
        server.fail(Fault(whole=True, framing=framing, stall=MIB), times=None)
        options = {"concurrency": concurrency, "retries": 0, "timeout": (5, 0.3)}
        with pytest.raises(getm.TransferTimeout):
            getm.copy(other, target, **options)
        assert not os.path.exists(f"{target}.part.json") or said(target)["url"] == other
        server.heal()
        getm.copy(url, target, **options)
        assert is_whole(target)

    def test_again_leaves_more(self, server, url, target):
        first = broken(server, url, target)
        second = broken(server, url, target)
        assert [[0, MIB + CUT]] == first["finished"]
        assert [[0, MIB + 2 * CUT]] == second["finished"]

    @EVERY
    def test_leaves_nothing_if_it_is_not_to_be_resumed(self, server, url, tmp_path, target, concurrency):
        broken(server, url, target)
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        count = len(server.log)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=concurrency, retries=0, resume=False)
        assert [] == os.listdir(tmp_path)
        assert 0 == server.log[count].start

    def test_is_copied_from_the_start_if_it_is_not_to_be_resumed(self, server, url, target):
        broken(server, url, target)
        count = len(server.log)
        assert 0 == getm.copy(url, target, resume=False).resumed
        assert [(0, SIZE)] == asked(server.log[count:], SIZE)
        assert is_whole(target)

    def test_without_a_range_that_failed_fetches_the_others_meanwhile(self, server, target, monkeypatch):
        url = server.put("/b.bin", 24 * MIB)
        monkeypatch.setattr("getm.engine.feed.SAVE_MOST", 2 * MIB)
        monkeypatch.setattr("getm.engine.troubles.pause", lambda *_: 1.0)
        server.fail(Fault(shorten=1000))
        server.fail(Fault(status=500))
        getm.copy(url, target, concurrency=2)
        starts = [request.start for request in server.log]
        failed = next(request.start for request in server.log if request.status == 500)
        again = [index for index, start in enumerate(starts) if start == failed][1]
        assert again > 5


class TestAnother:
    """What is there is not gone on with, because it is of something else, or that cannot be told."""

    def check(self, server, url, target, size=SIZE, seed=1, **options):
        count = len(server.log)
        assert 0 == getm.copy(url, target, **{"concurrency": None, **options}).resumed
        assert ramp(0, size, seed) == target.read_bytes()
        assert [target.name] == os.listdir(target.parent)
        assert ([(0, size)] if size else []) == asked(server.log[count:], size)

    @EVERY
    @pytest.mark.parametrize("size", [SIZE, SIZE + MIB, 5 * MIB, MIB, 1, 0])
    def test_version_is_copied_from_the_start(self, server, url, target, concurrency, size):
        broken(server, url, target)
        server.put("/a.bin", size)
        self.check(server, url, target, size, concurrency=concurrency)

    def test_version_so_short_that_the_server_knows_no_such_range(self, server, url, target):
        broken(server, url, target)
        server.put("/a.bin", MIB)
        server.fail(Fault(status=416), when=lambda request: request.start >= MIB)  # without `Content-Range`, as S3
        self.check(server, url, target, MIB)

    def test_version_behind_a_server_without_ranges(self, server, url, target):
        broken(server, url, target)
        server.put("/a.bin", 5 * MIB)
        server.fail(Fault(whole=True, framing="chunks"), times=None)
        getm.copy(url, target)
        assert ramp(0, 5 * MIB, 1) == target.read_bytes()

    @pytest.mark.parametrize("etag", ['"other"', 'W/"other"', None])
    def test_etag_of_one_size(self, server, url, target, etag):
        broken(server, url, target)
        server.put("/a.bin", SIZE, {"ETag": etag, "Last-Modified": None})
        self.check(server, url, target)

    @EVERY
    def test_object_by_its_query(self, server, url, target, concurrency):
        broken(server, url + "?id=1", target)
        self.check(server, url + "?id=2", target, seed=0, concurrency=concurrency)

    def test_object_in_the_middle_leaves_nothing(self, server, url, tmp_path, target):
        def fault(request):
            if request.start:
                server.put("/a.bin", SIZE)

        server.fail(fault)
        with pytest.raises(getm.ObjectChanged):
            getm.copy(url, target, concurrency=None)
        assert [] == os.listdir(tmp_path)

    @pytest.mark.parametrize("headers", [{"ETag": None, "Last-Modified": None}, {"ETag": 'W/"1"', "Last-Modified": None}])
    @EVERY
    def test_object_cannot_be_told_without_a_validator(self, server, tmp_path, target, concurrency, headers):
        url = server.put("/b.bin", SIZE, headers)
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=concurrency, retries=0)
        assert [] == os.listdir(tmp_path)

    def test_file_with_that_name_is_not_gone_on_with(self, server, url, target):
        broken(server, url, target)
        shutil.copy(f"{target}.part", f"{target}.other")
        os.replace(f"{target}.other", f"{target}.part")
        self.check(server, url, target, seed=0)

    @pytest.mark.parametrize("size", [0, MIB, SIZE + 1])
    def test_length_of_the_file_than_the_recorded(self, server, url, target, size):
        broken(server, url, target)
        os.truncate(f"{target}.part", size)
        self.check(server, url, target, seed=0)

    def test_boot_has_only_what_was_flushed(self, server, url, target):
        broken(server, url, target)
        say(target, boot="another", flushed=[[0, MIB], [MIB + 100, MIB + 200]])
        count = len(server.log)
        assert MIB + 100 == getm.copy(url, target).resumed
        assert [(MIB, MIB + 100), (MIB + 200, SIZE)] == asked(server.log[count:], SIZE)
        assert is_whole(target)

    def test_boot_has_nothing_where_nothing_was_flushed(self, server, url, target):
        broken(server, url, target)
        say(target, boot="another")
        count = len(server.log)
        assert 0 == getm.copy(url, target).resumed
        assert [(0, SIZE)] == asked(server.log[count:], SIZE)

    def test_boot_of_a_machine_that_does_not_name_them_has_nothing(self, server, url, tmp_path, target, monkeypatch):
        def boot():
            raise FileNotFoundError

        monkeypatch.setattr(parts, "_boot", boot)
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=None, retries=0)
        assert [] == os.listdir(tmp_path)


class TestTheSame:
    def check(self, server, url, target):
        count = len(server.log)
        assert getm.copy(url, target, concurrency=None).resumed > MIB
        assert is_whole(target)
        assert server.log[count].start >= MIB

    @pytest.mark.parametrize(
        "signatures",
        [
            ["X-Amz-Signature={}&X-Amz-Date=20260101T00000{}Z&X-Amz-Expires=99", "a", "b"],
            ["sig={}&se=2099-01-01T00:00:0{}Z&sv=1", "a", "b"],
        ],
        ids=["aws", "azure"],
    )
    def test_with_another_signature(self, server, url, target, signatures):
        form, *others = signatures
        first, second = (f"{url}?{form.format(other, number)}" for number, other in enumerate(others))
        broken(server, first, target)
        assert "igna" not in Path(f"{target}.part.json").read_text("utf-8")
        self.check(server, second, target)

    def test_with_a_weak_etag_and_a_time(self, server, target):
        url = server.put("/b.bin", SIZE, {"ETag": 'W/"1"'})
        broken(server, url, target)
        self.check(server, url, target)

    def test_behind_a_redirect(self, server, url, target):
        server.fail(Fault(status=302, headers={"Location": url}), when=lambda request: request.path == "/first", times=None)
        first = f"{server.url}/first?key=secret"
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.GetmError):
            getm.copy(first, target, concurrency=None, retries=0)
        server.heal()
        server.fail(Fault(status=302, headers={"Location": url}), when=lambda request: request.path == "/first", times=None)
        assert url == said(target)["url"]
        self.check(server, first, target)

    def test_with_another_number_of_requests_at_once(self, server, url, target):
        broken(server, url, target, concurrency=4)
        self.check(server, url, target)

    def test_holds_secrets_nowhere(self, server, url, target):
        address = url.replace("://", "://user:password@") + "?token=abracadabra"
        record = broken(server, address, target, headers={"Authorization": "Bearer simsalabim"})
        text = json.dumps(record)
        assert url == record["url"]
        assert not [secret for secret in ("user:", "password", "abracadabra", "simsalabim") if secret in text]
        assert 0o600 == Path(f"{target}.part.json").stat().st_mode & 0o777

    def test_on_a_server_that_lost_its_ranges(self, server, url, target):
        broken(server, url, target)
        server.fail(Fault(whole=True), times=None)
        getm.copy(url, target)
        assert is_whole(target)


HOSTILE = {
    "nothing": "",
    "text": '"text"',
    "null": "null",
    "list": "[]",
    "number": "1e999",
    "half": '{"object": "',
    "bytes": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "deep-ranges": '{"finished": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "long": "[" + "1," * 4_000_000 + "1]",
    "digits": "9" * 10_000,
}
RANGES = {
    "negative": [[-5, 10]],
    "overlapping": [[0, 10], [5, 20]],
    "backwards": [[10, 0]],
    "out-of-order": [[20, 30], [0, 10]],
    "empty": [[5, 5]],
    "beyond": [[0, 2**62]],
    "behind-the-file": [[0, SMALL]],
    "floats": [[0.0, 10.0]],
    "infinite": [[0, float("inf")]],
    "nan": [[float("nan"), 10]],
    "booleans": [[False, True]],
    "texts": ["05"],
    "a-text": "0123",
    "object": {"05": 1},
    "triples": [[0, 5, 10]],
    "number": 5,
    "null": None,
    "nested": [[[0], [5]]],
}
FACTS = {
    "size-text": {"size": str(SMALL)},
    "size-negative": {"size": -1},
    "size-infinite": {"size": float("inf")},
    "size-other": {"size": SMALL - 1},
    "size-short": {"size": 10},
    "etag-number": {"etag": 5},
    "etag-list": {"etag": ["x"]},
    "no-validator": {"etag": None, "last_modified": None},
    "last-modified-number": {"etag": None, "last_modified": 5},
    "inode": {"inode": None},
    "object": {"object": ["x"]},
}


class TestRecord:
    """Whatever a record says, the copy is right, and what it cannot say is not believed."""

    @pytest.fixture
    def url(self, server):
        return server.put("/a.bin", SMALL)

    def check(self, server, url, target):
        count = len(server.log)
        assert 0 == getm.copy(url, target, concurrency=None).resumed
        assert [(0, SMALL)] == asked(server.log[count:], SMALL)
        assert ramp(0, SMALL) == target.read_bytes()
        assert [target.name] == os.listdir(target.parent)

    @pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
    def test_that_is_none(self, server, url, target, content):
        broken(server, url, target)
        Path(f"{target}.part.json").write_bytes(content.encode() if isinstance(content, str) else content)
        self.check(server, url, target)

    @pytest.mark.parametrize(
        ("name", "ranges"),
        [*(("finished", ranges) for ranges in RANGES.values()), ("flushed", None), ("flushed", [[0, SMALL]])],
    )
    def test_with_ranges_that_cannot_be(self, server, url, target, ranges, name):
        broken(server, url, target)
        say(target, **{name: ranges})
        self.check(server, url, target)

    @pytest.mark.parametrize("facts", FACTS.values(), ids=FACTS)
    def test_with_facts_that_cannot_be(self, server, url, target, facts):
        broken(server, url, target)
        say(target, **facts)
        self.check(server, url, target)

    @pytest.mark.parametrize("name", ["object", "inode", "size", "etag", "last_modified", "boot", "finished", "flushed"])
    def test_that_lacks_something(self, server, url, target, name):
        record = broken(server, url, target)
        del record[name]
        Path(f"{target}.part.json").write_text(json.dumps(record), "utf-8")
        self.check(server, url, target)

    def test_that_is_a_pipe_is_not_waited_for(self, server, url, target):
        broken(server, url, target)
        os.unlink(f"{target}.part.json")
        os.mkfifo(f"{target}.part.json")
        self.check(server, url, target)

    def test_that_is_a_folder_is_an_error_that_names_it(self, server, url, target):
        os.mkdir(f"{target}.part.json")
        with pytest.raises(IsADirectoryError) as caught:
            getm.copy(url, target, concurrency=None)
        assert f"{target}.part.json" == caught.value.filename

    @pytest.mark.parametrize("name", [".part.json", ".part.json.new"])
    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_that_is_a_link_overwrites_nothing(self, server, url, tmp_path, target, name, link):
        (tmp_path / "precious").write_bytes(b"precious")
        link(tmp_path / "precious", f"{target}{name}")
        broken(server, url, target)
        assert b"precious" == (tmp_path / "precious").read_bytes()
        assert not os.path.islink(f"{target}.part.json")
        getm.copy(url, target)
        assert {"precious", "a.bin"} == set(os.listdir(tmp_path))
        assert b"precious" == (tmp_path / "precious").read_bytes()

    def test_to_be_that_is_a_pipe_is_not_waited_for(self, server, url, target):
        os.mkfifo(f"{target}.part.json.new")
        assert broken(server, url, target)["finished"]

    def test_that_cannot_be_written_leaves_nothing(self, server, url, tmp_path, target):
        os.mkdir(f"{target}.part.json.new")
        server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=None, retries=0)
        assert ["a.bin.part.json.new"] == os.listdir(tmp_path)

    def test_that_is_written_to_a_full_disk_leaves_no_half_of_it(self, server, url, tmp_path, target, monkeypatch):
        record = broken(server, url, target)

        def dump(_record, file):
            file.write("{")
            file.flush()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(parts.json, "dump", dump)
        server.fail(Fault(reset=1000), when=lambda request: request.start > 0, times=None)
        with pytest.raises(getm.ShortRead):
            getm.copy(url, target, concurrency=None, retries=0)
        assert record == said(target)
        assert {"a.bin.part", "a.bin.part.json"} == set(os.listdir(tmp_path))

    def test_of_no_version_is_not_believed(self, tmp_path):
        with Part(str(tmp_path / "a")) as part:
            said = {"object": parts._digest("x"), "inode": os.fstat(part.descriptor).st_ino, "boot": parts._boot()}
        for last_modified in ("", "x"):
            record = {**said, "size": 1, "etag": None, "last_modified": last_modified, "finished": [], "flushed": []}
            Path(f"{part.path}.json").write_text(json.dumps(record), "utf-8")
            with Part(str(tmp_path / "a")) as part:
                assert bool(last_modified) == (part.read("x") is not None)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_of_any_form_names_at_most_what_the_file_holds(self, tmp_path, data):
        number = st.one_of(st.integers(-10, 150), st.integers(), st.floats(), st.none(), st.text(max_size=3), st.booleans())
        anything = st.recursive(number, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
        spans = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)).map(sorted), max_size=4).map(sorted)
        size = data.draw(st.integers(0, 100))
        with Part(str(tmp_path / "a")) as part:
            os.ftruncate(part.descriptor, size)
            record = {
                "object": parts._digest("x"),
                "inode": os.fstat(part.descriptor).st_ino,
                "size": data.draw(st.one_of(st.integers(0, 150), number)),
                "etag": data.draw(st.one_of(st.just('"x"'), anything)),
                "last_modified": data.draw(st.one_of(st.none(), st.text(max_size=3), anything)),
                "boot": data.draw(st.sampled_from([parts._boot(), "", None, []])),
                "finished": data.draw(st.one_of(spans, anything)),
                "flushed": data.draw(st.one_of(st.just([]), spans, anything)),
            }
            for name in data.draw(st.sets(st.sampled_from(sorted(record)), max_size=1)):
                del record[name]
            Path(f"{part.path}.json").write_text(json.dumps(record), "utf-8")
            found = part.read("x")
            if found is not None:
                bounds = [0, *(bound for span in found.finished for bound in span), min(size, found.version.size)]
                assert sorted(bounds) == bounds
                assert all(start < stop for start, stop in found.finished)
                assert all(left[1] <= right[0] for left, right in pairwise(found.finished))
                assert found.version.validator
            part.discard()

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(content=st.one_of(st.binary(max_size=100), st.text("[]{}:,\"'e0919-.NaInfity ", max_size=60).map(str.encode)))
    def test_of_any_bytes_is_read_without_an_error(self, tmp_path, content):
        with Part(str(tmp_path / "a")) as part:
            Path(f"{part.path}.json").write_bytes(content)
            assert part.read("x") is None
            part.discard()


class TestPace:
    def test_of_records_is_quick_at_first(self, target, monkeypatch):
        now = 0.0
        monkeypatch.setattr(parts.time, "monotonic", lambda: now)
        with Part(str(target)) as part:
            part.begin()
            os.truncate(part.path, 100)
            recorded = []
            for tick in range(1, 500):
                now = tick / 100
                part.note("url", "identity", Version(1000, '"etag"', None), [(100 * tick // 500, 1000)])
                content = Path(f"{part.path}.json").read_text() if part.is_recorded else None
                if content is not None and [content] != recorded[-1:]:
                    recorded.append(content)
            times = [5 * json.loads(content)["finished"][0][1] / 100 for content in recorded]
            part.discard()
        assert times == pytest.approx([0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5], abs=0.06)


class TestFlush:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        monkeypatch.setattr(parts, "RECORD_SECONDS", 0.0)
        monkeypatch.setattr(parts, "FLUSH_SECONDS", 0.0)

    def test_records_what_is_on_the_disk(self, server, url, target, monkeypatch):
        flushed = []

        def fdatasync(descriptor):
            flushed.append(os.fstat(descriptor).st_size)

        monkeypatch.setattr(parts.os, "fdatasync", fdatasync)
        record = broken(server, url, target)
        assert [[0, flushed[-1]]] == record["flushed"]
        assert record["finished"][0][1] >= flushed[-1]
        say(target, boot="another")
        assert flushed[-1] == getm.copy(url, target).resumed
        assert is_whole(target)

    def test_that_fails_is_the_end_and_what_may_be_lost_is_not_recorded(self, url, tmp_path, target, monkeypatch):
        def fdatasync(_descriptor):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(parts.os, "fdatasync", fdatasync)
        with pytest.raises(OSError, match="Input/output error") as caught:
            getm.copy(url, target, concurrency=None)
        assert f"{target}.part" == caught.value.filename
        assert [] == os.listdir(tmp_path)


class TestTwo:
    def test_copies_to_one_file_are_one_and_an_error(self, server, url, target, monkeypatch):
        monkeypatch.setattr(parts, "LOCK_SECONDS", 0.1)
        release = threading.Event()
        server.fail(Fault(stall=CUT, release=release), when=lambda request: request.start > 0)
        copied = []
        first = threading.Thread(target=lambda: copied.append(getm.copy(url, target, concurrency=None)))
        first.start()
        server.wait_for(lambda log: any(request.sent == CUT for request in log))
        with pytest.raises(OSError, match="another copy is writing this file") as caught:
            getm.copy(url, target, concurrency=None)
        assert f"{target}.part" == caught.value.filename
        release.set()
        first.join()
        assert SIZE == copied[0].size
        assert is_whole(target)

    def test_that_waits_for_the_first_does_not_touch_its_file(self, server, url, tmp_path, target, monkeypatch):
        """The first is done while the second waits for the lock of what is the target by then."""
        flock, waiting, locked = parts.fcntl.flock, threading.Event(), threading.Event()

        def slow(*arguments):
            waiting.set()
            assert locked.wait(10)
            flock(*arguments)

        with Part(str(target)) as part:
            os.write(part.descriptor, b"first")
            monkeypatch.setattr(parts.fcntl, "flock", slow)
            second = threading.Thread(target=getm.copy, args=(url, target), kwargs={"concurrency": None})
            second.start()
            assert waiting.wait(10)
            monkeypatch.setattr(parts.fcntl, "flock", flock)
            part.publish(modified=None, is_durable=False)
        with open(target, "rb") as first:
            locked.set()
            second.join()
            assert b"first" == first.read()
        assert is_whole(target)

    def test_of_which_one_has_discarded_what_the_other_waits_for(self, server, url, target, waiting):
        with Part(str(target)) as part:
            Path(f"{target}.part.json").write_text("{}", "utf-8")
            second = threading.Thread(target=getm.copy, args=(url, target), kwargs={"concurrency": None})
            second.start()
            assert waiting.wait(10)
            part.discard()
        second.join()
        assert is_whole(target)

    def test_of_which_the_second_fails_leave_nothing_that_the_first_had_recorded(self, server, url, target, waiting):
        def fail():
            with pytest.raises(getm.NotFound):
                getm.copy(url, target, concurrency=None)

        with Part(str(target)) as part:
            Path(f"{target}.part.json").write_text("{}", "utf-8")
            server.fail(Fault(status=404), times=None)
            second = threading.Thread(target=fail)
            second.start()
            assert waiting.wait(10)
            os.write(part.descriptor, b"whole")
            part.publish(modified=None, is_durable=False)
        second.join()
        assert ["a.bin"] == os.listdir(target.parent)

    @EVERY
    def test_after_one_another_do_not_wait_long_for_the_first_that_failed(self, server, url, target, concurrency):
        server.fail(Fault(stall=CUT), when=lambda request: request.start > 0, times=None)
        server.fail(Fault(whole=True, cut=CUT), times=None)
        with pytest.raises(getm.GetmError) as kept:  # and with it the frames of the first
            getm.copy(url, target, concurrency=concurrency, retries=0)
        server.heal()
        getm.copy(url, target, concurrency=concurrency)
        assert is_whole(target)
        assert kept.value is not None

    def test_copies_where_there_are_no_locks(self, url, target, monkeypatch):
        def flock(*_):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(parts.fcntl, "flock", flock)
        getm.copy(url, target)
        assert is_whole(target)

    def test_names_of_one_part_are_not_written_through(self, server, url, tmp_path, target):
        broken(server, url, target)
        os.link(f"{target}.part", tmp_path / "backup")
        before = (tmp_path / "backup").read_bytes()
        getm.copy(url, target)
        assert ramp(0, SIZE) == target.read_bytes()
        assert before == (tmp_path / "backup").read_bytes()


class TestFork:
    @EVERY
    def test_of_a_process_that_copies_keeps_nothing_locked(self, server, url, target, concurrency):
        children = []

        def fork(_count, _total):
            if not children:
                children.append(os.fork())
                if not children[0]:
                    signal.pause()

        server.fail(Fault(status=500), when=lambda request: request.start > 2 * MIB, times=None)
        server.fail(Fault(shorten=2 * MIB), times=None)
        try:
            with pytest.raises(getm.BadStatus):
                getm.copy(url, target, concurrency=concurrency, retries=0, progress=fork)
            server.heal()
            assert getm.copy(url, target, concurrency=concurrency).resumed
            assert is_whole(target)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    @EVERY
    def test_that_ends_in_the_child_leaves_the_copy_alone(self, url, target, concurrency):
        codes = []

        def fork(_count, _total):
            if codes:
                return
            child = os.fork()
            if child:
                codes.append(os.waitpid(child, 0)[1])
            else:
                raise SystemExit(7)

        process = os.getpid()
        try:
            getm.copy(url, target, concurrency=concurrency, progress=fork)
        except SystemExit:
            if os.getpid() != process:
                os._exit(7)
            raise
        assert [7 << 8] == codes
        assert is_whole(target)
