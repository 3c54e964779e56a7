"""What a range server answers, rightly or, with a fault, wrongly: values and one pure function."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import HTTPMessage, responses
from threading import Event
from typing import Literal

from tests.content import ramp

FIRST_MODIFIED = 1_700_000_000  # the Last-Modified of every object's first version; each next one is a minute later


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer. Without arguments, nothing is; what is given combines.

    Attributes:
        delay: wait before the answer, seconds, or until the event is set.
        drop: close the connection instead of answering, as a server does with one that was idle for too long.
        status: instead of the right one. An answer of 300 and above is no longer the object's.
        headers: set on the answer, or taken from it where None.
        body: instead of the object's bytes.
        whole: ignore ``Range``.
        shorten: serve at most so many bytes of the range, and say so.
        shift: serve the range that begins so many bytes later, and say so.
        total: what ``Content-Range`` calls the object's size; may be ``*``.
        framing: how the body's end is known: by its length, in chunks, or by the end of the connection.
        pace: bytes per second.
        stall: after so many bytes of the body wait for *release*, for ever if that is None.
        release: the event that ends the stall.
        cut: after so many bytes of the body close the connection.
        reset: after so many bytes of the body reset the connection, once the client's machine has them.
        hang_up: close the connection after the answer, without having announced it.
    """

    delay: float | Event = 0.0
    drop: bool = False
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    whole: bool = False
    shorten: int | None = None
    shift: int = 0
    total: int | str | None = None
    framing: Literal["length", "chunks", "connection"] = "length"
    pace: float | None = None
    stall: int | None = None
    release: Event | None = None
    cut: int | None = None
    reset: int | None = None
    hang_up: bool = False


@dataclass(frozen=True)
class Request:
    """One request as the server saw it, and what became of it.

    Attributes:
        index: its place in the order of arrival over all connections, from 0.
        connection: serial number of the connection it came by, from 0.
        headers: looked up in any case; None for one that was not sent.
        start: first offset asked for; None without a (single, well-formed) ``Range``.
        stop: offset after the last one asked for, perhaps beyond the object's size.
        arrived: ``time.monotonic()`` when its head was there.
        status: of the answer, once its head was sent.
        sent: bytes of the body handed to the kernel so far.
        finished: ``time.monotonic()`` when the answer ended, however it did, and not later than the client can know of
            it; None until then.
        gone: the client left before the answer was complete.
    """

    index: int
    connection: int
    method: str
    path: str
    query: str
    headers: HTTPMessage = field(repr=False)
    start: int | None
    stop: int | None
    arrived: float
    status: int | None = None
    sent: int = 0
    finished: float | None = None
    gone: bool = False

    def covers(self, offset: int) -> bool:
        """Tell whether the byte at *offset* was asked for."""
        return self.start is None or self.start <= offset < self.stop


@dataclass(frozen=True)
class Object:
    """One version of what is served at a path."""

    content: int | bytes
    version: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.content if isinstance(self.content, int) else len(self.content)

    def read(self, start: int, stop: int) -> bytes:
        return ramp(start, stop, self.version) if isinstance(self.content, int) else self.content[start:stop]


@dataclass(frozen=True)
class Answer:
    """What goes on the wire: a head, `length` bytes of an object from `start` on, a tail."""

    status: int
    headers: Mapping[str, str]
    source: Object
    start: int
    length: int

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def is_chunked(self) -> bool:
        return "Transfer-Encoding" in self.headers

    @property
    def tail(self) -> bytes:
        return b"0\r\n\r\n" if self.is_chunked else b""

    @property
    def keeps_connection(self) -> bool:
        return "Connection" not in self.headers

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of the body in ``[start, stop)``."""
        return self.source.read(self.start + start, self.start + stop)

    def framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.is_chunked else piece


def decide(served: Object | None, request: Request, fault: Fault) -> Answer:
    """Decide what to answer; pure."""
    status = fault.status
    headers: dict[str, str | None] = {}
    start, stop = 0, 0
    if request.method not in {"GET", "HEAD"}:
        status, source = 405, Object(b"")
    elif fault.body is not None or served is None or (status or 200) >= 300:
        source = Object(fault.body or b"")
        status = status or (200 if served else 404)
        stop = source.size
    else:
        source = served
        right, start, stop, content_range = _select(served.size, request, fault)
        status = status or right
        headers |= {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": f'"version-{served.version}"',
            "Last-Modified": formatdate(FIRST_MODIFIED + 60 * served.version, usegmt=True),
            "Content-Range": content_range,
        }
        headers |= served.headers
    headers |= {
        "length": {"Content-Length": str(stop - start)},
        "chunks": {"Transfer-Encoding": "chunked"},
        "connection": {"Connection": "close"},
    }[fault.framing]
    if request.headers["Connection"] == "close":
        headers["Connection"] = "close"
    headers |= fault.headers
    length = 0 if request.method == "HEAD" else stop - start
    return Answer(status, {name: text for name, text in headers.items() if text is not None}, source, start, length)


def asked(text: str | None, size: int) -> tuple[int | None, int | None]:
    """Return the range that a Range header asks of an object; None and None if that is not one of bytes."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text or "-")
    if not match or match[0] == "bytes=-":
        return None, None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), int(last) + 1 if last else max(size, int(first))


def _select(size: int, request: Request, fault: Fault) -> tuple[int, int, int, str | None]:
    """Return the status, the range to serve, and its Content-Range (RFC 9110, section 14)."""
    if request.start is None or fault.whole or request.method == "HEAD":
        return 200, 0, size, None
    start = request.start + fault.shift
    stop = min(request.stop + fault.shift, size)
    if start >= stop:
        return 416, 0, 0, f"bytes */{size}"
    if fault.shorten is not None:
        stop = min(stop, start + fault.shorten)
    return 206, start, stop, f"bytes {start}-{stop - 1}/{size if fault.total is None else fault.total}"
