"""The command line, for many objects: a manifest, what becomes of each entry, and what is left when it is stopped."""

import errno
import hashlib
import json
import os
import re
import signal
import stat
import sys
import threading
from pathlib import Path

import psutil
import pytest

from getm import cli
from tests.commands import SECRET, assert_error, names, run, run_here, run_on_terminal, screen, started, wait_until
from tests.content import assert_ramp, ramp
from tests.servers.answer import Fault

MIB = 1 << 20
SMALL = 100 << 10
SUM = hashlib.sha256(ramp(0, SMALL)).hexdigest()
KEY = f"?key={SECRET}"


@pytest.fixture
def command(folder, capfd, monkeypatch):
    """Return the command, to be run in this process and in an empty folder; the manifest is a file outside of it."""

    def command(*arguments, entries=None):
        if entries is None:
            return run_here(capfd, monkeypatch, *arguments)
        return run_here(capfd, monkeypatch, "-m", written(entries), *arguments)

    return command


def written(entries):
    """Write a manifest beside the current folder, and return its path."""
    text = entries if isinstance(entries, str) else json.dumps(entries)
    Path("../manifest").write_text(text)
    return "../manifest"


def small(server, count):
    """Serve objects of 100 KiB, and return their URLs, each with a secret."""
    return [server.put(f"/{number}", SMALL) + KEY for number in range(count)]


def large(server, count, size=20 * MIB):
    return [server.put(f"/{number}", size) + KEY for number in range(count)]


def facts(ended):
    """Return the JSON objects that the command printed, by path."""
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    return {each["path"] and os.path.relpath(each["path"]): each for each in found}


def failures(ended):
    """Return what is said of each failure, less what precedes the URL's path."""
    return [re.sub(r"^getm: |http://[\d.:]+", "", line) for line in ended.stderr.splitlines()]


def assert_whole(paths, size):
    for path in paths:
        assert size == Path(path).stat().st_size
        assert_ramp(Path(path).read_bytes(), 0)


