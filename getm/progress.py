"""Who is told how far copies are: nobody, a function, or whoever looks at lines drawn on stderr or in a notebook."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from getm.errors import UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

# A name longer than this would leave no room for the bar on a terminal of 80 columns.
LONGEST_LABEL = 30
LINES_MOST = 16
"""Lines of single files below the one of all of them."""

_drawing = threading.RLock()  # of all bars: only one at a time may move the cursor


class Progress:
    """Is told how far one copy is, and does nothing with it."""

    def to(self, count: int, total: int) -> None:
        """Note that *count* of *total* bytes are there; those of the first call were there before."""

    def close(self) -> None:
        """Note that there will be no more. Twice is harmless."""


class Called(Progress):
    """Calls a function with the bytes that are there and those of the whole object, whenever more have come."""

    def __init__(self, function: Callable[[int, int], None]) -> None:
        self._function = function
        self._last = (-1, -1)

    def to(self, count: int, total: int) -> None:
        """Pass it on, if it is news."""
        if (count, total) != self._last:
            self._last = (count, total)
            self._function(count, total)


class Line(Progress):
    """Draws one line: a bar with size, rate and time left; below those that are drawn already, whoever draws them.

    Args:
        label: what it stands for, such as a file name.
        stays: whether the last state stays on the screen.
    """

    def __init__(self, label: str, *, stays: bool = True) -> None:
        self._label = label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 3] + "..."
        self._stays = stays
        self._bar: tqdm[Any] | None = None

    def to(self, count: int, total: int) -> None:
        """Redraw, if the last time is more than 0.1 seconds ago. If there is less than before, it is lost."""
        if sys.stderr is None:
            return
        if self._bar is None:
            self._bar = _bar()(
                desc=self._label,
                total=total,
                initial=count,
                leave=self._stays,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                miniters=1,  # tqdm would otherwise learn from a burst to look at the clock only rarely
                file=sys.stderr,
            )
        if total != self._bar.total:
            self._bar.total = total
            if hasattr(self._bar, "container"):  # in a notebook the bar itself is a widget, which tqdm tells only by `reset`
                self._bar.container.children[1].max = total
        self.skip(min(0, count - int(self._bar.n)))
        self._bar.update(count - self._bar.n)

    def skip(self, count: int) -> None:
        """Note bytes that are there but did not come now, or below 0 that came and are lost: the rate is without them."""
        bar = self._bar
        if bar is not None and not bar.disable:
            bar.n += count
            bar.initial += count
            bar.last_print_n += count

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()


class Board:
    """Draws a line for all of many files together, and one below it for each that is under way; any thread may tell it.

    Args:
        label: of the first line.
    """

    def __init__(self, label: str) -> None:
        self._lock = threading.Lock()  # guards all below; the first line is drawn under it, so that it never goes back
        self._all: Line | None = Line(label)  # None once it is closed
        self._lines: set[Line] = set()  # of single files
        self._files: dict[Progress, tuple[int, int]] = {}  # count and total of those under way
        self._past = (0, 0)  # count and total of files that are done

    def file(self, label: str) -> Progress:
        """Return who is to be told of one file, by one thread at a time."""
        return _File(self, label)

    def close(self) -> None:
        """End all lines; what is told later is not drawn. Twice is harmless."""
        with self._lock:
            for line in self._lines:
                line.close()
            if self._all is not None:
                self._all.close()
            self._all = None

    def line(self, label: str) -> Line | None:
        """Return a line for a file if there is room for one; it is given back by `end`."""
        with self._lock:
            if self._all is None or len(self._lines) >= LINES_MOST:
                return None
            line = Line(label, stays=False)
            self._lines.add(line)
            return line

    def note(self, file: Progress, count: int, total: int) -> None:
        """Count a file's bytes with those of all; those of its first report were there before."""
        with self._lock:
            if self._all is None:
                return
            if file not in self._files:
                self._all.skip(count)
            self._files[file] = (count, total)
            self._all.to(*(sum(numbers) for numbers in zip(self._past, *self._files.values(), strict=True)))

    def end(self, file: Progress, line: Line | None) -> None:
        """Count a file with those that are done, and end its line."""
        with self._lock:
            count, total = self._files.pop(file, (0, 0))
            self._past = (self._past[0] + count, self._past[1] + total)
            if line is not None:
                self._lines.discard(line)
                line.close()


class _File(Progress):
    """One file of a board."""

    def __init__(self, board: Board, label: str) -> None:
        self._board = board
        self._label = label
        self._line: Line | None = None  # from its first report on for which there is room

    def to(self, count: int, total: int) -> None:
        """Draw the line of all and its own."""
        self._board.note(self, count, total)
        if self._line is None:
            self._line = self._board.line(self._label)
        if self._line is not None:
            self._line.to(count, total)

    def close(self) -> None:
        """End its line."""
        self._board.end(self, self._line)
        self._line = None


def watcher(progress: bool | Callable[[int, int], None], label: str) -> Progress:  # noqa: FBT001  # as `copy` is given it
    """Return who is to be told of one copy."""
    if callable(progress):
        return Called(progress)
    if not isinstance(progress, bool):
        raise UsageError(f"progress must be True, False or a function, not {progress!r}")
    return Line(label) if progress else Progress()


def wanted(flag: bool | None) -> bool:  # noqa: FBT001  # to turn a flag into a decision is all it does
    """Say whether to draw: as *flag* says; if it is None, whether stderr is a terminal. Never without a stderr."""
    if sys.stderr is None:
        return False
    return sys.stderr.isatty() if flag is None else flag


@functools.cache
def _bar() -> Callable[..., tqdm[Any]]:
    from tqdm.auto import tqdm  # noqa: PLC0415  # what only drawing needs

    class Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs, not when it runs
        """A bar without the thread that tqdm starts beside its own, and without its lock of `multiprocessing`.

        That lock would settle the start method of the caller's program, and takes a semaphore in /dev/shm. If the caller
        draws bars already, it is there, and all go below one another only by that one.
        """

        monitor_interval = 0
        _lock = getattr(tqdm, "_lock", None) or _drawing

    return Bar
