"""Progress is told always, and drawn only when asked."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import getm
from getm.progress import LINES_MOST, LONGEST_LABEL, Board, Called, Line, Progress, wanted, watcher
from tests.content import ramp
from tests.servers.fault import Fault
from tests.threads import in_thread

MIB = 2**20


@pytest.fixture
def drawn(capsys):
    """Return what returns everything drawn so far."""
    parts = []

    def drawn():
        parts.append(capsys.readouterr().err)
        return "".join(parts)

    return drawn


@pytest.fixture
def clock(monkeypatch):
    """Return a list of one number: the time that bars look at. Whenever it is later, they draw."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def screen(text, rows=40):
    """Return the lines that are on a terminal in the end, and the cursor's."""
    lines, row, column = [""] * rows, 0, 0
    for part in re.split(r"(\r|\n|\x1b\[A)", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
        elif part == "\x1b[A":
            row -= 1
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines], row, column


def run(code):
    """Run Python code by itself, all warnings errors; return what it wrote to stderr."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True).stderr.decode()


class TestWatcher:
    def test_nobody_is_told_unless_asked(self, drawn):
        progress = watcher(False, "file")
        progress.to(5, 10)
        progress.close()
        progress.close()
        assert (Progress, "") == (type(progress), drawn())

    def test_a_function_is_told_what_is_new(self, drawn):
        told = []
        progress = watcher(lambda count, total: told.append((count, total)), "file")
        assert isinstance(progress, Called)
        for count in (0, 0, 4, 4, 10, 10):
            progress.to(count, 10)
        progress.close()
        assert [(0, 10), (4, 10), (10, 10)] == told
        assert "" == drawn()

    def test_true_draws_a_line(self, drawn):
        progress = watcher(True, "file")
        progress.to(0, 10)
        progress.to(10, 10)
        progress.close()
        assert "file: 100%|" in drawn()

    def test_what_the_function_raises_is_the_callers(self):
        def refuse(count, total):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            watcher(refuse, "file").to(1, 2)


class TestLine:
    def test_shows_label_share_size_rate_and_time_left(self, drawn, clock):
        line = Line("file.csv")
        line.to(0, 4 * MIB)
        clock[0] += 2
        line.to(MIB, 4 * MIB)
        assert re.search(r"file\.csv:  25%\|.*\| 1\.00M/4\.00M \[00:02<00:06, 524kB/s\]$", drawn())
        line.close()

    def test_ends_on_a_new_line_with_its_last_state(self, drawn):
        line = Line("file")
        line.to(0, 10)
        line.to(10, 10)
        line.close()
        shown, row, column = screen(drawn())
        assert (1, 0) == (row, column)
        assert shown[0].startswith("file: 100%|")
        assert drawn().endswith("\n")

    def test_closed_twice_draws_nothing_more(self, drawn):
        line = Line("file")
        line.to(5, 10)
        line.close()
        before = drawn()
        line.close()
        line.to(7, 10)
        assert before == drawn()

    def test_of_nothing_draws_nothing(self, drawn):
        Line("file").close()
        assert "" == drawn()

    def test_of_an_empty_object_is_drawn(self, drawn):
        line = Line("file")
        line.to(0, 0)
        line.close()
        assert "file: 0.00B [" in drawn()

    def test_a_long_label_leaves_room_for_the_bar(self, drawn):
        line = Line("n" * 100)
        line.to(0, 10)
        line.close()
        assert "\r" + "n" * (LONGEST_LABEL - 3) + "...:   0%|" in drawn()

    def test_what_was_there_before_is_no_matter_of_rate(self, drawn, clock):
        line = Line("file")
        line.to(90 * MIB, 100 * MIB)
        clock[0] += 1
        line.to(91 * MIB, 100 * MIB)
        assert drawn().endswith("91.0M/100M [00:01<00:09, 1.05MB/s]")
        clock[0] += 9
        line.to(100 * MIB, 100 * MIB)
        line.close()
        assert drawn().endswith("100M/100M [00:10<00:00, 1.05MB/s]\n")

    def test_what_was_lost_leaves_a_rate_that_is_right(self, drawn, clock):
        line = Line("file")
        line.to(50 * MIB, 100 * MIB)
        clock[0] += 50
        line.to(100 * MIB, 100 * MIB)
        line.to(0, 100 * MIB)
        for _ in range(100):
            clock[0] += 1
            line.to(int(line._bar.n) + MIB, 100 * MIB)
        assert "-" not in drawn()
        line.close()
        assert re.search(r"100%\|.*100M/100M \[02:30<00:00, 1\.05MB/s\]\n$", drawn())

    def test_of_a_notebook_grows_with_the_total(self, drawn):
        line = Line("all")
        line.to(1, 10)
        line._bar.container = SimpleNamespace(children=(None, SimpleNamespace(max=10), None))  # as tqdm.notebook has it
        line.to(5, 30)
        assert (30, 30) == (line._bar.total, line._bar.container.children[1].max)
        line.close()

    def test_two_at_once_are_below_one_another(self, drawn):
        first, second = Line("first"), Line("second")
        first.to(1, 10)
        second.to(2, 10)
        shown, row, _ = screen(drawn())
        assert (["first", "second"], 0) == ([line.partition(":")[0] for line in shown[:2]], row)
        second.close()
        first.close()
        assert 0 == screen(drawn())[2]

    def test_is_below_the_bars_that_the_caller_draws(self):
        text = run(
            "import os\n"
            "from tqdm import tqdm\n"
            "from getm.progress import Line\n"
            "outer = tqdm(total=3, desc='outer')\n"
            "line = Line('inner')\n"
            "line.to(1, 10)\n"
            "os._exit(0)"
        )
        shown, row, _ = screen(text)
        assert (["outer", "inner"], 0) == ([line.partition(":")[0] for line in shown[:2]], row)

    def test_is_drawn_nowhere_without_a_stderr(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        line = Line("file")
        line.to(1, 2)
        line.close()

    def test_can_be_switched_off_by_tqdms_own_variable(self):
        code = "from getm.progress import Line; line = Line('f'); line.to(5, 9); line.to(2, 9); line.to(9, 9); line.close()"
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TQDM_DISABLE": "1"})
        assert b"" == done.stderr


class TestBoard:
    def test_has_a_line_for_all_and_one_for_each_under_way(self, drawn, clock):
        board = Board("all")
        files = [board.file(name) for name in ("a", "b")]
        for file in files:
            file.to(0, 4)
        clock[0] += 1
        for file in files:
            file.to(1, 4)
        shown, row, _ = screen(drawn())
        assert ["all", "a", "b", ""] == [line.partition(":")[0] for line in shown[:4]]
        assert "1.00/8.00" in shown[0]
        assert "1.00/4.00" in shown[1]
        assert 0 == row
        for file in files:
            file.close()
        board.close()

    def test_leaves_only_the_line_of_all(self, drawn):
        board = Board("all")
        for name in "abc":
            file = board.file(name)
            file.to(0, 5)
            file.to(5, 5)
            file.close()
        board.close()
        shown, row, column = screen(drawn())
        assert (1, 0) == (row, column)
        assert re.match(r"all: 100%\|.*15\.0/15\.0", shown[0])
        assert [""] * 3 == shown[1:4]

    def test_what_was_there_before_is_no_matter_of_rate(self, drawn, clock):
        board = Board("all")
        first, second = board.file("first"), board.file("second")
        first.to(0, 10 * MIB)
        clock[0] += 10
        first.to(10 * MIB, 10 * MIB)
        second.to(900 * MIB, 910 * MIB)
        clock[0] += 10
        second.to(910 * MIB, 910 * MIB)
        assert re.search(r"all: 100%\|[^\r]*920M/920M \[00:20<00:00, 1\.05MB/s\]", drawn())
        for file in (first, second):
            file.close()
        board.close()
        assert re.search(r"all: 100%\|[^\r]*920M/920M \[00:20<00:00, 1\.05MB/s\]\n$", drawn())

    def test_a_file_that_is_fetched_again_counts_once(self, drawn, clock):
        board = Board("all")
        file, other = board.file("file"), board.file("other")
        other.to(5 * MIB, 10 * MIB)
        file.to(0, 10 * MIB)
        clock[0] += 10
        file.to(10 * MIB, 10 * MIB)
        file.to(0, 10 * MIB)
        clock[0] += 10
        file.to(10 * MIB, 10 * MIB)
        for each in (file, other):
            each.close()
        board.close()
        assert re.search(r"all:  75%\|[^\r]*15\.0M/20\.0M \[00:20<00:05, 1\.05MB/s\]\n$", drawn())

    def test_a_file_that_fails_counts_as_far_as_it_came(self, drawn):
        board = Board("all")
        bad, good = board.file("bad"), board.file("good")
        bad.to(0, 10)
        bad.to(4, 10)
        bad.close()
        good.to(0, 10)
        good.to(10, 10)
        good.close()
        board.close()
        assert re.match(r"all:  70%\|.*14\.0/20\.0", screen(drawn())[0][0])

    def test_more_files_than_lines_are_counted_and_get_lines_as_these_become_free(self, drawn):
        board = Board("all")
        files = [board.file(f"file {number}") for number in range(LINES_MOST + 3)]
        for file in files:
            file.to(1, 2)
        shown, _, _ = screen(drawn())
        assert ["all", *(f"file {number}" for number in range(LINES_MOST)), ""] == [
            line.partition(":")[0] for line in shown[: LINES_MOST + 2]
        ]
        files[3].close()
        files[-1].to(2, 2)
        assert f"file {LINES_MOST + 2}" == screen(drawn())[0][4].partition(":")[0]
        for file in files:
            file.close()
        board.close()
        shown, row, column = screen(drawn())
        assert (1, 0) == (row, column)
        assert [""] * LINES_MOST == shown[1 : LINES_MOST + 1]
        assert "20.0/38.0" in shown[0]

    def test_files_that_never_report_take_no_line(self, drawn):
        board = Board("all")
        for number in range(2 * LINES_MOST):
            board.file(f"skipped {number}")
        file = board.file("file")
        file.to(1, 2)
        assert "file: " in drawn()
        file.close()
        board.close()

    def test_closing_twice_is_harmless(self, drawn):
        board = Board("all")
        files = [board.file("a"), board.file("b")]
        for file in files:
            file.to(1, 2)
        for _ in range(2):
            files[0].close()
        board.close()
        before = drawn()
        board.close()
        files[1].to(2, 2)
        files[1].close()
        board.file("c").to(1, 1)
        assert before == drawn()
        assert (1, 0) == screen(drawn())[1:]

    def test_any_number_of_threads_may_tell_it(self, drawn):
        board = Board("all")
        start = threading.Barrier(8)

        def work(number):
            start.wait(30)
            for _ in range(10):
                file = board.file(f"file {number}")
                for count in range(11):
                    file.to(count, 10)
                file.close()

        for result in [in_thread(work, number) for number in range(8)]:
            result()
        board.close()
        shown, row, column = screen(drawn())
        assert (1, 0) == (row, column)
        assert re.match(r"all: 100%\|.*800/800", shown[0])
        assert [""] * 8 == shown[1:9]


class TestCopy:
    def test_tells_a_function_all_from_the_first_to_the_last(self, server, tmp_path):
        told = []
        getm.copy(server.put("/a", 3 * MIB), tmp_path / "a", progress=lambda *numbers: told.append(numbers))
        assert [(0, 3 * MIB), (3 * MIB, 3 * MIB)] == [told[0], told[-1]]
        assert sorted(told) == told

    def test_tells_first_what_another_run_has_brought(self, server, tmp_path):
        url = server.put("/a", 4 * MIB)
        server.fail(Fault(cut=0), when=lambda request: request.start >= MIB, times=None)
        with pytest.raises(getm.GetmError):
            getm.copy(url, tmp_path / "a", retries=0)
        server.heal()
        told = []
        copied = getm.copy(url, tmp_path / "a", progress=lambda *numbers: told.append(numbers))
        assert ramp(0, 4 * MIB) == (tmp_path / "a").read_bytes()
        assert 0 < copied.resumed
        assert [(copied.resumed, 4 * MIB), (4 * MIB, 4 * MIB)] == [told[0], told[-1]]

    def test_that_fails_ends_its_line_and_the_next_is_drawn(self, server, tmp_path, drawn):
        url = server.put("/a", 4 * MIB)
        server.fail(Fault(status=404), when=lambda request: request.start >= MIB, times=None)
        with pytest.raises(getm.NotFound):
            getm.copy(url, tmp_path / "a", progress=True)
        assert drawn().endswith("\n")
        server.heal()
        getm.copy(url, tmp_path / "b", progress=True)
        shown, row, column = screen(drawn())
        assert (2, 0) == (row, column)
        assert ["a", "b"] == [line.partition(":")[0] for line in shown[:2]]
        assert "100%" in shown[1]

    def test_ends_with_the_error_of_a_function_that_refuses(self, server, tmp_path):
        def refuse(count, total):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            getm.copy(server.put("/a", MIB), tmp_path / "a", progress=refuse)
        assert not (tmp_path / "a").exists()


class TestDrawing:
    def test_starts_no_thread(self, drawn):
        before = threading.enumerate()
        line = Line("file")
        line.to(1, 10)
        assert before == threading.enumerate()
        line.close()

    def test_leaves_the_start_method_of_multiprocessing_open(self):
        run(
            "from getm.progress import Board\n"
            "board = Board('all'); file = board.file('a'); file.to(1, 2); file.close(); board.close()\n"
            "import multiprocessing\n"
            "assert multiprocessing.get_start_method(allow_none=True) is None"
        )

    def test_takes_the_lock_of_bars_that_are_drawn_already(self):
        run(
            "from tqdm import tqdm\n"
            "tqdm(disable=True)\n"
            "from getm.progress import Line, _bar\n"
            "Line('a').to(1, 2)\n"
            "assert _bar()._lock is tqdm.get_lock()\n"
        )

    @pytest.mark.parametrize("wish", ["False", "print"])
    def test_is_what_tqdm_is_imported_for(self, wish):
        run(
            "import sys\n"
            "import getm.cli\n"
            "from getm.progress import Board, Line, watcher\n"
            f"progress = watcher({wish}, 'file'); progress.to(1, 2); progress.close()\n"
            "Line('a').close(); Board('b').close()\n"
            "assert 'tqdm' not in sys.modules"
        )

    def test_is_by_the_bars_of_notebooks_where_there_is_one(self):
        run("import tqdm.auto\nfrom getm.progress import _bar\nassert issubclass(_bar(), tqdm.auto.tqdm)")

    def test_emits_no_warning(self):
        shown = run("from getm.progress import Line; line = Line('file'); line.to(1, 2); line.close()")
        assert "file:  50%|" in shown
        assert "Warning" not in shown


class TestWanted:
    @pytest.mark.parametrize("flag", [False, True])
    def test_a_flag_decides(self, flag):
        assert flag is wanted(flag)

    def test_without_a_flag_a_terminal_decides(self, monkeypatch):
        leader, follower = pty.openpty()
        with os.fdopen(leader, "rb"), os.fdopen(follower, "w") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            assert wanted(None)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        assert not wanted(None)

    @pytest.mark.parametrize("flag", [None, False, True])
    def test_without_a_stderr_nothing_is_drawn(self, flag, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        assert not wanted(flag)
