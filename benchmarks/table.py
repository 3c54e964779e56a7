"""The page of the results: Markdown tables, and whether targets were reached."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.case import Case, Target, connections
from benchmarks.cases import find
from benchmarks.results import Results


@dataclass(frozen=True)
class Figure:
    """How a figure is shown: what one of it is in seconds or bytes, and with how many digits."""

    unit: str
    one: float = 1.0
    digits: int = 2

    def text(self, value: float) -> str:
        """Return it with its unit."""
        return f"{self.number(value)} {self.unit}".strip()

    def number(self, value: float) -> str:
        """Return it without."""
        return f"{value / self.one:.{self.digits}f}"


FIGURES = {
    "seconds": Figure("s", 1, 3),
    "ms": Figure("ms", 1e-3, 1),
    "p50": Figure("ms", 1e-3, 1),
    "p95": Figure("ms", 1e-3, 1),
    "CPU": Figure("s/GiB"),
    "cpu": Figure("s", 1, 3),
    "cpu of all": Figure("s"),
    "slope": Figure("s/GiB"),
    "intercept": Figure("s"),
    "memory": Figure("MiB", 1 << 20, 0),
    "KiB a reader": Figure("KiB", 1, 1),
    "us a read": Figure("us"),
    "reads a second": Figure("/s", 1, 0),
    "processes": Figure("", 1, 0),
    "requests": Figure("", 1, 0),
    "sent": Figure("MB", 1e6, 1),
}


def page(results: Results, images: Sequence[Path]) -> str:
    """Return all of it."""
    cases = find(run.case for run in results.runs)
    head = "\n".join(f"- {name}: {value}" for name, value in results.machine.items())
    loads = [run.load for run in results.runs]
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    shown = "\n".join(f"![{image.stem}]({image.name})" for image in images)
    sections = "\n".join(section(case, results) for case in cases)
    return f"""# Measurements

{head}
- load before the runs: {statistics.median(loads):.1f}, at most {max(loads):.1f}
- versions: {versions}

Made by `benchmarks/run`, see there what raw, https, wan and uneven are. Each figure is the median of its runs, with the
least and the most; CPU seconds are those of all processes from the first request until their exit, by GiB where much is
read; memory is the most that all processes had together (PSS), looked at in a round of its own. `limit` is a small program
in C that does nothing but receive, over as many connections as its name says; a peer whose name ends with a number is held
against that of the same. A peer's other words say how it is used.

## Targets

{_targets(cases, results)}
{shown}

{sections}"""


def section(case: Case, results: Results) -> str:
    """Return the table of one case."""
    rows = _growth_rows(case, results) if case.axis else _rows(case, results)
    failures = {
        f"- {run.peer}{f' at {run.point}' if run.point else ''}: {run.failure}"
        for run in results.runs
        if run.case == case.name and run.failure
    }
    return "\n".join([f"## {case.name}", "", *rows, "", *sorted(failures), *([""] if failures else [])])


def _rows(case: Case, results: Results) -> list[str]:
    peers = [peer for peer in case.peers if results.median(case.name, peer, case.figure) is not None]
    best = results.best(case.name, (peer for peer in peers if is_peer(peer)), case.figure)
    limit = results.best(case.name, (peer for peer in peers if peer.startswith("limit")), case.figure)
    names = ["p50", "p95"] if case.figure in {"p50", "p95"} else [case.figure]
    columns = [*names, "range", "MB/s", "to the best peer", "to the limit", "requests", "sent", "CPU", "memory"]
    rows = []
    for peer in sorted(peers, key=lambda peer: results.median(case.name, peer, case.figure)):
        values = results.values(case.name, peer, case.figure)
        median = statistics.median(values)
        row = {name: _text(name, results.median(case.name, peer, name)) for name in names}
        row["range"] = " - ".join(map(FIGURES[case.figure].number, (min(values), max(values))))
        size = results.median(case.name, peer, "size") or 0
        row["MB/s"] = f"{size / median / 1e6:,.0f}" if case.figure == "seconds" and size > 1 << 20 else ""
        row["to the best peer"] = f"{median / best:.2f}" if best else ""
        own_limit = results.median(case.name, f"limit {peer.split()[-1]}", case.figure) or limit
        row["to the limit"] = f"{median / own_limit:.2f}" if own_limit else ""
        cpu = "CPU" if size >= 16 << 20 else "cpu"  # by GiB of what was read, if that is worth a rate
        row["CPU"] = _text(cpu, results.median(case.name, peer, cpu))
        row |= {name: _text(name, results.median(case.name, peer, name)) for name in ("requests", "sent")}
        row["memory"] = _text("memory", results.memory(case.name, peer))
        rows.append([peer, *(row[name] for name in columns)])
    return _lines(["peer", *columns], rows)


def _growth_rows(case: Case, results: Results) -> list[str]:
    names = [case.figure, *(name for name in ("seconds", "CPU", "processes") if name != case.figure)]
    rows = [
        [peer, str(point), *(_text(name, results.median(case.name, peer, name, point)) for name in names)]
        for peer in case.peers
        for point in results.points(case.name, peer)
    ]
    lines = _lines(["peer", case.axis, *names], rows)
    if case.figure == "cpu of all":
        peers = [peer for peer in case.peers if results.median(case.name, peer, "slope") is not None]
        names = ["slope", "intercept"]
        rows = [[peer, *(_text(name, results.median(case.name, peer, name)) for name in names)] for peer in peers]
        lines += ["", *_lines(["peer", "for each GiB", "for none"], rows)]
    return lines


def _lines(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return a table without the columns that are empty."""
    whole = [head, *rows]
    kept = [number for number in range(len(head)) if any(row[number] for row in whole[1:])]
    lines = ["| " + " | ".join(row[number] for number in kept) + " |" for row in whole]
    return [lines[0], "|" + "---|" * len(kept), *lines[1:]]


def _targets(cases: Iterable[Case], results: Results) -> str:
    rows = [row for case in cases for target in case.targets if (row := _verdict(case, target, results))]
    return "\n".join(_lines(["workload", "who", "target", "measured", "reached"], rows)) + "\n" if rows else ""


def _verdict(case: Case, target: Target, results: Results) -> list[str]:
    """Return the row of one target; none if what it wants was not measured."""
    value = results.median(case.name, target.peer, target.figure, target.point)
    base = bound(case, target, results)
    if value is None or not base:
        return []
    against = " or ".join(target.against) or _text(target.figure, target.floor)
    if target.connections:
        against = f"the rate of {target.connections} connections"
    if target.plus:
        against += f" + {_text(target.figure, target.plus)}"
    if target.against_point is not None:
        against += f" at {target.against_point}"
    peer = f"{target.peer} at {target.point} {case.axis}" if target.point is not None else target.peer
    return [
        case.name,
        peer,
        f"{target.figure} <= {target.most:.3g} x {against}",
        f"{value / base:.2f}: {_text(target.figure, value)} against {_text(target.figure, base)}",
        "yes" if value / base <= target.most else "**no**",
    ]


def bound(case: Case, target: Target, results: Results) -> float | None:
    """Return what a target's figure is held against; None if that was not measured."""
    if target.floor or target.connections:
        return target.floor or connections(target.connections, case.content.size)
    point = target.point if target.against_point is None else target.against_point
    best = results.best(case.name, target.against, target.figure, point)
    return None if best is None else best + target.plus


def is_peer(name: str) -> bool:
    """Whether it is another's."""
    return name.partition(" ")[0] not in {"getm", "limit"}


def _text(figure: str, value: float | None) -> str:
    return "" if value is None else FIGURES[figure].text(value)