class TestManifest:
    @pytest.mark.parametrize("form", ["array", "lines", "table", "list"])
    def test_of_any_form_is_copied(self, server, command, form):
        one, two = small(server, 2)
        entries = {
            "array": json.dumps([{"url": one, "filepath": "a/b/0"}, {"url": two, "filepath": "1"}]),
            "lines": f'{{"url": "{one}", "path": "a/b/0"}}\n{{"url": "{two}"}}\n',
            "table": f"url\tpath\n{one}\ta/b/0\n{two}\t\n",
            "list": f"# two\n{one}\n{two}\n",
        }[form]
        ended = command(entries=entries)
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert_whole(["0" if form == "list" else "a/b/0", "1"], SMALL)

    @pytest.mark.parametrize(
        "script", ['"$@" -m - <../manifest', '"$@" -i <(cat ../manifest)', 'cat ../manifest | "$@" -i -']
    )
    def test_may_come_by_stdin_or_a_pipe(self, server, folder, script):
        written("\n".join(small(server, 2)))
        ended = run(script, "bash", sys.executable, "-m", "getm", "--json", command=["bash", "-c"])
        assert (0, "") == (ended.returncode, ended.stderr)
        assert {"0", "1"} == facts(ended).keys()
        assert_whole(["0", "1"], SMALL)

    def test_of_the_original_is_copied_as_it_did(self, server, command, tmp_path):
        one, two = small(server, 2)
        target = os.fspath(tmp_path / "elsewhere" / "object")
        entries = [
            {
                "url": one,
                "filepath": target,
                "checksum": hashlib.md5(ramp(0, SMALL)).hexdigest(),
                "checksum-algorithm": "md5",
            },
            {"url": two, "filepath": "two", "checksum": None, "checksum-algorithm": None, "other": [1]},
        ]
        assert_error(command(entries=entries), 2, saying="is absolute")
        ended = command("--compat", entries=entries)
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert_whole([target, "two"], SMALL)

    @pytest.mark.parametrize("entries", ["", "[]", "\n", "url\tpath\n"])
    def test_without_entries_is_nothing_to_do(self, command, entries):
        ended = command("--failed", "../again", entries=entries)
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert "[]\n" == Path("../again").read_text()
        assert [] == names()

    @pytest.mark.parametrize("path", ["missing", "."])
    def test_that_cannot_be_read_has_its_code(self, command, path):
        assert_error(command("-m", path), 7, saying=path)

    def test_without_a_stdin_has_its_code(self, folder):
        ended = run('"$@" -m - <&-', "bash", sys.executable, "-m", "getm", command=["bash", "-c"])
        assert_error(ended, 7, saying="stdin: is closed")

    @pytest.mark.parametrize(
        "arguments", [["http://host/file"], ["-o", "copy"], ["--checksum", "x"], ["--info"], ["--fail-fast", "-c"]]
    )
    def test_does_not_go_with_what_is_for_one_object(self, command, arguments):
        assert_error(command(*arguments, entries=[]), 2)

    @pytest.mark.parametrize(
        ("entries", "problem"),
        [
            ([{"path": "a"}], "entry 1: no url"),
            ([f"ftp://user:{SECRET}@host/a?{SECRET}"], "entry 1: 'ftp://host/a'"),
            ([{"url": "http://host/a", "path": "../a"}], "entry 1: '../a' leads out"),
            ([{"url": "http://host/a", "path": "/a"}], "entry 1: '/a' is absolute"),
            (["http://host/a", "http://host/b/a"], "entry 1 and entry 2 have the same target 'a'"),
            (["http://host/a", "http://host/a.part"], "in each other's way"),
            (["http://host/a", {"url": "http://host/b", "checksum": "md5:1"}], "entry 2: '1' is no md5 digest"),
            (["http://host/a", {"url": "http://host/b", "checksum": "1", "checksum-algorithm": "x"}], "entry 2: 'x' is no"),
            ("http://host/a\nhttp://host/b c", "line 2: "),
        ],
    )
    def test_that_cannot_be_followed_is_refused_before_anything_starts(self, command, entries, problem):
        assert_error(command("--failed", "again", entries=entries), 2, saying=problem)
        assert [] == names()

    def test_a_dry_run_asks_nobody(self, server, command, folder):
        one, two = small(server, 2)
        entries = [{"url": one, "path": "a/b"}, two, server.url + f"/{KEY}"]
        ended = command("--dry-run", entries=entries)
        places = [f"{folder}/a/b", f"{folder}/1", "(the name that the server gives)"]
        shown = [f"{server.url}/{name} -> {place}" for name, place in zip(["0", "1", ""], places, strict=True)]
        assert (0, shown, "") == (ended.returncode, ended.stdout.splitlines(), ended.stderr)
        assert {"a/b", "1", None} == facts(command("--dry-run", "--json", entries=entries)).keys()
        assert ([], []) == (server.log, names())


