"""What a process and all that descend from it take of memory."""

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """What a tree of processes has.

    Attributes:
        proportional: bytes, each page divided among those that map it (PSS, see proc(5)).
        processes: how many there are.
    """

    proportional: int
    processes: int


def tree(process: int) -> Taken:
    """Return what a process and its descendants take now."""
    found = [process, *descendants(process)]
    return Taken(sum(map(_proportional, found)), len(found))


def children(process: int) -> set[int]:
    """Return the processes that a process has started, or adopted, and that it has not waited for."""
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*"):
        with contextlib.suppress(OSError):  # it has ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def descendants(process: int) -> set[int]:
    """Return the children, and theirs."""
    own = children(process)
    return own.union(*map(descendants, own))


def _proportional(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
