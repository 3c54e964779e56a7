"""Bytes counted as they come, and drawn as one line on stderr, but only when asked."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from tqdm import tqdm

# A name longer than this would leave no room for the bar on a terminal of 80 columns.
LONGEST_LABEL = 30


class Progress:
    """Count the bytes of one copy, and draw a bar if *show* is set.

    A context manager: leaving it leaves the last state of the bar on the screen, and the cursor on a line of its own.

    Args:
        total: bytes expected; None if that is not known.
        label: what the bar stands for, such as a file name.
        show: whether to draw; False makes this a counter that writes nothing and imports nothing.

    Attributes:
        count: bytes so far.
    """

    def __init__(self, total: int | None, label: str, *, show: bool) -> None:
        self.count = 0
        self._bar = _bar(total, label) if show else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, count: int) -> None:
        """Count *count* bytes more, and redraw the bar if the last time is more than 0.1 seconds ago."""
        self.count += count
        if self._bar is not None:
            self._bar.update(count)


def wanted(flag: bool | None) -> bool:  # noqa: FBT001  # to turn a flag into a decision is all it does
    """Say whether to draw: as *flag* says; if it is None, whether stderr is a terminal. Never without a stderr."""
    if sys.stderr is None:
        return False
    return sys.stderr.isatty() if flag is None else flag


def _bar(total: int | None, label: str) -> tqdm[NoReturn]:
    from tqdm import tqdm  # noqa: PLC0415  # 45 ms that only drawing needs

    class Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs, not when it runs
        """A bar without the thread that tqdm starts beside its own, and without its lock of `multiprocessing`.

        That lock would settle the start method of the caller's program, and takes a semaphore in /dev/shm.
        """

        monitor_interval = 0
        _lock = threading.RLock()

    if len(label) > LONGEST_LABEL:
        label = label[: LONGEST_LABEL - 3] + "..."
    # miniters=1: tqdm would otherwise learn from a burst to look at the clock only rarely.
    return Bar(desc=label, total=total, unit="B", unit_scale=True, unit_divisor=1024, miniters=1, file=sys.stderr)