class TestEntries:
    def test_have_headers_of_their_own(self, server, command):
        one, two = small(server, 2)
        entries = [{"url": one, "headers": {"Authorization": SECRET, "X": "own"}}, two]
        ended = command("-H", "X: all", "-vv", entries=entries)
        assert (0, False) == (ended.returncode, SECRET in ended.stdout + ended.stderr)
        sent = {(request.path, request.headers["Authorization"], request.headers["X"]) for request in server.log}
        assert {("/0", SECRET, "own"), ("/1", None, "all")} == sent

    def test_have_sizes_and_checksums_that_must_be_right(self, server, command):
        one, two, three, four = small(server, 4)
        server.put("/3", SMALL, {"Content-MD5": "0" * 32})
        entries = [
            {"url": one, "size": SMALL, "sha256": SUM},
            {"url": two, "size": SMALL + 1},
            {"url": three, "sha256": "0" * 64},
            {"url": four, "checksum": None, "checksum-algorithm": None},
        ]
        ended = command("--json", entries=entries)
        assert 6 == ended.returncode
        assert ["0", "3"] == names()
        found = facts(ended)
        assert ("the caller", None) == (found["0"]["verified"], found["3"]["verified"])
        assert ["IntegrityError", "IntegrityError"] == [found[name]["kind"] for name in ("1", "2")]

    def test_of_which_a_checksum_is_required_and_missing_fail(self, server, command):
        one, two = small(server, 2)
        ended = command("--require-checksum", "--no-verify", "--json", entries=[{"url": one, "sha256": SUM}, two])
        assert (6, ["0"]) == (ended.returncode, names())

    def test_may_be_named_by_the_server(self, server, command):
        urls = [server.put(f"/{number}/", SMALL, disposition(f"name {number}")) for number in range(2)]
        ended = command("-d", "a", "--json", entries=urls)
        assert (0, {"a/name 0", "a/name 1"}, "") == (ended.returncode, facts(ended).keys(), ended.stderr)
        assert_whole(["a/name 0", "a/name 1"], SMALL)

    def test_named_alike_by_the_server_do_not_replace_each_other(self, server, command):
        urls = [server.put(f"/{number}/", SMALL, disposition("b")) for number in range(2)]
        ended = command("-j", "1", entries=[*urls, {"url": small(server, 1)[0], "path": "a"}])
        assert_error(ended, 2, saying="entry 2: ")
        assert ["a", "b"] == names()

    def test_without_any_name_fail(self, server, command):
        assert_error(command(entries=[server.put("/", SMALL)]), 2, saying="entry 1: ")

    def test_cannot_replace_a_file_by_a_name_of_the_server(self, server, command):
        Path("Makefile").write_text("old")
        url = server.put("/x/", SMALL, disposition("Makefile"))
        assert_error(command(entries=[url]), 7, saying="Makefile: exists already")
        assert "old" == Path("Makefile").read_text()
        assert 0 == command("--force", entries=[url]).returncode
        assert_whole(["Makefile"], SMALL)

    def test_cannot_leave_the_folder_by_a_name_of_the_server(self, server, command, folder):
        assert 0 == command("-d", "a", entries=[server.put("/x/", SMALL, disposition("../../evil"))]).returncode
        assert (["a"], ["evil"]) == (names(), names("a"))

    def test_may_be_called_as_stdout_is(self, server, command):
        ended = command(entries=[{"url": small(server, 1)[0], "path": "-"}])
        assert (0, "", ["-"]) == (ended.returncode, ended.stdout, names())

    def test_whose_place_is_taken_fail_alone(self, server, command):
        one, two, three = small(server, 3)
        Path("folder").mkdir()
        Path("file").write_text("old")
        entries = [{"url": one, "path": "folder"}, {"url": two, "path": "file/a"}, three]
        ended = command(entries=entries)
        assert (7, 2) == (ended.returncode, len(failures(ended)))
        assert ["2", "file", "folder"] == names()
        assert_whole(["2"], SMALL)

    def test_that_are_there_already_are_left_alone(self, server, command):
        one, two, three = small(server, 3)
        entries = [{"url": one, "sha256": SUM}, two, three]
        assert 0 == command(entries=entries).returncode
        Path("2").write_text("other")
        asked = len(server.log)
        found = facts(command("--json", entries=entries))
        assert {"0": True, "1": True, "2": False} == {path: each["skipped"] for path, each in found.items()}
        again = sorted((request.path, request.stop) for request in server.log[asked:])
        assert [("/1", 1), ("/2", 1), ("/2", MIB)] == again
        assert_whole(["0", "1", "2"], SMALL)

    def test_that_are_there_already_are_fetched_again_if_forced(self, server, command):
        entries = small(server, 2)
        for _ in range(2):
            assert 0 == command("--force", entries=entries).returncode
        assert 4 == len(server.log)

    def test_that_are_there_already_are_errors_if_told_so(self, server, command):
        entries = small(server, 2)
        assert 0 == command(entries=entries[:1]).returncode
        assert_error(command("-n", entries=entries), 7, saying="entry 1: ")
        assert_whole(["0", "1"], SMALL)


def disposition(name):
    return {"Content-Disposition": f'attachment; filename="{name}"'}


