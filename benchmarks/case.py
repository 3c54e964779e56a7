"""What one table of the results is about: some work, who does it, and what getm is to reach."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.data import Content

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
CONNECTION = 50 * MIB  # bytes per second of one connection in the profile wan


@dataclass(frozen=True)
class Target:
    """What a peer is to reach.

    Attributes:
        peer: who.
        most: what the ratio may be at most.
        against: peers, the best of whom it is held against.
        figure: what of it, a name in `table.FIGURES`.
        floor: bytes or seconds that it is held against, where that is nobody's figure.
        plus: seconds or bytes that it may be more than those.
        connections: it is held against what so many connections give in the profile wan.
        point: where on the axis, of a growth; None where there is none.
        against_point: where on it those are whom it is held against; None for the same.
    """

    peer: str
    most: float
    against: tuple[str, ...] = ()
    figure: str = "seconds"
    floor: float = 0.0
    plus: float = 0.0
    connections: int = 0
    point: int | None = None
    against_point: int | None = None


@dataclass(frozen=True)
class Case:
    """One table: the same work, done by several.

    Attributes:
        group: what the option `--workload` calls it.
        title: its headline, with places for the size and the count of the objects.
        workload: a name in `clients.WORKLOADS` or `commands.COMMANDS`.
        profile: how it is served.
        content: what is read.
        peers: who reads; the first word is the peer, the others how.
        figure: what the table is sorted by, a name in `table.FIGURES`.
        targets: what is to be reached.
        axis: what grows, if something does; "MiB" is the size of the object, "connections" goes to the peer's name.
        points: how it grows.
        compute: seconds that a reader computes for each MiB.
        destination: where copies go, "tmpfs" or "disk".
        looks: whether the memory is measured, in a round of its own.
    """

    group: str
    title: str
    workload: str
    profile: str
    content: Content
    peers: tuple[str, ...]
    figure: str = "seconds"
    targets: tuple[Target, ...] = ()
    axis: str = ""
    points: tuple[int, ...] = (0,)
    compute: float = 0.0
    destination: str = ""
    looks: bool = False

    @property
    def name(self) -> str:
        """Headline and profile; no two cases have the same."""
        size = f"{self.content.size / GIB:.0f} GiB" if self.content.size >= GIB else f"{self.content.size / MIB:.0f} MiB"
        title = self.title.format(size=size, count=f"{self.content.count:,}")
        return f"{title}, {self.profile}" + (f", to {self.destination}" if self.destination else "")

    def at(self, point: int) -> Content:
        """Return what is read at a point of the axis."""
        return Content(self.content.kind, point * MIB) if self.axis == "MiB" else self.content


def connections(count: int, size: int) -> float:
    """Return the seconds that so many connections of the profile wan need at least."""
    return size / count / CONNECTION


def quick(case: Case) -> Case:
    """Return a case with less to do: smaller objects, and fewer points."""
    most = 64 * MIB if case.workload in {"sequential", "copy"} else case.content.size
    content = replace(case.content, size=min(case.content.size, most), count=min(case.content.count, 201))
    points = tuple(point for point in case.points if point < 100) or tuple(point // 16 for point in case.points)
    return replace(case, content=content, points=points, looks=False)


def essential(case: Case) -> Case:
    """Return a case with only those of the peers that targets name, and limits; all if it has no targets."""
    named = {peer for target in case.targets for peer in (target.peer, *target.against)}
    return among(case, named | {"limit"}) if named else case


def among(case: Case, wanted: Iterable[str]) -> Case:
    """Return a case with those of the peers that are wanted, by all of their name or its first word."""
    names = set(wanted)
    return replace(case, peers=tuple(peer for peer in case.peers if names & {peer, peer.partition(" ")[0]}))
