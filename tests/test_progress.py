"""Bytes are counted always, and drawn only when asked."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from getm.progress import LONGEST_LABEL, Progress, wanted


@pytest.mark.parametrize("total", [None, 0, 5])
@pytest.mark.parametrize("show", [False, True])
def test_counts_what_is_added(total: int | None, show: bool) -> None:
    with Progress(total, "file", show=show) as progress:
        progress.add(2)
        progress.add(0)
        progress.add(3)
    assert 5 == progress.count


def test_writes_nothing_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "file", show=False) as progress:
        progress.add(10)
    assert ("", "") == capfd.readouterr()


def test_draws_label_size_and_share_on_stderr_and_ends_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2 << 20, "file.csv", show=True) as progress:
        progress.add(1 << 20)
    out, err = capsys.readouterr()
    last = err.rpartition("\r")[2]
    assert "" == out
    assert last.startswith("file.csv:  50%|")
    assert "1.00M/2.00M" in last
    assert last.endswith("\n")


def test_ends_the_line_when_the_copy_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="gone"), Progress(10, "file", show=True):
        raise OSError("gone")
    assert capsys.readouterr().err.endswith("\n")


def test_draws_without_a_total(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(None, "file", show=True) as progress:
        progress.add(1 << 20)
    assert "file: 1.00MB [" in capsys.readouterr().err


def test_a_long_label_leaves_room_for_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "n" * 100, show=True):
        pass
    assert "\r" + "n" * (LONGEST_LABEL - 3) + "...:   0%|" in capsys.readouterr().err


def test_drawing_starts_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.enumerate()
    with Progress(10, "file", show=True):
        assert before == threading.enumerate()


def test_drawing_leaves_the_start_method_of_multiprocessing_open() -> None:
    code = (
        "from getm.progress import Progress\n"
        "with Progress(10, 'file', show=True): pass\n"
        "import multiprocessing\n"
        "assert multiprocessing.get_start_method(allow_none=True) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


def test_tqdm_is_imported_only_to_draw() -> None:
    code = (
        "import sys\n"
        "from getm.progress import Progress\n"
        "with Progress(10, 'file', show=False): pass\n"
        "assert 'tqdm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("flag", [False, True])
def test_a_flag_decides(flag: bool) -> None:
    assert flag is wanted(flag)


def test_without_a_flag_a_terminal_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb"), os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert wanted(None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not wanted(None)


@pytest.mark.parametrize("flag", [None, False, True])
def test_without_a_stderr_nothing_is_drawn(flag: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not wanted(flag)
