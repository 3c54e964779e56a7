"""The command line, as a process of its own: what it writes, what it says, what it exits with."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from importlib.metadata import version
from pathlib import Path

import pytest

from getm import cli, errors
from tests.content import assert_ramp
from tests.servers.answer import Fault

MIB = 1 << 20
SECRET = "hunter2"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make an empty folder, and work in it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(*arguments, command=(sys.executable, "-m", "getm")):
    return subprocess.run(
        [*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def with_copy(statement):
    """Return the command with another `getm.copy`, one that does what *statement* says."""
    code = (
        "import getm, getm.cli\n"
        f"def copy(url, path, *, concurrency, progress): {statement}\n"
        "getm.copy = copy\n"
        "getm.cli.main()"
    )
    return [sys.executable, "-c", code]


def run_on_terminal(*arguments):
    """Run the command with a terminal for its stderr; return its exit code and what it wrote there."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    with subprocess.Popen([sys.executable, "-m", "getm", *arguments], stderr=follower) as process:
        os.close(follower)
        written = b""
        while part := read_terminal(leader):
            written += part
    os.close(leader)
    return process.returncode, written.decode()


def read_terminal(leader):
    try:
        return os.read(leader, 65536)
    except OSError:  # nobody has the other end any more
        return b""


def assert_error(ended, code, *, saying=""):
    """Check the exit code, and that there is one line, about what it should be about, without secrets."""
    assert (code, "") == (ended.returncode, ended.stdout)
    assert re.fullmatch(r"getm: [^\n]+\n", ended.stderr)
    assert saying in ended.stderr
    assert SECRET not in ended.stderr


def with_secrets(url):
    return url.replace("://", f"://user:{SECRET}@") + f"?key={SECRET}#{SECRET}"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWithFile:
    @pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1])
    def test_copies_the_object_and_says_nothing(self, server, folder, size):
        ended = run(server.put("/object", size), "copy")
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)
        assert ["copy"] == names(folder)
        assert size == Path("copy").stat().st_size
        assert_ramp(Path("copy").read_bytes(), 0)

    def test_replaces_a_file(self, server, folder):
        Path("copy").write_text("old")
        assert 0 == run(server.put("/object", MIB), "copy").returncode
        assert ["copy"] == names(folder)
        assert_ramp(Path("copy").read_bytes(), 0)

    def test_keeps_the_old_file_when_it_fails(self, server, folder):
        Path("copy").write_text("old")
        assert_error(run(server.url + "/missing", "copy"), 3)
        assert ["copy"] == names(folder)
        assert "old" == Path("copy").read_text()

    @pytest.mark.parametrize(("arguments", "concurrency"), [([], 8), (["-x", "2"], 2), (["--concurrency=1"], 1)])
    def test_copies_with_as_many_requests_as_asked_for(self, folder, arguments, concurrency):
        ended = run(*arguments, "http://host/file", "copy", command=with_copy("print(concurrency)"))
        assert (0, f"{concurrency}\n", "") == (ended.returncode, ended.stdout, ended.stderr)

    def test_the_installed_command_is_the_same(self, server, folder):
        command = Path(sys.executable).with_name("getm")
        assert 0 == run(server.put("/object", MIB), "copy", command=[command]).returncode
        assert_ramp(Path("copy").read_bytes(), 0)


class TestWithoutFile:
    def test_takes_the_name_that_the_server_gives(self, server, folder):
        url = server.put("/object", MIB, {"Content-Disposition": "attachment; filename*=UTF-8''na%C3%AFve.csv"})
        assert 0 == run(url).returncode
        assert ["naïve.csv"] == names(folder)
        assert_ramp(Path("naïve.csv").read_bytes(), 0)

    def test_takes_the_name_in_the_url_where_the_server_gives_none(self, server, folder):
        assert 0 == run(server.put("/folder/a%20b.csv", MIB) + "?key=c/d").returncode
        assert ["a b.csv"] == names(folder)

    def test_a_hostile_name_stays_in_the_folder(self, server, folder):
        url = server.put("/object", MIB, {"Content-Disposition": 'attachment; filename="../../.evil"'})
        assert 0 == run(url).returncode
        assert ["evil"] == names(folder)
        assert ["folder"] == names(folder.parent)

    def test_a_redirect_cannot_name_a_hidden_file(self, server, folder):
        url = server.put("/object", MIB)
        server.put("/.profile", MIB)
        server.fail(Fault(status=302, headers={"Location": "/.profile"}), when=lambda r: r.path == "/object", times=None)
        assert 0 == run(url).returncode
        assert ["profile"] == names(folder)

    def test_a_hidden_file_that_was_asked_for_is_one(self, server, folder):
        assert 0 == run(server.put("/.zattrs", 1)).returncode
        assert [".zattrs"] == names(folder)

    def test_without_any_name_asks_for_a_file(self, server, folder):
        assert_error(run(server.put("/", MIB)), 2, saying="FILE")
        assert [] == names(folder)

    @pytest.mark.parametrize("dangling", [False, True])
    def test_leaves_what_is_there_alone(self, server, folder, dangling):
        if dangling:
            Path("object").symlink_to("nowhere")
        else:
            Path("object").write_text("old")
        assert_error(run(server.put("/object", MIB)), 7, saying="object: exists already")
        assert ["object"] == names(folder)
        assert dangling or "old" == Path("object").read_text()

    def test_replaces_what_is_there_if_forced(self, server, folder):
        Path("object").write_text("old")
        assert 0 == run("--force", server.put("/object", MIB)).returncode
        assert ["object"] == names(folder)
        assert_ramp(Path("object").read_bytes(), 0)

    def test_a_missing_object_leaves_nothing(self, server, folder):
        assert_error(run(server.url + "/missing"), 3)
        assert [] == names(folder)


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
            ["-x", f"http://user:{SECRET}@host/?key={SECRET}"],
            [f"--wrong=http://user:{SECRET}@host/?key={SECRET}", "http://host/file"],
            ["http://host/file", "-"],
            [f"ftp://user:{SECRET}@host/file?key={SECRET}", "copy"],
            [f"ftp://user:{SECRET}@host/file?key={SECRET}"],
            [f"http://user:{SECRET}/@host/file", "copy"],
            ["file.csv", "copy"],
        ],
    )
    def test_a_wrong_call_is_one_line_and_exits_with_2(self, folder, arguments):
        assert_error(run(*arguments), 2)
        assert [] == names(folder)

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help_explains_options_and_exit_codes(self, option):
        ended = run(option)
        assert (0, "") == (ended.returncode, ended.stderr)
        assert ended.stdout.startswith("Usage: getm [OPTIONS] URL [FILE]\n")
        for code in {code for _, code in cli.EXIT_CODES} | {0, 130, 143}:
            assert re.search(rf"^ +{code} +\w", ended.stdout, re.MULTILINE)

    def test_version(self):
        ended = run("--version")
        assert (0, f"getm {version('getm')}\n", "") == (ended.returncode, ended.stdout, ended.stderr)


