"""What a process that is measured is told to do, and what it tells in the end."""

import json
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

MIB = 1 << 20
BUCKET = "bucket"  # S3 clients ask for /bucket/key, which nginx answers well enough for them


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        workload: a name in `clients.WORKLOADS` or `commands.COMMANDS`.
        peer: who does it: a name, and an option of it after a space.
        bucket: URL of the folder of all objects; for the peer named local, its path.
        keys: names of the objects.
        size: bytes of each.
        point: where on the axis of a growth; 0 without one.
        compute: seconds of computing for each MiB that was read.
        authority: path of the certificate to trust; None for plain http.
    """

    workload: str
    peer: str
    bucket: str
    keys: tuple[str, ...]
    size: int
    point: int = 0
    compute: float = 0.0
    authority: str | None = None

    @property
    def name(self) -> str:
        """The first word of the peer."""
        return self.peer.partition(" ")[0]

    @property
    def option(self) -> str:
        """The other words."""
        return self.peer.partition(" ")[2]

    @property
    def key(self) -> str:
        """The name of the first object."""
        return self.keys[0]

    @property
    def url(self) -> str:
        """Where the first object is."""
        return self.locate(self.key)

    @property
    def endpoint(self) -> str:
        """What S3 clients take."""
        return self.bucket.removesuffix("/" + BUCKET)

    @property
    def port(self) -> int:
        """Where the server listens."""
        return urllib.parse.urlsplit(self.bucket).port

    def locate(self, key: str) -> str:
        """Return where an object is."""
        return f"{self.bucket}/{key}"

    def dump(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> "Job":
        """Return what was dumped."""
        values = json.loads(text)
        return cls(**values | {"keys": tuple(values["keys"])})


@dataclass(frozen=True)
class Outcome:
    """What was done.

    Attributes:
        seconds: of the clock, from before the first request to after the last byte.
        check: a number that depends on what was read; whoever reads the same has the same.
        size: bytes that were read.
        latencies: seconds of each read, where these are asked for.
        figures: others, by name.
        cpu_before: seconds of processors that the process had used when it began.
    """

    seconds: float
    check: int = 0
    size: int = 0
    latencies: tuple[float, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    cpu_before: float = 0.0


Work: TypeAlias = Callable[[], Outcome]
"""What is left to do when all is imported."""
