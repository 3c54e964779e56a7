"""The command line, for one object: what it writes, what it says, what it exits with."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import getm
from getm import cli, errors, report
from tests.commands import (
    SECRET,
    assert_error,
    names,
    run,
    run_here,
    run_on_terminal,
    screen,
    started,
    wait_until,
    with_secrets,
)
from tests.content import assert_ramp, ramp
from tests.servers.answer import Fault

MIB = 1 << 20
MD5 = hashlib.md5(ramp(0, MIB)).hexdigest()
PARTS = ["copy.part", "copy.part.json"]


@pytest.fixture
def command(folder, capfd, monkeypatch):
    """Return the command, to be run in this process and in an empty folder."""
    return lambda *arguments: run_here(capfd, monkeypatch, *arguments)


def shell(script, *arguments):
    """Run the command in a line of bash, where it is `"$@"`, with pipes and redirections."""
    return run(script, "bash", sys.executable, "-m", "getm", *arguments, command=["bash", "-c"])


def is_recorded():
    """Whether some of the copy is there, and recorded."""
    return "copy.part.json" in names() and json.loads(Path("copy.part.json").read_text())["finished"]


def stop_half_way(server, url, *options):
    """Copy an object of 20 MiB until some of it is recorded, stop that, and let the server be well again."""
    server.fail(Fault(stall=MIB // 2), when=lambda request: request.start, times=None)
    with started(url, "copy", *options) as process:
        wait_until(is_recorded)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert PARTS == names()
    server.heal()


class TestWithFile:
    @pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
    def test_copies_the_object_and_says_nothing(self, server, folder, size):
        ended = run(server.put("/object", size), "copy")
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert ["copy"] == names()
        assert size == Path("copy").stat().st_size
        assert_ramp(Path("copy").read_bytes(), 0)

    @pytest.mark.parametrize("option", ["-o", "-O", "--output", "--filepath"])
    def test_an_option_names_the_file_too(self, server, command, option):
        assert 0 == command(server.put("/object", 9), option, "copy").returncode
        assert ["copy"] == names()

    @pytest.mark.parametrize("option", ["-d", "-P", "--dir"])
    def test_goes_into_a_folder_which_is_made(self, server, command, option):
        assert 0 == command(option, "a/b", server.put("/object", 9), "copy").returncode
        assert 0 == command(option, "a/b", server.url + "/object").returncode
        assert ["copy", "object"] == names("a/b")
        assert ["a"] == names()

    def test_replaces_a_file(self, server, command):
        Path("copy").write_text("old")
        assert 0 == command(server.put("/object", MIB), "copy").returncode
        assert ["copy"] == names()
        assert_ramp(Path("copy").read_bytes(), 0)

    def test_keeps_the_old_file_when_it_fails(self, server, command):
        Path("copy").write_text("old")
        assert_error(command(server.url + "/missing", "copy"), 3)
        assert ["copy"] == names()
        assert "old" == Path("copy").read_text()

    def test_an_empty_checksum_is_none(self, server, command):
        assert_error(command("--checksum", "", server.put("/object", 9), "copy"), 2, saying="ALGORITHM:DIGEST")
        assert [] == server.log

    def test_a_file_that_has_the_checksum_already_is_not_asked_for(self, server, command):
        url = server.put("/object", 3 * MIB)
        checksum = f"--checksum=md5:{hashlib.md5(ramp(0, 3 * MIB)).hexdigest()}"
        assert 0 == command(checksum, url, "copy").returncode
        fetched = len(server.log)
        ended = command("-v", checksum, url, "copy")
        assert (0, True) == (ended.returncode, "copy: is there already" in ended.stderr)
        assert fetched == len(server.log)

    @pytest.mark.parametrize("forced", [False, True])
    def test_any_other_file_is_replaced(self, server, command, forced):
        checksum = f"--checksum=md5:{hashlib.md5(ramp(0, MIB)).hexdigest()}"
        url = server.put("/object", MIB)
        for _ in range(2):
            assert 0 == command(*(("--force", checksum) if forced else ()), url, "copy").returncode
        assert [(0, MIB), (0, MIB)] == [(request.start, request.stop) for request in server.log]

    @pytest.mark.parametrize("arguments", [["copy"], []])
    @pytest.mark.parametrize("option", ["-n", "--no-clobber"])
    def test_leaves_any_file_alone_if_told_so(self, server, command, option, arguments):
        url = server.put("/copy", 9)
        assert 0 == command(url, "copy").returncode
        assert_error(command(option, url, *arguments), 7, saying="copy: exists already")

    def test_uses_as_many_connections_as_asked_for(self, server, command):
        url = server.put("/object", 20 * MIB)
        server.fail(Fault(pace=100 * MIB), times=None)
        assert 0 == command("-x", "3", url, "copy").returncode
        assert 3 >= max(overlapping(server.log))

    def test_the_installed_command_is_the_same(self, server, folder):
        command = Path(sys.executable).with_name("getm")
        assert 0 == run(server.put("/object", MIB), "copy", command=[command]).returncode
        assert_ramp(Path("copy").read_bytes(), 0)

    def test_headers_are_sent_with_every_request(self, server, command):
        url = server.put("/object", 5 * MIB)
        assert 0 == command(url, "copy", "-H", f"Authorization: Bearer {SECRET}", "--header", "X-A:b:c").returncode
        sent = {(request.headers["Authorization"], request.headers["X-A"]) for request in server.log}
        assert {(f"Bearer {SECRET}", "b:c")} == sent

    def test_goes_on_with_what_a_stopped_copy_has_brought(self, server, folder):
        url = server.put("/object", 20 * MIB)
        stop_half_way(server, url)
        fetched = len(server.log)
        ended = run("--json", url, "copy")
        resumed = json.loads(ended.stdout)["resumed"]
        assert 0 < resumed
        assert 20 * MIB - resumed == sum(request.sent for request in server.log[fetched:])
        assert_ramp(Path("copy").read_bytes(), 0)

    def test_nothing_is_left_of_a_stopped_copy_if_told_so(self, server, folder):
        url = server.put("/object", 20 * MIB)
        server.fail(Fault(stall=MIB // 2), when=lambda request: request.start, times=None)
        with started("--no-resume", url, "copy") as process:
            server.wait_for(lambda log: any(request.start and request.sent for request in log))
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
        assert [] == names()


def overlapping(log):
    """Yield how many requests were under way when each arrived."""
    for request in log:
        yield sum(other.arrived <= request.arrived and not (other.finished or 1e99) <= request.arrived for other in log)


class TestWithoutFile:
    def test_takes_the_name_that_the_server_gives(self, server, command):
        url = server.put("/object", MIB, {"Content-Disposition": "attachment; filename*=UTF-8''na%C3%AFve.csv"})
        assert 0 == command(url).returncode
        assert ["naïve.csv"] == names()
        assert_ramp(Path("naïve.csv").read_bytes(), 0)

    def test_takes_the_name_in_the_url_where_the_server_gives_none(self, server, command):
        assert 0 == command(server.put("/folder/a%20b.csv", MIB) + "?key=c/d").returncode
        assert ["a b.csv"] == names()

    def test_a_hostile_name_stays_in_the_folder(self, server, command, folder):
        url = server.put("/object", MIB, {"Content-Disposition": 'attachment; filename="../../.evil"'})
        assert 0 == command(url).returncode
        assert ["evil"] == names()
        assert ["folder"] == names(folder.parent)

    def test_a_redirect_cannot_name_a_hidden_file(self, server, command):
        url = server.put("/object", MIB)
        server.put("/.profile", MIB)
        server.fail(Fault(status=302, headers={"Location": "/.profile"}), when=lambda r: r.path == "/object", times=None)
        assert 0 == command(url).returncode
        assert ["profile"] == names()

    def test_a_hidden_file_that_was_asked_for_is_one(self, server, command):
        assert 0 == command(server.put("/.zattrs", 1)).returncode
        assert [".zattrs"] == names()

    def test_without_any_name_asks_for_a_file(self, server, command):
        assert_error(command(server.put("/", MIB)), 2, saying="FILE")
        assert [] == names()

    @pytest.mark.parametrize("dangling", [False, True])
    def test_leaves_another_file_alone(self, server, command, dangling):
        if dangling:
            Path("object").symlink_to("nowhere")
        else:
            Path("object").write_text("old")
        assert_error(command(server.put("/object", MIB)), 7, saying="object: exists already")
        assert ["object"] == names()
        assert dangling or "old" == Path("object").read_text()

    def test_replaces_what_is_there_if_forced(self, server, command):
        Path("object").write_text("old")
        assert 0 == command("--force", server.put("/object", MIB)).returncode
        assert ["object"] == names()
        assert_ramp(Path("object").read_bytes(), 0)

    def test_the_same_command_once_more_does_nothing(self, server, command):
        url = server.put("/object", MIB)
        assert [0, 0] == [command(url).returncode for _ in range(2)]
        assert 1 == sum(request.stop > 1 for request in server.log)

    def test_a_missing_object_leaves_nothing(self, server, command):
        assert_error(command(server.url + "/missing"), 3)
        assert [] == names()


class TestStdout:
    def test_takes_the_object_in_order(self, server, folder):
        ended = subprocess.run(
            [sys.executable, "-m", "getm", server.put("/object", 60 * MIB), "-"], capture_output=True, check=False
        )
        assert (0, b"", 60 * MIB) == (ended.returncode, ended.stderr, len(ended.stdout))
        assert_ramp(ended.stdout, 0)
        assert [] == names()

    def test_is_not_read_ahead_of_without_bounds(self, server, folder):
        url = server.put("/object", 2000 * MIB)
        server.fail(Fault(delay=0.02), times=None)  # from a near one less is read ahead
        with started(url, "-") as process:
            server.wait_for(lambda log: sum(request.sent for request in log) >= 20 * MIB)
            process.stdout.buffer.read(MIB)
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            assert 600 * MIB > sum(each.memory_full_info().uss for each in tree)
        assert sum(request.sent for request in server.log) < 400 * MIB

    def test_that_nobody_reads_any_more_ends_it_silently(self, server, folder):
        ended = shell('"$@" | head -c 10 | wc -c; exit ${PIPESTATUS[0]}', server.put("/object", 20 * MIB), "-")
        assert (141, "10\n", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert [] == names()

    @pytest.mark.parametrize("option", ["--json", "--dry-run", "--info"])
    def test_that_nobody_reads_any_more_ends_what_is_said_silently(self, server, folder, option):
        arguments = [] if option == "--info" else ["copy"]
        ended = shell('"$@" | true; exit ${PIPESTATUS[0]}', option, server.put("/object", 9), *arguments)
        assert (141, "", "") == (ended.returncode, ended.stdout, ended.stderr)

    @pytest.mark.parametrize("arguments", [["-"], ["copy", "--json"], ["--info"], ["copy", "--dry-run"]])
    @pytest.mark.parametrize(("goal", "problem"), [(">/dev/full", "No space left on device"), (">&-", "is closed")])
    def test_that_takes_nothing_is_an_error(self, server, folder, arguments, goal, problem):
        assert_error(shell(f'"$@" {goal}', server.put("/object", MIB), *arguments), 7, saying=f"stdout: {problem}")

    def test_that_does_not_wait_is_waited_for(self, server, folder):
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
            with started(server.put("/object", 3 * MIB), "-", stdout=writer) as process:
                os.close(writer)
                assert_ramp(pipe.read(), 0)
                assert (None, "") == process.communicate(timeout=10)
        assert 0 == process.returncode

    def test_a_copy_to_a_file_wants_none(self, server, folder):
        ended = shell('"$@" <&- >&- 2>&-', server.put("/object", 20 * MIB), "copy")
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert_ramp(Path("copy").read_bytes(), 0)

    def test_without_a_stderr_an_error_is_not_written_elsewhere(self, server, folder):
        ended = shell('"$@" 2>&-', server.url + "/missing", "copy")
        assert (3, "", "") == (ended.returncode, ended.stdout, ended.stderr)

    def test_a_stderr_that_takes_nothing_changes_no_exit_code(self, server, folder):
        assert 3 == shell('"$@" 2>/dev/full', server.url + "/missing", "copy").returncode

    def test_a_wrong_checksum_is_an_error_though_bytes_went_out(self, server, folder):
        ended = run(server.put("/object", 3 * MIB), "-", "--checksum", "md5:" + "0" * 32, stdout=subprocess.DEVNULL)
        assert (6, True) == (ended.returncode, "md5" in ended.stderr)

    def test_a_checksum_is_required_before_anything_is_written(self, server, folder):
        assert_error(run(server.put("/object", 9), "-", "--require-checksum"), 6, saying="digest")
        ended = run(server.url + "/object", "-", "-v", "--checksum", "md5:" + hashlib.md5(ramp(0, 9)).hexdigest())
        assert (0, True) == (ended.returncode, "verified by a digest of the caller" in ended.stderr)

    def test_an_object_of_a_server_without_ranges_needs_no_room(self, server, folder):
        server.fail(Fault(whole=True), times=None)
        script = 'TMPDIR=/missing "$@" | md5sum'
        ended = shell(script, server.put("/object", MIB), "-")
        assert (MD5, "") == (ended.stdout.split()[0], ended.stderr)

    def test_an_object_without_size_goes_there_too(self, server, folder):
        url = server.put("/object", MIB)
        server.fail(Fault(whole=True, framing="chunks"), times=None)
        ended = shell('"$@" | md5sum', url, "-")
        assert MD5 == ended.stdout.split()[0]


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["-x", "0", "http://host/file", "copy"],
            ["-x", "-1", "http://host/file", "copy"],
            ["--concurrency", "many", "http://host/file", "copy"],
            ["--wrong", "http://host/file", "copy"],
            ["http://host/file", "copy", f"http://user:{SECRET}@host/?key={SECRET}"],
            ["http://host/file", f"http://user:{SECRET}@host/?key={SECRET}"],
            ["http://host/file", "-o", f"http://user:{SECRET}@host/?key={SECRET}"],
            ["http://host/file", "-o", "copy", "copy"],
            ["-x", f"http://user:{SECRET}@host/?key={SECRET}"],
            [f"--wrong=http://user:{SECRET}@host/?key={SECRET}", "http://host/file"],
            [f"ftp://user:{SECRET}@host/file?key={SECRET}", "copy"],
            [f"ftp://user:{SECRET}@host/file?key={SECRET}", "-"],
            [f"ftp://user:{SECRET}@host/file?key={SECRET}", "copy", "--dry-run"],
            [f"ftp://user:{SECRET}@host/file?key={SECRET}"],
            [f"http://user:{SECRET}/@host/file", "copy"],
            ["file.csv", "copy"],
            ["http://host/file", "-H", "Authorization:", "Bearer", SECRET],
            ["http://host/file", "copy", "-H", "Authorization:"],
            ["http://host/file", "copy", "-H", SECRET],
            ["http://host/file", "copy", "-H", f": {SECRET}"],
            ["http://host/file", "copy", "-H", f"A b: {SECRET}"],
            ["http://host/file", "copy", "-H", f"A: {SECRET}\r\nB: c"],
            ["http://host/file", "copy", "-H", f"A: {SECRET}\N{SNOWMAN}"],
            ["http://host/file", "copy", "--checksum", "md5:123"],
            ["http://host/file", "copy", "--checksum", "what:" + "0" * 32],
            ["http://host/file", "copy", "-ca", "md5"],
            ["http://host/file", "copy", "--require-checksum", "--no-verify"],
            ["http://host/file", "copy", "--require-checksum", "-cs", MD5, "-ca", "null"],
            ["http://host/file", "copy", "--limit-rate", "12"],
            ["http://host/file", "copy", "--limit-rate", "fast"],
            ["http://host/file", "copy", "--limit-rate", "1" + "0" * 400],
            ["http://host/file", "copy", "--force", "--no-clobber"],
            ["http://host/file", "copy", "--failed", "again"],
            ["http://host/file", "copy", "--info"],
            ["http://host/file", "--info", "--dry-run"],
            ["http://host/file", "-", "--json"],
            ["http://host/file", ""],
            ["http://host/file", "-o", ""],
            ["http://host/file", "copy", "-H", "A: b", "-H", f"a: {SECRET}"],
        ],
    )
    def test_a_wrong_call_is_one_line_and_exits_with_2(self, command, arguments):
        assert_error(command(*arguments), 2)
        assert [] == names()

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help_explains_options_and_exit_codes(self, command, option):
        ended = command(option)
        assert (0, "") == (ended.returncode, ended.stderr)
        assert ended.stdout.startswith("Usage: getm [OPTIONS] [URL] [FILE]\n")
        for code in {code for _, code in report.EXIT_CODES} | {0, 129, 130, 141, 143}:
            assert re.search(rf"^ +{code} +\w", ended.stdout, re.MULTILINE)
        assert all(len(line) < 80 for line in ended.stdout.splitlines())

    def test_version(self):
        ended = run("--version")
        assert (0, f"getm {getm.__version__}\n", "") == (ended.returncode, ended.stdout, ended.stderr)

    @pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
    def test_completion_is_a_script(self, kind):
        script = run(env=os.environ | {"_GETM_COMPLETE": f"{kind}_source"})
        assert (0, "") == (script.returncode, script.stderr)
        assert "_GETM_COMPLETE" in script.stdout

    def test_completion_knows_the_options(self):
        words = {"_GETM_COMPLETE": "bash_complete", "COMP_WORDS": "getm --che", "COMP_CWORD": "1"}
        assert "plain,--checksum\nplain,--checksum-algorithm\n" == run(env=os.environ | words).stdout

    @pytest.mark.parametrize("file", ["copy", "-"])
    def test_a_dry_run_asks_nobody(self, server, command, file):
        ended = command("--dry-run", with_secrets(server.put("/object", 9)), file)
        assert (0, f"{server.url}/object -> {file}\n", "") == (ended.returncode, ended.stdout, ended.stderr)
        ended = command("--dry-run", "--json", "-d", "new", with_secrets(server.url + "/object"), "copy")
        assert {"url": f"{server.url}/object", "path": "new/copy"} == json.loads(ended.stdout)
        assert ([], []) == (server.log, names())


class TestInfo:
    def test_says_what_the_server_says(self, server, command):
        headers = {"Content-Disposition": 'attachment; filename="a b"', "Repr-Digest": "md5=:knT4/SsmfahVFOl2N30xoQ==:"}
        url = server.put("/object", 9, headers)
        ended = command("--info", with_secrets(url))
        assert (0, "") == (ended.returncode, ended.stderr)
        said = dict(re.split(r": +", line, maxsplit=1) for line in ended.stdout.splitlines())
        assert {
            "url": url,
            "name": "a b",
            "size": "9",
            "etag": '"version-0"',
            "ranges": "True",
            "digests": f"md5:{MD5}",
        }.items() <= said.items()
        found = json.loads(command("--info", "--json", with_secrets(url)).stdout)
        assert (url, 9, {"md5": MD5}) == (found["url"], found["size"], found["digests"])
        assert [] == names()

    def test_what_is_not_known_is_said_so(self, server, command):
        url = server.put("/", MIB, {"ETag": None, "Last-Modified": None})
        server.fail(Fault(whole=True, framing="chunks"), times=None)
        ended = command("-q", "--info", url)
        assert (0, "") == (ended.returncode, ended.stderr)
        said = dict(re.split(r": +", line, maxsplit=1) for line in ended.stdout.splitlines())
        unknown = dict.fromkeys(("name", "size", "etag", "last_modified", "digests"), "unknown")
        assert {"url": url, "ranges": "False", **unknown} == said

    def test_of_a_missing_object_is_an_error(self, server, command):
        url = server.url + "/missing"
        assert_error(command("--info", with_secrets(url)), 3)
        ended = command("--info", "--json", with_secrets(url))
        said = json.loads(ended.stdout)
        assert (3, url, 404) == (ended.returncode, said["url"], said["status_code"])


class TestChecksum:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--checksum", f"md5:{MD5}"],
            ["--checksum", f"MD5={MD5.upper()}"],
            ["-cs", MD5],
            ["-cs", MD5.upper(), "-ca", "md5"],
            ["-cs", MD5, "--checksum-algorithm", "md5", "--no-verify"],
            ["--checksum", f"md5:{MD5}", "--require-checksum"],
        ],
    )
    def test_that_is_right_is_verified(self, server, command, arguments):
        ended = command(server.put("/object", MIB, {"Content-MD5": "0" * 32}), "copy", "--json", *arguments)
        found = json.loads(ended.stdout)
        assert (0, "the caller", {"md5": MD5}) == (ended.returncode, found["verified"], found["digests"])

    @pytest.mark.parametrize("arguments", [[], ["-q"], ["--no-verify"], ["-d", "folder"]])
    def test_that_is_wrong_leaves_no_file(self, server, command, arguments):
        ended = command(server.put("/object", MIB), "copy", "--checksum", "md5:" + "0" * 32, *arguments)
        assert_error(ended, 6, saying=MD5)
        assert names() in ([], ["folder"])
        assert "copy" not in names("folder" if os.path.exists("folder") else ".")

    def test_of_the_server_is_verified_unless_told_not_to(self, server, command):
        url = server.put("/object", MIB, {"Content-MD5": "0" * 32})
        assert_error(command(url, "copy"), 6, saying="md5")
        for arguments in (["--no-verify"], ["-ca", "null"], ["-cs", "x", "-ca", "null"]):
            assert 0 == command("-f", url, "copy", *arguments).returncode

    @pytest.mark.parametrize("arguments", [["-q", "copy"], ["--json", "copy"], ["-q", "-"]])
    def test_that_cannot_be_told_is_no_success(self, server, command, arguments):
        ended = command(server.put("/object", MIB), *arguments, "-ca", "s3_etag", "-cs", "0" * 32 + "-1000")
        assert (6, True) == (ended.returncode, "verified" in ended.stderr)
        assert [] == names()

    def test_is_required_if_told_so(self, server, command):
        assert_error(command(server.put("/object", 9), "copy", "--require-checksum"), 6, saying="digest")
        assert [] == names()


class TestJson:
    def test_is_one_line_with_all_facts(self, server, command):
        url = server.put("/object", MIB, {"Content-MD5": MD5})
        ended = command("--json", with_secrets(url), "copy")
        assert (0, 1, "") == (ended.returncode, ended.stdout.count("\n"), ended.stderr)
        assert SECRET not in ended.stdout
        found = json.loads(ended.stdout)
        seconds = found.pop("seconds")
        assert 0 < seconds
        assert {
            "url": url,
            "path": "copy",
            "size": MIB,
            "resumed": 0,
            "verified": "Content-MD5",
            "digests": {"md5": MD5},
            "skipped": False,
        } == found

    def test_of_a_failure_has_the_error_too(self, server, command):
        url = with_secrets(server.url + "/missing")
        ended = command("--json", url, "copy")
        error = f"{server.url}/missing: the server answered 404 Not Found"
        expected = {"url": f"{server.url}/missing", "path": "copy", "error": error, "kind": "NotFound", "status_code": 404}
        assert (3, expected, f"getm: {error}\n") == (ended.returncode, json.loads(ended.stdout), ended.stderr)

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "日 本", b"a\xffb"])
    def test_stays_one_line_of_ascii_whatever_the_name(self, server, command, name):
        path = os.fsdecode(name)
        ended = command("--json", server.put("/object", 9), path)
        assert (1, True) == (ended.stdout.count("\n"), ended.stdout.isascii())
        assert path == json.loads(ended.stdout)["path"]
        assert [path] == names()

    def test_stays_one_line_whatever_name_the_server_gives(self, server, command):
        url = server.put("/object", 9, {"Content-Disposition": "attachment; filename*=UTF-8''a%0Ab%ED%A0%80"})
        ended = command("--json", "-v", url)
        assert (0, 1, 1) == (ended.returncode, ended.stdout.count("\n"), ended.stderr.count("\n"))
        assert names() == [json.loads(ended.stdout)["path"]]


class TestFailures:
    @pytest.mark.parametrize(("status", "code"), [(400, 5), (401, 4), (403, 4), (404, 3), (410, 3), (501, 5)])
    def test_a_refusal_has_its_code(self, server, command, status, code):
        url = with_secrets(server.put("/object", MIB))
        server.fail(Fault(status=status), times=None)
        assert_error(command(url, "copy"), code, saying=f": the server answered {status}")
        assert [] == names()

    def test_a_refusal_of_the_name_has_its_code(self, server, command):
        url = with_secrets(server.put("/object", MIB))
        server.fail(Fault(status=403), times=None)
        assert_error(command(url), 4, saying="403")
        assert [] == names()

    def test_an_object_that_changes_has_its_code(self, server, command):
        url = server.put("/object", 20 * MIB)

        def change(request):
            server.put("/object", 20 * MIB)

        server.fail(change, when=lambda request: request.index == 1)
        assert_error(command(url, "copy"), 8, saying="ETag")
        assert [] == names()

    def test_an_answer_that_is_not_the_range_has_its_code(self, server, command):
        server.fail(Fault(shift=1), times=None)
        assert_error(command(server.put("/object", 20 * MIB), "copy"), 5, saying="bytes")
        assert [] == names()

    @pytest.mark.parametrize("path", ["missing/copy", "."])
    def test_a_place_that_cannot_be_written_has_its_code(self, server, command, path):
        assert_error(command(server.put("/object", MIB), path), 7)
        assert [] == names()

    def test_a_disk_that_gives_out_has_its_code(self, server, folder):
        limited = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", sys.executable, "-m", "getm"]
        ended = run(server.put("/object", 8 * MIB), "copy", "--quiet", command=limited)
        assert_error(ended, 7, saying="copy.part: File too large")
        assert "copy" not in names()

    def test_a_folder_that_cannot_be_written_has_its_code(self, server, command):
        assert_error(command(server.put("/object", 9), "/sys/object"), 7, saying="/sys/object.part: ")  # also for root

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
    )
    def test_a_signal_ends_it_with_one_line_and_leaves_what_came(self, server, folder, number, code):
        url = server.put("/object", 20 * MIB)
        server.fail(Fault(stall=MIB // 2), when=lambda request: request.start, times=None)
        with started(url, "copy") as process:
            wait_until(is_recorded)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=10)
        assert (code, "", f"getm: stopped by {number.name}\n") == (process.returncode, stdout, stderr)
        assert PARTS == names()

    def test_a_signal_before_anything_came_leaves_nothing(self, server, folder):
        url = server.put("/object", 20 * MIB)
        server.fail(Fault(delay=1e9), times=None)
        with started(url, "copy") as process:
            server.wait_for(lambda log: log)
            process.send_signal(signal.SIGINT)
            assert ("", "getm: stopped by SIGINT\n") == process.communicate(timeout=10)
        assert (130, []) == (process.returncode, names())

    @pytest.mark.parametrize("start", ["python -m getm", "getm"])
    def test_a_signal_while_it_is_imported_ends_it_without_a_word(self, start):
        script = f"""
