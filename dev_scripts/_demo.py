"""Open, seek, read, stream and copy an object with getm, and beside it with plain requests; every byte is checked."""

import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from _range_server import digest

import getm.api  # all of it, before any clock starts

MIB = 1 << 20
SIZE = 256 * MIB
DELAY = 0.03
RATE = 50 * MIB
LENGTH = 64 * 1024
PLACES = [random.Random(number).randrange(SIZE - LENGTH) for number in range(60)]


def main() -> None:
    """Do each part of the job both ways, and print how long it took."""
    whole = (0, SIZE)
    print(f"An object of {SIZE // MIB} MiB, from a server on this machine that behaves like a distant object store:")
    print(f"{DELAY * 1000:.0f} ms before each answer, {RATE // MIB} MiB/s for each connection.\n")
    print(f"{'':40}{'getm':>20}{'requests':>20}")
    with range_server() as url, tempfile.TemporaryDirectory(prefix="getm-demo-") as folder:
        path = Path(folder, "object.bin")
        for title, ranges, with_getm, with_requests in (
            ("open, read the first byte", [(0, 1)], first_byte, requests_first_byte),
            (
                f"seek, read {LENGTH // 1024} KiB: {len(PLACES)} times",
                [(at, at + LENGTH) for at in PLACES],
                jumps,
                requests_jumps,
            ),
            ("stream it through SHA-256", [whole], stream, requests_stream),
            ("copy it to a file", [whole], copy, requests_copy),
        ):
            known = digest(*ranges)
            length = sum(stop - start for start, stop in ranges)
            print(f"{title:40}", end="", flush=True)
            for work in (with_getm, with_requests):
                begun = time.perf_counter()
                found = work(url, path)
                seconds = time.perf_counter() - begun
                if (found or file_digest(path)) != known:
                    sys.exit(f"\n{work.__name__}: wrong bytes")
                print(f"{told(length, seconds):>20}", end="", flush=True)
            print()
    print("\nEvery byte was compared with the SHA-256 of the content: all as it should be.")


# With getm -----------------------------------------------------------------------------------------------------------


def first_byte(url: str, _path: Path) -> str:
    with getm.open(url) as file:
        return hashlib.sha256(file.read(1)).hexdigest()


def jumps(url: str, _path: Path) -> str:
    known = hashlib.sha256()
    with getm.open(url) as file:
        for place in PLACES:
            file.seek(place)
            known.update(file.read(LENGTH))
    return known.hexdigest()


def stream(url: str, _path: Path) -> str:
    known = hashlib.sha256()
    for part in getm.iter_content(url, concurrency=8):
        known.update(part)
    return known.hexdigest()


def copy(url: str, path: Path) -> None:
    getm.copy(url, path)


# With requests: what one would write by hand --------------------------------------------------------------------------


def requests_first_byte(url: str, _path: Path) -> str:
    first = requests.get(url, headers={"Range": "bytes=0-0"}, timeout=30)
    return hashlib.sha256(first.content).hexdigest()


def requests_jumps(url: str, _path: Path) -> str:
    known = hashlib.sha256()
    with requests.Session() as session:
        for place in PLACES:
            wanted = {"Range": f"bytes={place}-{place + LENGTH - 1}"}
            known.update(session.get(url, headers=wanted, timeout=30).content)
    return known.hexdigest()


def requests_stream(url: str, _path: Path) -> str:
    known = hashlib.sha256()
    with requests.get(url, stream=True, timeout=30) as response:
        for part in response.iter_content(MIB):
            known.update(part)
    return known.hexdigest()


def requests_copy(url: str, path: Path) -> None:
    with requests.get(url, stream=True, timeout=30) as response, path.open("wb") as file:
        for part in response.iter_content(MIB):
            file.write(part)


# The rest -------------------------------------------------------------------------------------------------------------


@contextmanager
def range_server() -> Iterator[str]:
    """Run the server of the object in a process of its own, and give its URL; it ends when its input is closed."""
    server = Path(__file__).with_name("_range_server.py")
    options = [f"--size={SIZE}", f"--delay={DELAY}", f"--rate={RATE}"]
    with subprocess.Popen(
        [sys.executable, server, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.stdout.readline().strip()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, and remove it."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    path.unlink()
    return found


def told(length: int, seconds: float) -> str:
    """Return a time, and the rate where it says something."""
    return f"{seconds:.2f} s" + (f", {length / MIB / seconds:.0f} MiB/s" if length > 64 * MIB else "")


if __name__ == "__main__":
    main()
