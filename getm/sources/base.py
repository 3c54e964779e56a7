"""What the engine needs of a source: requests that any process can send, and bodies that can be read into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from getm import uri
from getm.config import Url
from getm.retry import Failure

UNTOLD = 1 << 62
"""Where the body of an answer stops that does not tell its length."""


@dataclass(frozen=True)
class Version:
    """Which bytes an object has: two answers belong together only if these agree.

    Attributes:
        size: bytes in the object; -1 while nobody has told.
        etag: the server's ETag as sent, or None.
        last_modified: the server's Last-Modified as sent, or None.
    """

    size: int
    etag: str | None = None
    last_modified: str | None = None

    @property
    def is_strong(self) -> bool:
        """Whether there is an ETag that promises equal bytes (RFC 9110, 8.8.1)."""
        return self.etag is not None and bool(self.etag.strip()) and not self.etag.startswith("W/")

    @property
    def validator(self) -> str | None:
        """The strong ETag, else Last-Modified; None if the size is the only witness."""
        return self.etag if self.is_strong else self.last_modified

    def difference(self, other: Version) -> str | None:
        """Return what tells another version from this one, in words, or None if nothing does."""
        for name, mine, others in (
            ("size", self.size, other.size),
            ("ETag", self.etag, other.etag),
            ("Last-Modified", self.last_modified, other.last_modified),
        ):
            if mine != others and mine is not None and others is not None:
                return uri.printable(f"{name} was {mine}, is {others}")
            if name == "ETag" and mine is not None and mine == others and self.is_strong:
                return None
        return None


@dataclass(frozen=True)
class Request:
    """One range request, ready to be sent by any process.

    Attributes:
        url: where to; may hold secrets.
        headers: all of them, `Range` included.
        start: first byte asked for.
        stop: the byte after the last.
        version: what the answer must belong to; None for the first request of an object.
        connect: seconds to wait for a connection.
        stall: seconds to wait for the next byte.
        verify: whether to check TLS certificates, or the path of a CA bundle.
        cert: client certificate, or (certificate, key).
        proxies: proxy URL by scheme.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    start: int
    stop: int
    version: Version | None
    connect: float
    stall: float
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Answer:
    """The head of an answer that can be used.

    Attributes:
        url: where the bytes came from in the end.
        start: first byte that will come.
        stop: the byte after the last; at most what was asked for.
        version: which version of the object they belong to.
        headers: the answer's headers, names in lower case.
        is_whole: whether the server ignored the range and sends the whole object, perhaps without telling its size.
        skipped: bytes that come before *start* and are thrown away.
        is_saved: whether the bytes of its body are in the caller's file, at their place, when they are read.
    """

    url: str = field(repr=False)
    start: int
    stop: int
    version: Version
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_whole: bool = False
    skipped: int = 0
    is_saved: bool = False


class Body(Protocol):
    """The bytes of one answer, in order."""

    @property
    def answer(self) -> Answer:
        """The head."""

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one and at most `len(buffer)` bytes, as they come; raise `RequestFailed` if too few do for too long.

        Returns 0 only at the end of a body whose length nobody told, up to `UNTOLD`.
        """

    def close(self) -> None:
        """Give the connection back if the body was read to its end, otherwise drop it."""

    def abort(self) -> None:
        """Make a `readinto` under way in another thread return or fail at once."""


class Transport(Protocol):
    """Sends requests; a process keeps one, so that connections are reused."""

    def send(self, request: Request) -> Body:
        """Send one request and check its answer; raise `RequestFailed` if it cannot be used."""

    def close(self) -> None:
        """Close the connections."""


class Source(Protocol):
    """One object behind one URL, as the calling process knows it."""

    origin: Url
    """What the caller gave to find the object by."""
    name: str
    """The URL for texts, without secrets."""
    identity: str
    """The URL without what signs it; may hold secrets."""
    headers: Mapping[str, str]
    """Of the first answer, names in lower case; empty before."""
    is_local: bool
    """Whether only this process can send its requests."""
    generation: int
    """How often where to ask was found out so far."""
    due: float
    """When to find it out anew, in seconds since the epoch, because the URL expires; infinite if it does not say."""

    @property
    def is_closed(self) -> bool:
        """Whether it was closed: its first request is not tried again."""

    @property
    def is_renewable(self) -> bool:
        """Whether there is somewhere else to ask after a refusal."""

    def expect(self, version: Version) -> None:
        """Take no other version of the object from the first answer on."""

    def open(self, start: int, stop: int, *, spools: bool = True) -> Body:
        """Send a first request, for `[start, stop)`; learn from its answer where and what the object is.

        What a server sends that ignores ranges *spools*: it is read to its end in the end, once, and kept.
        """

    def renew(self, failure: Failure) -> bool:
        """Have the next `open` ask elsewhere after *failure*; say whether there is anything that was not tried yet."""

    def close(self) -> None:
        """Give up what is kept for it, and a first request under way in another thread."""

    def explain(self, failure: Failure) -> Failure:
        """Return a failure with what the source knows of its cause."""

    def request(self, start: int, stop: int) -> Request:
        """Return a request for a range, with the URL, the headers and the credentials of this moment."""

    def send(self, request: Request) -> Body:
        """Send a request from this process."""

    def key(self) -> object | None:
        """Return what readers must have in common to share blocks; None if they must not."""
