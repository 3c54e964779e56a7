"""Serve one generated object over HTTP, as a distant object store would: late, and each connection at its own pace.

The object is stored nowhere: its content is a function of the offset. Prints its URL; ends with its standard input.
"""

import argparse
import contextlib
import hashlib
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A prime number of bytes, repeated: no two aligned blocks of an object of any ordinary size are equal.
PERIOD = 1_048_573
PATTERN = memoryview(random.Random(PERIOD).randbytes(PERIOD))
PIECE = 256 * 1024


def content(start: int, stop: int) -> Iterator[memoryview]:
    """Yield the bytes of `[start, stop)`, in parts of at most `PIECE` bytes."""
    while start < stop:
        first = start % PERIOD
        part = PATTERN[first : first + min(PIECE, stop - start)]
        yield part
        start += len(part)


def digest(*ranges: tuple[int, int]) -> str:
    """Return the SHA-256 of the bytes of *ranges*, one after the other, in hexadecimal."""
    known = hashlib.sha256()
    for start, stop in ranges:
        for part in content(start, stop):
            known.update(part)
    return known.hexdigest()


class Server(ThreadingHTTPServer):
    """A server of one object.

    Args:
        size: of the object.
        delay: seconds before each answer.
        rate: bytes per second of each connection; 0 for as fast as it goes.
    """

    def __init__(self, size: int, delay: float, rate: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.size, self.delay, self.rate = size, delay, rate


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def handle(self) -> None:
        """Answer until one side has enough."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer with the range that is asked for, or the whole object."""
        size = self.server.size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = (int(asked[1]), min(int(asked[2] or size) + 1, size)) if asked else (0, size)
        time.sleep(self.server.delay)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{size}"')
        self.end_headers()
        begun, sent = time.monotonic(), 0
        for part in content(start, stop):
            self.wfile.write(part)
            sent += len(part)
            if self.server.rate:
                time.sleep(max(0.0, begun + sent / self.server.rate - time.monotonic()))

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until standard input ends, which it does with whoever started this."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, required=True, help="bytes")
    options.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    options.add_argument("--rate", type=float, default=0.0, help="bytes per second of each connection")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Server(**vars(options.parse_args())) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{server.server_port}/object.bin", flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
