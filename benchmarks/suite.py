"""Measure getm beside its peers, and beside what the machine can do at most.

    benchmarks/run [--quick] [--workload NAME] [--profile NAME] [--peer NAME] [--rounds N] [--output FOLDER]

Objects lie in memory, behind nginx on this machine: raw and https give what they can, wan waits 30 ms before each answer and
gives 50 MiB/s to each connection, and uneven is wan with 2 MiB/s for every eighth connection. Every run is a process of
its own; peers take turns within a round, in another order each time. What was read is checked. A peer that is missing or
fails is reported and left out.
"""

import argparse
import contextlib
import datetime as dt
import importlib.metadata
import itertools
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import cases, commands, measuring, plots, table
from benchmarks.bench import DESTINATIONS, Bench
from benchmarks.case import Case, among, essential, quick
from benchmarks.results import Results

HERE = Path(__file__).parent
MIB = 1 << 20
MARGIN = 512 * MIB  # room that is left alone in a file system
PACKAGES = (
    *("aiohttp", "boto3", "cloud-files", "fsspec", "getm", "h5py", "megfile", "obstore", "pyarrow"),
    *("remfile", "requests", "s3fs", "smart_open", "urllib3"),
)


def main() -> None:
    """Run the rounds, and write what came of them."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # servers and files go, too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    if arguments.draw:
        _write(Results.load(Path(arguments.draw)), output)
        return
    chosen = _chosen(arguments)
    _check_room(chosen)
    results = Results(_machine(), _versions())
    measuring.adopt()
    try:
        with Bench() as bench:
            for case in chosen:
                _measure(bench, case, arguments.rounds, results)
                results.save(output / "results.json")
                print(table.section(case, results), flush=True)
    finally:
        if results.runs:
            _write(results, output)
            print(f"See {output}/README.md")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__.splitlines()[0])
    groups = list(dict.fromkeys(case.group for case in cases.CASES))
    profiles = list(dict.fromkeys(case.profile for case in cases.CASES))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smaller objects, one round, and those peers that targets name, if none are given",
    )
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 if --quick")
    parser.add_argument("--workload", action="append", choices=groups, help="may be given again; default: all")
    parser.add_argument("--profile", action="append", choices=profiles, help="likewise")
    parser.add_argument("--peer", action="append", help="likewise; 'getm' stands for all whose first word is getm")
    parser.add_argument("--output", default=HERE / ".cache/results", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--draw", metavar="FILE", help="measure nothing, draw tables and plots of these results.json")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    if not arguments.draw and not _chosen(arguments):
        parser.error("there is no case like that")
    return arguments


def _chosen(arguments: argparse.Namespace) -> list[Case]:
    """Return the cases that are wanted, with the peers that are."""
    found = [quick(case) for case in cases.CASES] if arguments.quick else list(cases.CASES)
    if arguments.peer:
        found = [among(case, arguments.peer) for case in found]
    elif arguments.quick:
        found = [essential(case) for case in found]
    wanted = {
        case.name: case
        for case in found
        if (not arguments.workload or case.group in arguments.workload)
        and (not arguments.profile or case.profile in arguments.profile)
    }
    return [case for case in wanted.values() if case.peers]


def _check_room(chosen: list[Case]) -> None:
    """End if the objects of any two cases, and a copy, have no room."""
    most = max(case.at(point).total for case in chosen for point in case.points)
    for place in DESTINATIONS.values():
        if (free := shutil.disk_usage(place).free) < 2 * most + MARGIN:
            sys.exit(f"{place} has {free // MIB} MiB free, {(2 * most + MARGIN) // MIB} are wanted: try --quick")


def _measure(bench: Bench, case: Case, rounds: int, results: Results) -> None:
    """Run each of the peers in each round; one whose first run fails, only once."""
    bench.keep({case.at(point) for point in case.points})
    failed = set()
    works = list(itertools.product(case.peers, case.points))
    for number in range(1, rounds + 1) if not case.looks else range(rounds + 1):
        for peer, point in random.sample(works, len(works)):
            if (peer, point) in failed or (number == 0 and peer.startswith("limit")):
                continue
            run = bench.run(case, peer, point, number)
            results.runs.append(run)
            said = run.failure or " ".join(f"{name} {value:.4g}" for name, value in run.figures.items())
            print(f"# {case.name}, {peer} {point or ''}, round {number}: {said}", file=sys.stderr, flush=True)
            if run.failure:
                failed.add((peer, point))


def _machine() -> dict[str, str]:
    processor = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return {
        "date": dt.datetime.now(tz=dt.UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores ({processor}), {memory} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
    }


def _versions() -> dict[str, str]:
    """Return the version of each package, and what each command says of itself."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    for found in HERE.glob(".venv-original/lib/*/site-packages/getm-*.dist-info"):
        versions["original"] = found.name.removesuffix(".dist-info").replace("-", " ")
    for name, command in commands.VERSIONS.items():
        with contextlib.suppress(FileNotFoundError):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            versions[name] = next((word for word in said.split() if "." in word and any(map(str.isdigit, word))), "")
    return versions


def _write(results: Results, output: Path) -> None:
    """Write results, tables and plots."""
    results.save(output / "results.json")
    (output / "README.md").write_text(table.page(results, plots.draw(results, output)))


if __name__ == "__main__":
    main()
