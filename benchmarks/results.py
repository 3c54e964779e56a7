"""What was measured, and where: kept as JSON."""

import dataclasses
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True)
class Run:
    """One run of one peer.

    Attributes:
        case: its name.
        peer: who.
        point: where on the case's axis.
        round: of which round; 0 for the one in which only memory is measured.
        figures: what was measured, in seconds and bytes, by name.
        latencies: seconds of each read, where these are asked for.
        load: how many processes wanted a processor, on average over the minute before.
        failure: what was wrong; None if nothing was.
    """

    case: str
    peer: str
    point: int
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    latencies: tuple[float, ...] = ()
    load: float = 0.0
    failure: str | None = None

    def figure(self, name: str) -> float | None:
        """Return what was measured, or what follows from it; None if that was not."""
        if name == "CPU":
            size = self.figures.get("size")
            return self.figures["cpu"] / size * GIB if size else None
        if name == "ms":
            return self.figures.get("seconds")
        if name in {"p50", "p95"} and len(self.latencies) > 1:
            return statistics.quantiles(self.latencies, n=20, method="inclusive")[9 if name == "p50" else 18]
        return self.figures.get(name)


@dataclass
class Results:
    """All runs.

    Attributes:
        machine: where, and when: lines of text by name.
        versions: of whom, by name.
        runs: in the order they were made.
    """

    machine: dict[str, str]
    versions: dict[str, str]
    runs: list[Run] = field(default_factory=list)

    def of(self, case: str, peer: str | None = None, point: int | None = None) -> list[Run]:
        """Return the runs of a case that were timed and went well; of one peer, at one point."""
        return [
            run
            for run in self.runs
            if run.case == case
            and run.round
            and run.failure is None
            and (peer is None or run.peer == peer)
            and (point is None or run.point == point)
        ]

    def points(self, case: str, peer: str | None = None) -> list[int]:
        """Return where on the axis there are runs."""
        return sorted({run.point for run in self.of(case, peer)})

    def values(self, case: str, peer: str, figure: str, point: int | None = None) -> list[float]:
        """Return a figure of all runs that have it."""
        found = (run.figure(figure) for run in self.of(case, peer, point))
        return [value for value in found if value is not None]

    def median(self, case: str, peer: str, figure: str, point: int | None = None) -> float | None:
        """Return the median of a figure, of the memory the most; None if there is none."""
        if figure == "memory":
            return self.memory(case, peer)
        if figure in {"slope", "intercept"}:
            return self._line(case, peer)[figure == "intercept"]
        values = self.values(case, peer, figure, point)
        return statistics.median(values) if values else None

    def best(self, case: str, peers: Iterable[str], figure: str, point: int | None = None) -> float | None:
        """Return the least median of some peers; None if none has one."""
        medians = (self.median(case, peer, figure, point) for peer in peers)
        return min((median for median in medians if median is not None), default=None)

    def memory(self, case: str, peer: str) -> float | None:
        """Return the most memory that was seen, in bytes; None if nobody looked."""
        seen = [
            run.figures["memory"] for run in self.runs if (run.case, run.peer) == (case, peer) and "memory" in run.figures
        ]
        return max(seen, default=None)

    def _line(self, case: str, peer: str) -> tuple[float | None, float | None]:
        """Return CPU seconds for each GiB more, and those for none, of a case in which objects grow by the MiB."""
        points = self.points(case, peer)
        if len(points) < 2:
            return None, None
        least, most = (self.median(case, peer, "cpu of all", point) for point in (points[0], points[-1]))
        slope = (most - least) / (points[-1] - points[0])
        return slope * 1024, least - slope * points[0]

    def save(self, path: Path) -> None:
        """Write all to a file."""
        runs = [_compact(dataclasses.asdict(run)) for run in self.runs]
        head = json.dumps({"machine": self.machine, "versions": self.versions}, indent=1)
        lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
        path.write_text(f'{head[:-2]},\n "runs": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Return what was saved."""
        values = json.loads(path.read_text())
        return cls(values["machine"], values["versions"], [Run(**run) for run in values["runs"]])


def _compact(run: dict[str, object]) -> dict[str, object]:
    """Leave out what says nothing, and digits that are noise."""
    figures = {name: float(f"{value:.5g}") for name, value in run["figures"].items() if value}
    latencies = [round(value, 5) for value in run["latencies"]]
    run |= {"figures": figures, "latencies": latencies, "load": round(run["load"], 1)}
    return {name: value for name, value in run.items() if value not in (None, [], {}) or name == "figures"}
