"""The command lines of those that copy: one object, or many small ones.

rclone, s5cmd and getm are those of the environment that runs this. Nothing is synced to disk within the time of a run, by
none of them.
"""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import BUCKET, Job


@dataclass(frozen=True)
class Errand:
    """What a command line is made of. It runs in an empty folder, and is to leave there the files asked for and no others.

    Attributes:
        job: what is copied.
        lists: folder of the lists of many objects, one for each kind of command.
        sums: the first object's digests in hexadecimal, by algorithm.
    """

    job: Job
    lists: Path
    sums: dict[str, str]

    @property
    def url(self) -> str:
        """Where the first object is."""
        return self.job.url

    @property
    def key(self) -> str:
        """Its name, which is to be that of its copy."""
        return self.job.key

    def trust(self, option: str) -> list[str]:
        """Return *option* with the certificate to trust, where there is TLS."""
        return [] if self.job.authority is None else [option, self.job.authority]

    def insecure(self, option: str) -> list[str]:
        """Return *option* where there is TLS, for who takes no certificate of an IP address."""
        return [] if self.job.authority is None else [option]

    def list(self, name: str) -> str:
        """Return the path of a list of the objects."""
        return str(self.lists / name)

    def sum(self, algorithm: str) -> str:
        """Return a digest of the first object as getm takes it."""
        return f"{algorithm}:{self.sums[algorithm]}"


GETM = [sys.executable, "-m", "getm", "--quiet"]
ARIA2C = ["aria2c", "--no-conf", "--console-log-level=error", "--show-console-readout=false", "--download-result=hide"]
S5CMD = ["s5cmd", "--no-sign-request", "--log=error", "--endpoint-url"]

COMMANDS: dict[str, dict[str, Callable[[Errand], list[str]]]] = {
    "copy": {
        "getm -x1": lambda errand: [*GETM, "-x1", errand.url, errand.key],
        "getm -x8": lambda errand: [*GETM, "-x8", errand.url, errand.key],
        "getm -x16": lambda errand: [*GETM, "-x16", errand.url, errand.key],
        "getm -x8 crc32c": lambda errand: [*GETM, "-x8", "--checksum", errand.sum("crc32c"), errand.url, errand.key],
        "getm -x16 crc32c": lambda errand: [*GETM, "-x16", "--checksum", errand.sum("crc32c"), errand.url, errand.key],
        "getm -x16 md5": lambda errand: [*GETM, "-x16", "--checksum", errand.sum("md5"), errand.url, errand.key],
        "aria2c": lambda errand: [
            *(*ARIA2C, *errand.trust("--ca-certificate"), "-x16", "-s16", "-k1M", "-o", errand.key, errand.url),
        ],
        "aria2c none": lambda errand: [
            *(*ARIA2C, *errand.trust("--ca-certificate"), "--file-allocation=none", "-x16", "-s16", "-k1M"),
            *("-o", errand.key, errand.url),
        ],
        "axel": lambda errand: ["axel", "-q", "-n16", *errand.insecure("-k"), "-o", errand.key, errand.url],
        "curl": lambda errand: ["curl", "-sSf", *errand.trust("--cacert"), "-o", errand.key, errand.url],
        "wget": lambda errand: ["wget", "-nv", *errand.trust("--ca-certificate"), "-O", errand.key, errand.url],
        "rclone copyurl": lambda errand: [
            *("rclone", "copyurl", *errand.trust("--ca-cert"), "--multi-thread-streams=16", errand.url, errand.key),
        ],
        "rclone copyto": lambda errand: [
            *("rclone", "copyto", *errand.trust("--ca-cert"), "--multi-thread-streams=16"),
            *(f':http,url="{errand.job.bucket}/":{errand.key}', errand.key),
        ],
        "s5cmd": lambda errand: [
            *(*S5CMD, errand.job.endpoint, "cp", "--concurrency=16", f"s3://{BUCKET}/{errand.key}", errand.key),
        ],
    },
    "copies": {
        "getm": lambda errand: [*GETM, "--manifest", errand.list("getm"), "--jobs=16"],
        "getm crc32c": lambda errand: [*GETM, "--manifest", errand.list("getm-crc32c"), "--jobs=16"],
        "getm md5": lambda errand: [*GETM, "--manifest", errand.list("getm-md5"), "--jobs=16"],
        "aria2c": lambda errand: [*ARIA2C, "-j16", "-x16", "-i", errand.list("aria2c")],
        "aria2c none": lambda errand: [*ARIA2C, "--file-allocation=none", "-j16", "-x16", "-i", errand.list("aria2c")],
        "curl": lambda errand: ["curl", "-sSf", "--parallel", "--parallel-max", "16", "-K", errand.list("curl")],
        "wget": lambda errand: ["wget", "-nv", "-i", errand.list("urls")],  # one after another: it knows no other way
        "rclone copyurl": lambda errand: [
            *("rclone", "copyurl", "--urls", "--transfers=16", errand.list("rclone-urls"), "."),
        ],
        "rclone copy": lambda errand: [
            *("rclone", "copy", "--transfers=16", "--checkers=16", "--no-traverse"),
            *("--files-from-raw", errand.list("names"), f':http,url="{errand.job.bucket}/":', "."),
        ],
        "s5cmd": lambda errand: [*S5CMD, errand.job.endpoint, "--numworkers=16", "run", errand.list("s5cmd")],
    },
    "many": {
        "getm --manifest": lambda errand: [*GETM, "--manifest", errand.list("getm"), "--jobs=16"],
    },
}
VERSIONS = {
    **{name: [name, "--version"] for name in ("aria2c", "axel", "curl", "wget", "rclone")},
    "s5cmd": ["s5cmd", "version"],
}


def write_lists(folder: Path, job: Job, sums: dict[str, dict[str, str]]) -> None:
    """Write what commands read of many objects, which go to files of the same names.

    Args:
        folder: where to.
        job: which objects.
        sums: digests in hexadecimal by algorithm, by name of the object.
    """
    urls = {key: job.locate(key) for key in job.keys}
    (folder / "names").write_text("".join(f"{key}\n" for key in urls))
    (folder / "urls").write_text("".join(f"{url}\n" for url in urls.values()))
    (folder / "aria2c").write_text("".join(f"{url}\n out={key}\n" for key, url in urls.items()))
    (folder / "curl").write_text("".join(f'url="{url}"\noutput="{key}"\n' for key, url in urls.items()))
    (folder / "s5cmd").write_text("".join(f"cp s3://{BUCKET}/{key} {key}\n" for key in urls))
    with (folder / "rclone-urls").open("w", newline="") as file:
        csv.writer(file).writerows((url, key) for key, url in urls.items())
    entries = [{"url": url, "filepath": key} for key, url in urls.items()]
    (folder / "getm").write_text(json.dumps(entries))
    for algorithm in sums[job.key]:
        checked = [entry | {"checksum": f"{algorithm}:{sums[entry['filepath']][algorithm]}"} for entry in entries]
        (folder / f"getm-{algorithm}").write_text(json.dumps(checked))
