"""Where the cases are run: a server, a folder of objects in memory, and one process after another."""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from awscrt.checksums import crc32c

from benchmarks import commands, measuring
from benchmarks.case import MIB, Case
from benchmarks.data import Content
from benchmarks.jobs import BUCKET, Job
from benchmarks.results import Run
from benchmarks.servers import SecureNginx
from tests.servers.nginx import Request

HERE = Path(__file__).parent
ORIGINAL = HERE / ".venv-original/bin/python"
DESTINATIONS = {"tmpfs": "/dev/shm", "disk": "/var/tmp"}
RING = 16 * MIB  # bytes of memory that the program that is the limit receives into, over and over
RANGES = {"raw": 8 * MIB, "https": 8 * MIB, "wan": 32 * MIB}  # bytes of its requests; over a distance longer ones cost less
IMPORT = """
import time
began = time.perf_counter()
import {module}
print('{{"seconds": %f, "cpu_before": 0}}' % (time.perf_counter() - began))
"""
UNCHECKED = {"import", "idle", "threads", "hits"}  # workloads that return nothing to check, or check it themselves


class Bench:
    """Run until closed; a context manager."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="getm-bench-", dir="/dev/shm")))
            self._bucket = self._folder / "root" / BUCKET
            self._bucket.mkdir(parents=True)
            for name in ("certificates", "home", "lists", "path"):
                (self._folder / name).mkdir()
            (self._folder / "path" / "benchmarks").symlink_to(HERE)  # without getm, which comes from the environment
            self._nginx = stack.enter_context(SecureNginx(self._folder / "root", self._folder / "certificates"))
            self._limit = self._compile()
            self._checks: dict[tuple[str, Content, int], int | None] = {}
            self._sums: dict[str, dict[str, str]] = {}
            self._contents: set[Content] = set()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    def keep(self, contents: set[Content]) -> None:
        """Have these objects, and no others."""
        for content in self._contents - contents:
            content.remove(self._bucket)
        for content in contents - self._contents:
            content.make(self._bucket)
        self._contents = contents

    def run(self, case: Case, peer: str, point: int, number: int) -> Run:
        """Run a peer once, and check what it has read or written.

        Args:
            case: what is done.
            peer: who does it.
            point: where on the axis.
            number: of the round; 0 to look at the memory, in place of the clock.
        """
        load = os.getloadavg()[0]
        job = self._job(case, peer, point)
        if peer in commands.COMMANDS.get(case.workload, {}):
            figures, latencies, failure = self._copy(case, job)
        else:
            figures, latencies, failure = self._read(case, job, looks=number == 0)
        return Run(case.name, peer, point, number, figures, latencies, load, failure)

    def _job(self, case: Case, peer: str, point: int) -> Job:
        content = case.at(point)
        authority = self._nginx.authority if case.profile == "https" else None
        bucket = self._nginx.url(BUCKET, case.profile)
        peer = f"{peer} {point}" if case.axis == "connections" else peer
        return Job(case.workload, peer, bucket, content.keys, content.size, point, case.compute, authority)

    def _read(self, case: Case, job: Job, *, looks: bool) -> tuple[dict[str, float], tuple[float, ...], str | None]:
        """Run a peer that reads; return figures, latencies and what was wrong."""
        size = (self._bucket / job.key).stat().st_size
        job = dataclasses.replace(job, size=size)
        command = self._limit_command(case, job) if job.name == "limit" else _client(job)
        is_format = case.group == "formats"
        before = len(self._answers(job)) if is_format else 0
        measured = measuring.run(command, str(self._folder / "path"), self._environment(job), looks=looks)
        if measured.failure is not None:
            return {}, (), measured.failure
        outcome = json.loads(measured.output.splitlines()[-1])
        if job.name != "limit" and case.workload not in UNCHECKED:
            expected = self._expected(case, job)
            if outcome["check"] != expected:
                return {}, (), f"what it read is not what is served: {outcome['check']} is not {expected}"
        if looks:
            return {"memory": measured.proportional}, (), None
        cpu = {"cpu": measured.cpu - outcome["cpu_before"], "cpu of all": measured.cpu}
        figures = {"seconds": outcome["seconds"], "size": outcome.get("size", size), **cpu, **outcome.get("figures", {})}
        if is_format:
            answers = self._answers(job)[before:]
            figures |= {"requests": len(answers), "sent": sum(answer.sent for answer in answers)}
        return figures, tuple(outcome.get("latencies", ())), None

    def _answers(self, job: Job) -> list[Request]:
        """Return what the server has answered for the first object, and sent in full or until the client left."""
        return self._nginx.requests(f"{BUCKET}/{job.key}")

    def _expected(self, case: Case, job: Job) -> int:
        """Return the check of who reads the file that is served, by the same work."""
        key = (case.workload, case.at(job.point), job.point)
        if key not in self._checks:
            local = dataclasses.replace(job, peer="local", bucket=str(self._bucket), compute=0.0)
            said = subprocess.run(
                _client(local),
                cwd=self._folder / "path",
                env=self._environment(job),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            self._checks[key] = json.loads(said)["check"]
        return self._checks[key]

    def _limit_command(self, case: Case, job: Job) -> list[str]:
        connections, *words = job.option.split()
        ring = 0 if "fresh" in words else RING
        length = min(RANGES[case.profile], -(-job.size // int(connections)))
        authority = [job.authority] if job.authority else []
        return [str(self._limit), job.url, str(job.size), connections, str(ring), str(length), *authority]

    def _copy(self, case: Case, job: Job) -> tuple[dict[str, float], tuple[float, ...], str | None]:
        """Run a command that copies, in a folder of its own that is removed again; return as `_read` does."""
        if case.workload == "many":  # the first object is for those that warm up
            job = dataclasses.replace(job, keys=job.keys[1:])
        for key in job.keys:
            if key not in self._sums:
                self._sums[key] = _digests(self._bucket / key)
        commands.write_lists(self._folder / "lists", job, self._sums)
        errand = commands.Errand(job, self._folder / "lists", self._sums[job.key])
        place = DESTINATIONS[case.destination or "tmpfs"]
        with tempfile.TemporaryDirectory(prefix="getm-copies-", dir=place) as folder:
            if case.destination == "disk":
                os.sync()  # what others have written is not to be paid for by this one
            try:
                command = commands.COMMANDS[case.workload][job.peer](errand)
                measured = measuring.run(command, folder, self._environment(job))
            except FileNotFoundError as error:
                return {}, (), f"{error.filename} is not installed"
            failure = measured.failure or self._wrong(job, Path(folder))
        size = sum((self._bucket / key).stat().st_size for key in job.keys)
        figures = {"seconds": measured.seconds, "size": size, "cpu": measured.cpu, "cpu of all": measured.cpu}
        return figures, (), failure

    def _wrong(self, job: Job, folder: Path) -> str | None:
        """Return what is wrong with the files of a folder, if anything is."""
        found = {entry.name for entry in os.scandir(folder)}
        if found != set(job.keys):
            missing, surplus = sorted(set(job.keys) - found), sorted(found - set(job.keys))
            return f"{len(missing)} files are missing {missing[:3]}, {len(surplus)} were not asked for {surplus[:3]}"
        wrong = [key for key in job.keys if f"{_crc32c(folder / key):08x}" != self._sums[key]["crc32c"]]
        return f"{len(wrong)} files are not what is served: {wrong[:3]}" if wrong else None

    def _environment(self, job: Job) -> dict[str, str]:
        """Return the environment of a process: nothing of this one's but where programs are."""
        home = str(self._folder / "home")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        names = ("REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_FILE") if job.authority else ()
        keys = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        keys["AWS_EC2_METADATA_DISABLED"] = "true"
        return {"PATH": path, "HOME": home, "LANG": "C.UTF-8", **keys, **dict.fromkeys(names, str(job.authority))}

    def _compile(self) -> Path:
        """Make the program that is the limit."""
        program = self._folder / "limit"
        command = ["gcc", "-O2", "-o", program, HERE / "limit.c", "-lssl", "-lcrypto", "-lpthread"]
        subprocess.run(command, check=True)
        return program


def _client(job: Job) -> list[str]:
    if job.workload == "import":  # in an interpreter that has imported nothing else
        return [sys.executable, "-c", IMPORT.format(module=job.name)]
    python = str(ORIGINAL) if job.name == "original" else sys.executable
    return [python, "-m", "benchmarks.clients", job.dump()]


def _digests(path: Path) -> dict[str, str]:
    """Return digests in hexadecimal, by algorithm."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return {"crc32c": f"{_crc32c(path):08x}", "md5": md5}


def _crc32c(path: Path) -> int:
    crc = 0
    for piece in _pieces(path):
        crc = crc32c(piece, crc)
    return crc


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(8 * MIB):
            yield piece
