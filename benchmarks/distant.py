"""Measure the main job against a distant object store: nginx with 30 ms before each answer and 50 MiB/s a connection.

    python -m benchmarks.distant [--rounds N] [--size MIB]

Wants nginx with its Lua module, and `pip install -e .[test]`. Every figure is measured in each round, in turn, and printed
as median [least - most]; plain requests on the same work stand beside it, because what a machine can do changes from hour
to hour and the ratio changes less.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

import getm
from getm.engine import close_default
from tests.content import assert_ramp, write_ramp
from tests.servers.nginx import Nginx

MIB = 1 << 20
READS = 60
LENGTH = 64 * 1024


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the object that is read from end to end")
    arguments = parser.parse_args()
    size = arguments.size * MIB
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        write_ramp(Path(folder, "object"), size)
        with Nginx(Path(folder)) as nginx:
            url = nginx.url("object", "wan")
            works = _Object(url, size, Path(folder, "copy")).works()
            for _ in range(arguments.rounds):
                for name, work in works.items():
                    for key, value in work().items():
                        figures.setdefault(f"{name}{key}", []).append(value)
                    close_default()
    _print(figures)


@dataclass(frozen=True)
class _Object:
    """What is read: an object of *size* bytes, whose content is `ramp`; *copy* is where copies go."""

    url: str
    size: int
    copy: Path

    def works(self) -> dict[str, Callable[[], dict[str, float]]]:
        """Return what is measured, by name."""
        return {
            "open + first byte, requests": self.first_byte_by_requests,
            "open + first byte, getm": self.first_byte,
            f"{READS} random reads of 64 KiB, requests": self.random_reads_by_requests,
            f"{READS} random reads of 64 KiB, getm": self.random_reads,
            "one connection, requests": self.one_connection,
            "read, concurrency 1": lambda: self.read(1),
            "read, concurrency 8": lambda: self.read(8),
            "read, concurrency 16": lambda: self.read(16),
            "iter_content, concurrency 8": self.stream,
            "copy, concurrency 8": self.copy_it,
        }

    def first_byte_by_requests(self) -> dict[str, float]:
        began = time.perf_counter()
        with requests.get(self.url, headers={"Range": f"bytes=0-{MIB - 1}"}, stream=True, timeout=30) as answer:
            answer.raw.read(1)
            return {", ms": (time.perf_counter() - began) * 1e3}

    def first_byte(self) -> dict[str, float]:
        began = time.perf_counter()
        with getm.open(self.url) as file:
            file.read(1)
            return {", ms": (time.perf_counter() - began) * 1e3}

    def random_reads_by_requests(self) -> dict[str, float]:
        with requests.Session() as session:
            return self._random_reads(
                lambda start: (
                    session.get(self.url, headers={"Range": f"bytes={start}-{start + LENGTH - 1}"}, timeout=30).content
                )
            )

    def random_reads(self) -> dict[str, float]:
        with getm.open(self.url) as file:
            return self._random_reads(lambda start: file.read_at(start, LENGTH))

    def one_connection(self) -> dict[str, float]:
        buffer, total = bytearray(MIB), 0
        began = time.perf_counter()
        with requests.get(self.url, headers={"Range": f"bytes=0-{128 * MIB - 1}"}, stream=True, timeout=30) as answer:
            while count := answer.raw._fp.readinto(buffer):  # noqa: SLF001  # the quickest way that requests has
                total += count
        return _rate(total, began)

    def read(self, concurrency: int) -> dict[str, float]:
        buffer, total = bytearray(MIB), 0
        began = time.perf_counter()
        with getm.open(self.url, concurrency=concurrency) as file:
            while count := file.readinto(buffer):
                total += count
        return _rate(total, began)

    def stream(self) -> dict[str, float]:
        began = time.perf_counter()
        return _rate(sum(len(part) for part in getm.iter_content(self.url, concurrency=8)), began)

    def copy_it(self) -> dict[str, float]:
        began = time.perf_counter()
        return _rate(getm.copy(self.url, self.copy, concurrency=8).size, began)

    def _random_reads(self, fetch: Callable[[int], bytes]) -> dict[str, float]:
        times = []
        for _ in range(READS):
            start = random.randrange(self.size - LENGTH)
            began = time.perf_counter()
            data = fetch(start)
            times.append((time.perf_counter() - began) * 1e3)
            assert_ramp(data, start)
        return {", p50 ms": statistics.median(times), ", p95 ms": statistics.quantiles(times, n=20)[-1]}


def _rate(total: int, began: float) -> dict[str, float]:
    return {", MB/s": total / (time.perf_counter() - began) / 1e6}


def _print(figures: dict[str, list[float]]) -> None:
    one = statistics.median(figures["one connection, requests, MB/s"])
    for name, values in figures.items():
        median = statistics.median(values)
        ratio = f"{median / one:7.2f} connections" if name.endswith("MB/s") else ""
        print(f"{name:48s} {median:8.1f} [{min(values):.1f} - {max(values):.1f}] {ratio}")


if __name__ == "__main__":
    sys.exit(main())