class TestFailures:
    def test_are_listed_at_the_end_and_the_others_copied(self, server, command):
        one, two, three = small(server, 3)
        missing = server.url + f"/missing{KEY}"
        server.fail(Fault(status=403), when=lambda request: request.path == "/1", times=None)
        ended = command("-q", "--json", entries=f"{missing}\n{one}\n{two}\n{three}")
        assert 4 == ended.returncode
        listed = ["line 1: /missing: the server answered 404 Not Found", "line 3: /1: the server answered 403 Forbidden"]
        assert listed == failures(ended)
        assert SECRET not in ended.stdout + ended.stderr
        assert_whole(["0", "2"], SMALL)

    def test_exit_with_the_largest_code(self, server, command):
        one, two, three = small(server, 3)
        server.fail(Fault(status=403), when=lambda request: request.path == "/1", times=None)
        entries = [server.url + "/missing", one, two, {"url": three, "size": 1}]
        assert 6 == command("--json", entries=entries).returncode

    def test_are_written_as_a_manifest_again(self, server, command):
        one, two = small(server, 2)
        server.fail(Fault(status=404), when=lambda request: request.path == "/1", times=None)
        bad = {"url": two, "filepath": "x/b", "checksum": SUM, "checksum-algorithm": "sha256", "note": [1]}
        Path("again").write_text("of before")
        Path("again").chmod(0o644)
        assert 3 == command("--failed", "again", entries=[one, bad]).returncode
        assert [bad] == json.loads(Path("again").read_text())
        assert 0o600 == stat.S_IMODE(Path("again").stat().st_mode)
        server.heal()
        assert 0 == command("-m", "again", "--failed", "again").returncode
        assert_whole(["0", "x/b"], SMALL)
        assert "[]\n" == Path("again").read_text()
        assert ["0", "again", "x"] == names()

    @pytest.mark.parametrize("path", ["missing/again", "."])
    def test_that_could_not_be_written_are_known_of_before(self, server, command, path):
        assert_error(command("--failed", path, entries=small(server, 1)), 7)
        assert [] == server.log

    def test_that_cannot_be_written_are_told_of(self, server, command, monkeypatch):
        def replace(_source, target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

        monkeypatch.setattr(cli.os, "replace", replace)
        ended = command("--failed", "again", entries=[server.url + "/missing"])
        assert (7, "getm: again: No space left on device: what has failed is not listed there") == (
            ended.returncode,
            ended.stderr.splitlines()[-1],
        )
        assert [] == [name for name in names() if name.startswith(".getm")]

    def test_are_written_to_what_a_link_names(self, server, command):
        Path("again").symlink_to("real")
        assert 0 == command("--failed", "again", entries=small(server, 1)).returncode
        assert (True, "[]\n") == (Path("again").is_symlink(), Path("real").read_text())

    @pytest.mark.parametrize("path", ["", "-", "kept", "kept.part"])
    def test_are_not_written_over_what_is_copied(self, server, command, path):
        entries = [{"url": server.put("/a", 9), "filepath": "kept"}]
        assert_error(command("--failed", path, entries=entries), 2, saying="--failed")
        assert [] == server.log

    def test_are_written_beside_nobodys_file(self, server, command):
        Path("again.new").write_text("precious")
        assert 0 == command("--failed", "again", entries=small(server, 1)).returncode
        assert ("precious", "[]\n") == (Path("again.new").read_text(), Path("again").read_text())

    def test_may_be_written_to_a_pipe(self, server, folder):
        written([server.url + "/missing"])
        script = '"$@" -m ../manifest --failed >(cat >../again) 2>/dev/null; code=$?; wait $!; exit $code'
        assert 3 == run(script, "bash", sys.executable, "-m", "getm", command=["bash", "-c"]).returncode
        wait_until(lambda: Path("../again").read_text().endswith("]\n"))
        assert [{"url": server.url + "/missing"}] == json.loads(Path("../again").read_text())

    def test_may_stop_all_others(self, server, command):
        urls = large(server, 4)
        server.fail(Fault(stall=MIB // 2), when=lambda request: request.path in ("/0", "/1") and request.start, times=None)
        server.fail(Fault(status=404, delay=UnderWay(server, "/0", "/1")), when=lambda request: request.path == "/2")
        ended = command("-j", "3", "--fail-fast", "--failed", "../again", entries=urls)
        assert_error(ended, 3, saying="entry 3: ")
        assert "/3" not in {request.path for request in server.log}
        assert urls == [each["url"] for each in json.loads(Path("../again").read_text())]
        assert ["0.part", "0.part.json", "1.part", "1.part.json"] == names()
        server.heal()
        assert 0 == command("-m", "../again").returncode
        assert_whole(["0", "1", "2", "3"], 20 * MIB)

    def test_stop_even_those_that_wait_for_a_first_answer(self, server, folder):
        urls = small(server, 3)
        waiting = threading.Event()
        server.fail(Fault(delay=1e9), when=lambda request: request.path == "/0", times=None)
        server.fail(Fault(status=404, delay=waiting), when=lambda request: request.path == "/1", times=None)
        with started("-m", written(urls), "-j", "2", "--fail-fast") as process:
            server.wait_for(lambda log: len(log) == 2)
            waiting.set()
            stdout, stderr = process.communicate(timeout=20)
        assert (3, "", 1) == (process.returncode, stdout, stderr.count("\n"))
        assert "entry 2: " in stderr
        assert (2, []) == (len(server.log), names())

    def test_of_a_worker_are_no_failures(self, server, folder):
        written(large(server, 2))
        server.fail(Fault(pace=10 * MIB), times=None)
        with started("-m", "../manifest", "-x", "2") as process:
            server.wait_for(lambda log: any(request.start and request.sent > MIB for request in log))
            launcher = psutil.Process(process.pid).children()[0]
            launcher.children()[0].kill()
            server.heal()
            assert ("", "") == process.communicate(timeout=30)
        assert 0 == process.returncode
        assert_whole(["0", "1"], 20 * MIB)

    def test_of_original_look_are_said_in_its_words(self, server, command):
        one, two = small(server, 2)
        server.fail(Fault(status=410), when=lambda request: request.path == "/1", times=None)
        ended = command("--compat", "-v", entries=[{"url": one, "sha256": "0" * 64}, two])
        first, second = ended.stderr.splitlines()
        assert (6, "AssertionError: Checksum failed!") == (ended.returncode, first)
        assert "410" == re.fullmatch(r'ERROR:getm\.cli.*"status_code":\s*(\d+).*', second)[1]
        assert SECRET not in ended.stderr


class UnderWay(threading.Event):
    """Happens once of each object more is asked for than its first part."""

    def __init__(self, server, *paths):
        super().__init__()
        self._server = server
        self._paths = set(paths)

    def is_set(self):
        return is_under_way(self._server.log, self._paths)


def is_under_way(log, paths):
    return set(paths) <= {request.path for request in log if request.start and request.sent}


class TestCost:
    def test_small_objects_take_one_request_each_few_connections_and_no_process(self, server, folder):
        urls = small(server, 500)
        written("\n".join(urls))
        release = hold_last(server)
        with started("-m", "../manifest", "-j", "4") as process:
            server.wait_for(lambda log: len(log) == 500, timeout=30)
            children = psutil.Process(process.pid).children(recursive=True)  # what was started would be kept for 30 s
            release()
            assert ("", "") == process.communicate(timeout=30)
        assert (0, []) == (process.returncode, children)
        assert [f"/{number}" for number in range(500)] == sorted(
            (each.path for each in server.log), key=lambda p: int(p[1:])
        )
        assert 4 >= server.connections
        assert_whole(map(str, range(500)), SMALL)

    @pytest.mark.parametrize(("jobs", "connections"), [(1, 2), (3, 2)])
    def test_all_objects_share_one_budget_of_connections(self, server, command, jobs, connections):
        server.fail(Fault(pace=20 * MIB), times=None)
        assert 0 == command("-j", str(jobs), "-x", str(connections), entries=large(server, 3, 3 * MIB)).returncode
        for request in server.log:
            others = [one for one in server.log if one.arrived <= request.arrived < (one.finished or 1e99)]
            assert jobs + connections >= len(others)
            assert jobs >= len({one.path for one in others})


def hold_last(server):
    """Have the server hold back the answer to the 500th request; return what lets it go."""
    event = threading.Event()
    server.fail(Fault(delay=event), when=lambda request: request.index == 499)
    return event.set


class TestStopped:
    @pytest.mark.parametrize(
        ("number", "code", "jobs"),
        [(signal.SIGINT, 130, 3), (signal.SIGTERM, 143, 3), (signal.SIGTERM, 143, 1)],
        ids=["INT", "TERM", "TERM with one job"],
    )
    def test_by_a_signal_it_leaves_parts_with_which_the_next_goes_on(self, server, folder, number, code, jobs):
        urls = large(server, 3)
        written([*urls, small(server, 1)[0].replace("/0", "/missing")])
        server.put("/0", 20 * MIB)
        server.fail(Fault(stall=MIB // 2), when=lambda request: request.start, times=None)
        with started("-m", "../manifest", "-j", str(jobs), "--failed", "../again") as process:
            server.wait_for(lambda log: is_under_way(log, [f"/{number}" for number in range(jobs)]))
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=10)
        assert (code, "", f"getm: stopped by {number.name}\n") == (process.returncode, stdout, stderr)
        assert [f"{each}{ending}" for each in range(jobs) for ending in (".part", ".part.json")] == names()
        assert 4 == len(json.loads(Path("../again").read_text()))
        server.heal()
        there, asked = recorded_bytes(), len(server.log)
        ended = run("-m", "../manifest", "--json")
        assert 3 == ended.returncode
        assert there == sum(each.get("resumed", 0) for each in facts(ended).values())
        assert 60 * MIB - there == sum(request.sent for request in server.log[asked:])

    def test_by_a_signal_before_anything_came_it_leaves_nothing(self, server, folder):
        written(small(server, 3))
        server.fail(Fault(delay=1e9), times=None)
        with started("-m", "../manifest") as process:
            server.wait_for(lambda log: len(log) == 3)
            process.send_signal(signal.SIGINT)
            assert ("", "getm: stopped by SIGINT\n") == process.communicate(timeout=10)
        assert (130, []) == (process.returncode, names())

    def test_by_a_signal_it_still_lists_what_has_failed(self, server, folder):
        written([server.url + "/missing", large(server, 1)[0]])
        server.fail(Fault(stall=MIB), when=lambda request: request.path == "/0", times=None)
        with started("-m", "../manifest", "--json") as process:
            assert "404" in process.stdout.readline()
            server.wait_for(lambda log: len([request for request in log if request.path == "/0"]) > 1)
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=10)
        failed, stopped = stderr.splitlines()
        assert (143, True, "getm: stopped by SIGTERM") == (process.returncode, "404" in failed, stopped)

    def test_by_a_kill_it_leaves_nothing_but_parts(self, server, folder):
        written(large(server, 3))
        server.fail(Fault(stall=MIB // 2), when=lambda request: request.start, times=None)
        with started("-m", "../manifest") as process:
            server.wait_for(lambda log: is_under_way(log, ["/0", "/1", "/2"]))
            tree = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        psutil.wait_procs(tree, timeout=10)
        assert [] == [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert set(names()) <= {
            f"{each}{ending}" for each in range(3) for ending in (".part", ".part.json", ".part.json.new")
        }
        server.heal()
        assert 0 == run("-m", "../manifest").returncode
        assert_whole(["0", "1", "2"], 20 * MIB)
        assert ["0", "1", "2"] == names()

    def test_by_a_reader_of_json_that_has_gone_it_says_nothing(self, server, folder):
        written(small(server, 20))
        ended = run('"$@" | true; exit ${PIPESTATUS[0]}', *JSON_IN_BASH, command=["bash", "-c"])
        assert (141, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert not [name for name in names() if not name.isdigit()]


JSON_IN_BASH = ("bash", sys.executable, "-m", "getm", "-m", "../manifest", "-j", "1", "--json")


def recorded_bytes():
    records = [json.loads(path.read_text()) for path in Path().glob("*.part.json")]
    return sum(stop - start for record in records for start, stop in record["finished"])


class TestProgress:
    def test_a_terminal_gets_a_line_for_all_and_in_the_end_what_was_done(self, server, folder):
        path = written([*large(server, 3, 5 * MIB), server.url + "/missing"])
        code, shown = run_on_terminal("-m", path, columns=200)
        all_files, failure, summary = screen(shown, 200)
        assert (3, "all files: 100%") == (code, all_files[:15])
        assert "15.0M/15.0M" in all_files
        assert failure.startswith("getm: entry 4: ")
        assert re.fullmatch(r"getm: 4 files: 3 copied, 1 failed, 0 verified; 15\.0 MiB in [\d.]+ s, .*/s", summary)
        assert all(f"\r{number}:   0%|" in shown for number in range(3))

    @pytest.mark.parametrize("option", ["-q", "--no-progress"])
    def test_a_terminal_gets_none_if_told_so(self, server, folder, option):
        assert (0, "") == run_on_terminal(option, "-m", written(small(server, 3)))

    def test_files_that_are_there_are_counted_in_the_end(self, server, command):
        urls = small(server, 3)
        assert 0 == command(entries=urls[:2]).returncode
        ended = command("-v", entries=[*urls[:2], {"url": urls[2], "sha256": SUM}])
        assert "getm: 3 files: 1 copied, 2 there already, 1 verified; 100.0 KiB in" in ended.stderr