class TestFailures:
    @pytest.mark.parametrize(("status", "code"), [(400, 5), (401, 4), (403, 4), (404, 3), (410, 3), (501, 5)])
    def test_a_refusal_has_its_code(self, server, folder, status, code):
        url = with_secrets(server.put("/object", MIB))
        server.fail(Fault(status=status), times=None)
        assert_error(run(url, "copy"), code, saying=f": the server answered {status}")
        assert [] == names(folder)

    def test_a_refusal_of_the_name_has_its_code(self, server, folder):
        url = with_secrets(server.put("/object", MIB))
        server.fail(Fault(status=403), times=None)
        assert_error(run(url), 4, saying="403")
        assert [] == names(folder)

    def test_an_object_that_changes_has_its_code(self, server, folder):
        url = server.put("/object", 20 * MIB)

        def change(request):
            server.put("/object", 20 * MIB)

        server.fail(change, when=lambda request: request.index == 1)
        assert_error(run(url, "copy"), 8, saying="ETag")
        assert [] == names(folder)

    def test_an_answer_that_is_not_the_range_has_its_code(self, server, folder):
        server.fail(Fault(shift=1), times=None)
        assert_error(run(server.put("/object", 20 * MIB), "copy"), 5, saying="bytes")
        assert [] == names(folder)

    @pytest.mark.parametrize("path", ["missing/copy", "."])
    def test_a_place_that_cannot_be_written_has_its_code(self, server, folder, path):
        assert_error(run(server.put("/object", MIB), path), 7)
        assert [] == names(folder)

    def test_a_disk_that_gives_out_has_its_code(self, server, folder):
        limited = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "bash", sys.executable, "-m", "getm"]
        ended = run(server.put("/object", 8 * MIB), "copy", command=limited)
        warning, error = ended.stderr.splitlines()
        assert (7, "") == (ended.returncode, ended.stdout)
        assert warning.startswith("getm: no background processes")
        assert error.endswith("copy.part: File too large")
        assert_error(run(server.put("/object", 8 * MIB), "copy", "--quiet", command=limited), 7)
        assert [] == names(folder)

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_leaves_nothing(self, server, folder, number, code):
        url = server.put("/object", 20 * MIB)
        server.fail(Fault(stall=MIB), times=None)
        with subprocess.Popen(
            [sys.executable, "-m", "getm", url, "copy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            server.wait_for(lambda log: any(request.sent == MIB for request in log))
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=10)
        assert (code, "", f"getm: stopped by {number.name}\n") == (process.returncode, stdout, stderr)
        assert [] == names(folder)

    def test_a_fault_of_ours_is_one_line_that_quotes_nothing(self, folder):
        ended = run("http://host/file", "copy", command=with_copy(f"raise KeyError('{SECRET}')"))
        assert_error(ended, 1, saying="KeyError")

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
        assert code == next(code for kind, code in cli.EXIT_CODES if issubclass(error, kind))


class TestProgress:
    def test_a_terminal_gets_a_bar(self, server, folder):
        code, written = run_on_terminal(server.put("/object", 3 * MIB), "copy")
        assert 0 == code
        assert "object: 100%" in written
        assert "3.00M/3.00M" in written

    @pytest.mark.parametrize("option", ["-q", "--quiet", "--no-progress"])
    def test_a_terminal_gets_none_if_told_so(self, server, folder, option):
        assert (0, "") == run_on_terminal(option, server.put("/object", 3 * MIB), "copy")

    def test_what_is_no_terminal_gets_one_if_told_so(self, server, folder):
        ended = run("--progress", server.put("/object", 3 * MIB), "copy")
        assert (0, "") == (ended.returncode, ended.stdout)
        assert "object: 100%" in ended.stderr
