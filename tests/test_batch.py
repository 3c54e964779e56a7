"""Many copies from Python: what each entry becomes, in which order, at what cost, and how all end."""

import contextlib
import io
import os
import threading
from pathlib import Path

import pytest

import getm
from getm import batch, config, manifest
from getm.transfer import Terms
from tests.content import assert_ramp
from tests.servers.answer import Fault
from tests.threads import in_thread

MIB = 1 << 20
SECRET = "hunter2"


@pytest.fixture
def urls(server):
    """Serve three objects of 100,000 bytes."""
    return [server.put(f"/{number}", 100_000) + f"?key={SECRET}" for number in range(3)]


def assert_copied(folder, *paths):
    assert sorted(paths) == sorted(os.path.relpath(each, folder) for each in Path(folder).rglob("*") if each.is_file())
    for path in paths:
        assert_ramp((Path(folder) / path).read_bytes(), 0)


class TestCopyMany:
    def test_takes_urls_objects_and_entries(self, urls, tmp_path):
        given = [urls[0], {"url": urls[1], "filepath": "a/b"}, manifest.Entry(urls[2], "c", place="mine")]
        results = getm.copy_many(given, tmp_path)
        assert_copied(tmp_path, "0", "a/b", "c")
        assert [os.fspath(tmp_path / path) for path in ("0", "a/b", "c")] == [result.path for result in results]
        assert ["entry 1", "entry 2", "mine"] == [result.entry.place for result in results]
        assert [100_000] * 3 == [result.copied.size for result in results]

    def test_takes_the_path_of_a_manifest(self, urls, tmp_path):
        path = tmp_path / "list"
        path.write_text("\n".join(urls))
        assert 3 == len(getm.copy_many(path, tmp_path / "new"))
        assert_copied(tmp_path / "new", "0", "1", "2")

    @pytest.mark.parametrize("concurrency", [None, 1, 4])
    @pytest.mark.parametrize("jobs", [1, 3, 20])
    def test_brings_large_and_small_ones(self, server, urls, tmp_path, concurrency, jobs):
        large = [server.put(f"/large{number}", 3 * MIB) for number in range(2)]
        results = getm.copy_many([large[0], *urls, large[1]], tmp_path, jobs=jobs, concurrency=concurrency)
        assert [None] * 5 == [result.error for result in results]
        assert_copied(tmp_path, "0", "1", "2", "large0", "large1")

    def test_without_entries_does_nothing(self, tmp_path):
        assert [] == getm.copy_many([], tmp_path / "folder")
        assert [] == list(tmp_path.iterdir())

    def test_tells_of_each_when_it_is_done_in_the_calling_thread(self, server, urls, tmp_path):
        told = []
        release = threading.Event()
        server.fail(Fault(delay=release), when=lambda request: request.path == "/0")

        def note(result):
            told.append((threading.current_thread(), result))
            if len(told) == 2:
                release.set()

        results = getm.copy_many(urls, tmp_path, on_result=note)
        assert {threading.current_thread()} == {thread for thread, _ in told}
        assert results[0] is told[2][1]
        assert results == sorted((result for _, result in told), key=lambda result: result.path)

    def test_goes_on_after_a_failure(self, server, urls, tmp_path):
        results = getm.copy_many([server.url + f"/missing?{SECRET}", *urls], tmp_path)
        assert [getm.NotFound] + [type(None)] * 3 == [type(result.error) for result in results]
        assert_copied(tmp_path, "0", "1", "2")
        assert SECRET not in repr(results)

    def test_stops_after_a_failure_if_told_so(self, server, urls, tmp_path):
        results = getm.copy_many([server.url + "/missing", *urls], tmp_path, jobs=1, fail_fast=True)
        assert [getm.NotFound] == [type(result.error) for result in results]
        assert [] == list(tmp_path.iterdir())

    def test_leaves_alone_what_is_there(self, server, urls, tmp_path):
        assert [False] * 3 == [result.copied.is_skipped for result in getm.copy_many(urls, tmp_path)]
        assert [True] * 3 == [result.copied.is_skipped for result in getm.copy_many(urls, tmp_path)]
        assert [False] * 3 == [result.copied.is_skipped for result in getm.copy_many(urls, tmp_path, terms=getm.Terms())]

    @pytest.mark.parametrize("skip", [False, True])
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(delay=60.0),
            Fault(status=503, headers={"Retry-After": "60"}),
            Fault(whole=True, framing="connection", stall=1000),
        ],
        ids=["silence", "a pause", "a length"],
    )
    def test_stops_those_that_wait_for_a_first_answer_and_leaves_no_thread(self, server, urls, tmp_path, fault, skip):
        waiting = threading.Event()
        server.fail(fault, when=lambda request: request.path == "/0", times=None)
        server.fail(Fault(status=404, delay=waiting), when=lambda request: request.path == "/1")
        (tmp_path / "0").write_bytes(b"old")
        terms = getm.Terms(skip=skip)
        results = in_thread(lambda: getm.copy_many(urls, tmp_path, jobs=2, fail_fast=True, terms=terms))
        server.wait_for(
            lambda log: (
                {"/0", "/1"} == {request.path for request in log}
                and (fault.delay or any(request.status for request in log if request.path == "/0"))
            )
        )
        waiting.set()
        (failed,) = results()
        assert isinstance(failed.error, getm.NotFound)
        assert [] == [thread for thread in threading.enumerate() if "_work" in thread.name]
        assert ["0"] == os.listdir(tmp_path)
        assert {"/0", "/1"} == {request.path for request in server.log}

    def test_progress_is_drawn_or_not(self, server, urls, tmp_path):
        with pytest.raises(getm.UsageError, match="progress must be True or False"):
            getm.copy_many(urls, tmp_path, progress=print)
        with pytest.raises(getm.UsageError, match="progress must be True, False or a function"):
            getm.copy(urls[0], tmp_path / "a", progress=5)
        assert [] == server.log

    def test_an_error_of_who_is_told_stops_all(self, server, urls, tmp_path):
        def note(result):
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            getm.copy_many(urls, tmp_path, jobs=1, on_result=note)
        assert "/2" not in {request.path for request in server.log}
        assert not list(tmp_path.glob("*.part"))

    @pytest.mark.parametrize(
        ("given", "options", "problem"),
        [
            (["ftp://host/a"], {}, "entry 1: "),
            (["http://host/a", "http://host/a"], {}, "same target"),
            ([{"url": "http://host/a", "path": "/a"}], {}, "absolute"),
            ([{"url": "http://host/a", "checksum": "md5:1"}], {}, "entry 1: "),
            ([], {"jobs": 0}, "jobs"),
            ([], {"concurrency": 0}, "concurrency"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_starts(self, tmp_path, given, options, problem):
        with pytest.raises(getm.UsageError, match=problem):
            getm.copy_many(given, tmp_path / "new", **options)
        assert [] == list(tmp_path.iterdir())

    def test_an_option_that_is_none_is_refused(self, tmp_path):
        with pytest.raises(TypeError, match="no such option"):
            getm.copy_many([], tmp_path, wrong=1)

    def test_an_absolute_path_is_taken_if_told_so(self, urls, tmp_path):
        path = os.fspath(tmp_path / "x" / "a")
        getm.copy_many([{"url": urls[0], "path": path}], tmp_path / "folder", allow_absolute=True)
        assert_copied(tmp_path, "x/a")

    def test_draws_a_line_for_all_if_told_so(self, urls, tmp_path):
        drawn = io.StringIO()
        with contextlib.redirect_stderr(drawn):
            getm.copy_many(urls, tmp_path, progress=True)
        assert "all files: 100%" in drawn.getvalue()
        assert drawn.getvalue().endswith("\n")

    def test_uses_the_engine_it_is_given(self, urls, tmp_path, new_engine):
        engine = new_engine(processes=0)
        getm.copy_many(urls, tmp_path, engine=engine)
        assert 3 == engine.stats.requests

    def test_no_engine_can_be_had_is_an_error_of_each(self, server, tmp_path, monkeypatch):
        def attach(*arguments, **options):
            raise getm.WorkerError("none to be had")

        monkeypatch.setattr(getm.Engine, "attach", attach)
        results = getm.copy_many([server.put("/0", 9), server.put("/1", 9)], tmp_path)
        assert [getm.WorkerError] * 2 == [type(result.error) for result in results]
        assert [] == list(tmp_path.iterdir())


class TestJobs:
    """One after the other as long as each is soon done, and as many at once as may be where they wait."""

    @pytest.fixture
    def small(self, server):
        return [server.put(f"/{number:02}", 1000 + number) for number in range(40)]

    def test_what_is_soon_done_takes_one_connection(self, server, small, tmp_path, monkeypatch):
        monkeypatch.setattr(batch, "NEXT_SECONDS", 60.0)
        assert len(small) == len(getm.copy_many(small, tmp_path, jobs=8))
        assert len(small) == len(server.log)
        assert 1 == len({request.connection for request in server.log})

    def test_what_waits_has_others_begin(self, server, small, tmp_path):
        release = threading.Event()
        server.fail(Fault(delay=release), times=None)
        copying = in_thread(lambda: getm.copy_many(small, tmp_path, jobs=8))
        server.wait_for(lambda log: len(log) == 8)
        release.set()
        assert [None] * len(small) == [result.error for result in copying()]

    def test_what_waits_a_little_has_others_begin(self, server, small, tmp_path, monkeypatch):
        monkeypatch.setattr(batch, "NEXT_SECONDS", 0.05)
        server.fail(Fault(delay=0.01), times=None)
        getm.copy_many(small, tmp_path, jobs=8)
        assert 2 <= len({request.connection for request in server.log})

    def test_one_that_waits_does_not_keep_the_others(self, server, small, tmp_path):
        release = threading.Event()
        server.fail(Fault(delay=release), when=lambda request: request.path == "/00")
        copying = in_thread(lambda: getm.copy_many(small, tmp_path, jobs=2))
        server.wait_for(lambda log: len(log) == len(small))
        release.set()
        assert [None] * len(small) == [result.error for result in copying()]


class TestPlan:
    def plan(self, *given, jobs=4, **terms):
        return batch.plan(manifest.entries(given), "/nowhere", config.Settings(), Terms(**terms), jobs=jobs)

    @pytest.mark.parametrize(("jobs", "count", "rate"), [(4, 8, 250_000), (4, 2, 500_000), (1, 8, 1_000_000)])
    def test_a_limit_of_the_rate_is_for_all_at_once(self, jobs, count, rate):
        tasks = self.plan(*(f"http://host/{number}" for number in range(count)), jobs=jobs, limit_rate=1_000_000)
        assert {rate} == {task.terms.limit_rate for task in tasks}

    def test_a_limit_of_the_rate_leaves_each_a_trickle(self):
        assert [1024] == [task.terms.limit_rate for task in self.plan("http://host/a", limit_rate=1024)]
        tasks = self.plan("http://host/a", "http://host/b", limit_rate=1500)
        assert [1024, 1024] == [task.terms.limit_rate for task in tasks]

    def test_what_the_manifest_says_of_a_checksum_goes_before_what_is_said_of_all(self):
        said = {"url": "http://host/a", "md5": "0" * 32}
        unsaid = {"url": "http://host/b"}
        nothing = {"url": "http://host/c", "checksum-algorithm": None}
        assert ["md5:" + "0" * 32, "auto", "null"] == [task.terms.checksum for task in self.plan(said, unsaid, nothing)]
        tasks = self.plan(said, unsaid, nothing, checksum="null")
        assert ["md5:" + "0" * 32, "null", "null"] == [task.terms.checksum for task in tasks]

    def test_nothing_secret_is_shown(self):
        (task,) = self.plan({"url": f"http://host/a?{SECRET}", "headers": {"A": SECRET}})
        assert SECRET not in repr(task)


class TestBatch:
    def test_says_what_was_done_however_it_ends(self, server, urls, tmp_path):
        entries = manifest.entries(urls)
        settings, terms = config.Settings(), Terms(skip=True)
        tasks = batch.plan(entries, os.fspath(tmp_path), settings, terms, jobs=1)
        work = batch.Batch(tasks, os.fspath(tmp_path), batch.chosen(None, 1), None)

        def note(result):
            if result.path.endswith("1"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work.run(1, note)
        assert ["/0", "/1"] == [result.path[-2:] for result in work.results][:2]
        assert entries[len(work.results) :] == work.unfinished