import importlib.metadata, os, runpy, signal, sys

class Finder:
    def find_spec(name, *_):
        if name == "http.client":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
if {start == "getm"}:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="getm")
    command.load()()
runpy.run_module("getm", run_name="__main__")
"""
        ended = run("--version", command=[sys.executable, "-c", script])
        assert (-signal.SIGINT, "", "") == (ended.returncode, ended.stdout, ended.stderr)

    def test_a_fault_of_ours_is_one_line_that_quotes_nothing(self, command, monkeypatch):
        def run(copy):
            raise KeyError(SECRET)

        monkeypatch.setattr(cli.Copy, "run", run)
        assert_error(command("http://host/file", "copy"), 1, saying="KeyError in ")

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.UsageError, 2),
            (errors.NotFound, 3),
            (errors.AccessDenied, 4),
            (errors.SourceError, 5),
            (errors.BadStatus, 5),
            (errors.ShortRead, 5),
            (errors.RangeNotSupported, 5),
            (errors.TransferTimeout, 5),
            (errors.IntegrityError, 6),
            (errors.GetmError, 7),
            (FileNotFoundError, 7),
            (PermissionError, 7),
            (errors.ObjectChanged, 8),
            (errors.WorkerError, 1),
            (errors.MissingExtra, 1),
            (RuntimeError, 1),
        ],
    )
    def test_every_error_has_its_code(self, error, code):
        assert code == report.exit_code(error("text"))


class TestOriginal:
    def test_a_refusal_is_a_line_that_pipelines_parse(self, server, command):
        url = with_secrets(server.put("/object", 9))
        server.fail(Fault(status=503, headers={"Retry-After": "0"}), times=None)
        ended = command("--compat", "--retry", "0", url, "-O", "copy")
        assert (5, "") == (ended.returncode, ended.stdout)
        assert "503" == re.fullmatch(r'ERROR:getm\.cli.*"status_code":\s*(\d+).*\n', ended.stderr)[1]
        assert SECRET not in ended.stderr

    def test_a_wrong_checksum_is_a_line_that_pipelines_parse(self, server, command):
        ended = command("--compat", server.put("/object", 9), "-O", "copy", "-cs", "0" * 32, "-ca", "md5")
        assert (6, "", "AssertionError: Checksum failed!\n") == (ended.returncode, ended.stdout, ended.stderr)

    def test_success_is_silent_also_where_there_would_be_a_warning(self, server, folder):
        url = server.put("/object", 9, {"ETag": None, "Last-Modified": None})
        assert "ETag" in run(url, "copy").stderr
        assert (0, "") == run_on_terminal("--compat", "-v", "--progress", "--multipart-threshold", "7", url, "copy")


class TestProgress:
    def test_a_terminal_gets_a_bar_and_a_summary(self, server, folder):
        code, written = run_on_terminal(server.put("/object", 3 * MIB, {"Content-MD5": "0" * 31}), "copy")
        bar, summary = screen(written)
        assert 0 == code
        assert re.match(r"copy: 100%\|.*\| 3\.00M/3\.00M \[.*B/s\]$", bar)
        assert re.fullmatch(r"getm: copy: 3\.0 MiB in [\d.]+ s, [\d.]+ .iB/s, not verified", summary)

    @pytest.mark.parametrize("option", ["-q", "--quiet", "--no-progress"])
    def test_a_terminal_gets_none_if_told_so(self, server, folder, option):
        assert (0, "") == run_on_terminal(option, server.put("/object", 3 * MIB), "copy")

    def test_a_narrow_terminal_gets_a_short_one(self, server, folder):
        code, written = run_on_terminal(server.put("/object", 3 * MIB), "copy", columns=20)
        assert 0 == code
        assert re.match(r"\rcopy:   0%\|", written)

    def test_a_switch_of_the_environment_is_honoured(self, server, folder):
        environment = os.environ | {"TQDM_DISABLE": "1"}
        code, written = run_on_terminal(server.put("/object", 3 * MIB), "copy", env=environment)
        assert (0, 1) == (code, written.count("\n"))

    def test_what_is_no_terminal_gets_one_if_told_so(self, server, command):
        ended = command("--progress", server.put("/object", 3 * MIB), "copy")
        assert (0, "") == (ended.returncode, ended.stdout)
        assert "copy: 100%" in ended.stderr

    def test_a_warning_waits_for_the_end_of_the_bar(self, server, folder):
        url = server.put("/object", 3 * MIB, {"ETag": None, "Last-Modified": None})
        bar, warning, summary = screen(run_on_terminal(url, "copy")[1], columns=200)
        assert ("copy: 100%", True, True) == (bar[:10], "neither ETag" in warning, "3.0 MiB" in summary)

    def test_bytes_from_before_are_counted_as_such(self, server, folder):
        url = server.put("/object", 20 * MIB)
        stop_half_way(server, url)
        code, written = run_on_terminal(url, "copy", columns=200)
        assert 0 == code
        assert re.search(r"getm: copy: 20\.0 MiB in .* of it from before", screen(written, 200)[-1])


class TestSecrets:
    @pytest.mark.parametrize("level", ["-v", "-vv"])
    def test_are_not_said_at_any_level(self, server, command, level):
        url = with_secrets(server.put("/object", 5 * MIB, {"X\r\nno colon": "b"}))
        server.fail(Fault(cut=100_000), times=3)
        ended = command(level, url, "copy", "-H", f"Authorization: {SECRET}")
        assert 0 == ended.returncode
        assert SECRET not in ended.stderr

    def test_are_not_in_what_other_processes_see_of_the_background(self, server, folder):
        url = with_secrets(server.put("/object", 20 * MIB))
        server.fail(Fault(stall=MIB // 2), when=lambda request: request.start, times=None)
        with started(url, "copy", "-H", f"X: {SECRET}") as process:
            server.wait_for(lambda log: any(request.start and request.sent for request in log))
            seen = []
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    seen += [child.name(), *child.cmdline(), *child.environ().values()]
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)
        assert seen
        assert SECRET not in " ".join(seen)

    def test_are_not_in_the_record_of_an_unfinished_copy(self, server, folder):
        url = with_secrets(server.put("/object", 20 * MIB))
        stop_half_way(server, url, "-H", f"X: {SECRET}")
        assert SECRET not in Path("copy.part.json").read_text()
