"""Digests: what the caller or the server promises about an object, and whether the bytes keep it.

A `Promise` comes from the caller's text (`parse`) or from the headers of an answer (`promised`); a `Check` hashes the
bytes on their way, in order, and compares. Never a false alarm: what cannot be told for sure is no promise, or not verified.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

from getm import ranges, uri
from getm.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CALLER = "the caller"
UNTOLD = "only who knows how long its parts were can tell: give s3-etag:HEX-N:LENGTH"
"""Why it cannot be told whether a promise is kept."""
LONGEST_HEADER = 8192
GUESSES = 4  # part sizes tried side by side for one ETag: each costs an MD5 of the whole object

_SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "crc32": 4, "crc32c": 4, "crc64nvme": 8, "s3-etag": 16}
ALGORITHMS = tuple(_SIZES)
_OTHER_NAMES = {"sha": "sha1", "gs-crc32c": "crc32c", "gs-md5": "md5"} | {f"sha-{n}": f"sha{n}" for n in (1, 256, 512)}
_BY_HEX_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}

# Those of one header, the best first.
_GOOGLE = ("crc32c", "md5")  # composite objects have no MD5
_AMAZON = {name: f"x-amz-checksum-{name}" for name in ("crc64nvme", "crc32c", "crc32", "sha1", "sha256")}
_DIGESTS = ("sha256", "sha512", "sha1", "md5", "crc64nvme", "crc32c", "crc32")

_FORM = re.ASCII | re.DOTALL | re.IGNORECASE
_HEX = re.compile("[0-9a-f]+", _FORM)
_NAMED = re.compile(r"([a-z][\w-]*)\s*[:=]\s*(.*)", _FORM)
_ETAG = re.compile(r'("?)([0-9a-f]{32})(?:-([1-9]\d{0,4}))?\1(?::([1-9]\d{0,14})(|KiB|MiB))?', _FORM)

_MIB = 1 << 20
_UNITS = {"": 1, "kib": 1 << 10, "mib": _MIB}
# 8 MiB is what boto3 and the AWS command line take, 5 MiB rclone, 15 MiB s3cmd, 16 MiB mc; others count in millions.
_PART_SIZES = tuple(n * _MIB for n in (5, 8, 16, 15, 10, 32, 50, 64, 100, 128, 256, 512)) + tuple(
    n * 1_000_000 for n in (5, 8, 10, 16, 50, 64, 100)
)


@dataclass(frozen=True)
class Promise:
    """What the digest of a whole object should be.

    Attributes:
        algorithm: one of `ALGORITHMS`.
        digest: its bytes; of a CRC, the most significant first.
        origin: who promised it: `CALLER`, or the name of a header.
        parts: only for s3-etag, how many parts were uploaded; 0 if it is a plain MD5.
        part_size: only for s3-etag, bytes in every part but the last; None if nobody said.
    """

    algorithm: str
    digest: bytes
    origin: str
    parts: int = 0
    part_size: int | None = None

    @property
    def text(self) -> str:
        """The digest in hexadecimal, followed by `-N` if it is the ETag of N parts."""
        return self.digest.hex() + (f"-{self.parts}" if self.parts else "")


class Hash(Protocol):
    """A running digest, shaped as those of hashlib are."""

    @property
    def name(self) -> str:
        """One of `ALGORITHMS`."""

    @property
    def digest_size(self) -> int:
        """Bytes in the digest."""

    def update(self, buffer: ReadableBuffer, /) -> None:
        """Take more bytes; the buffer must be contiguous."""

    def digest(self) -> bytes:
        """Return the digest of the bytes so far."""

    def hexdigest(self) -> str:
        """Return the same in hexadecimal."""


def parse(checksum: str, algorithm: str | None = None) -> Promise:
    """Return what the caller promises.

    Args:
        checksum: `ALGORITHM:DIGEST`, `ALGORITHM=DIGEST`, or the digest alone; in hexadecimal or base64. An ETag of several
            parts may be followed by their size, as in `s3-etag:HEX-3:8MiB`.
        algorithm: what the digest alone is of; None to tell by the length of a hexadecimal one.

    Raises:
        UsageError: it is nothing of these.
    """
    text = _stripped(checksum)
    if algorithm is None:
        algorithm, text = _named(text)
    name = _canonical(algorithm)
    if name is None:
        raise UsageError(f"{_shown(algorithm)} is no algorithm of a checksum: use one of {', '.join(ALGORITHMS)}")
    promise = _promise(name, text, CALLER)
    if promise is None:
        size = _SIZES[name]
        also = "and -N:SIZE for N parts of SIZE" if name == "s3-etag" else f"or {size} bytes in base64"
        raise UsageError(f"{_shown(text)} is no {name} digest: expected {2 * size} hexadecimal digits, {also}")
    return promise


def promised(headers: Mapping[str, str]) -> list[Promise]:
    """Return what the server promises about the whole object, the best first. Never raises; skips what is malformed.

    Args:
        headers: of an answer that brought the object or a part of it; names in lower case.
    """
    said = {name: value.strip() if len(value) <= LONGEST_HEADER else "" for name, value in headers.items()}
    found = (_promise(algorithm, text, origin) for origin, algorithm, text in _claims(said) if text)
    return [promise for promise in found if promise is not None]


def choose(checksum: str | None, headers: Mapping[str, str]) -> Promise | None:
    """Return what to verify; None for nothing.

    Args:
        checksum: "auto" for the best of what the server promises, if it does; None, "none" or "null" for nothing;
            otherwise as for `parse`.
        headers: of the answer, names in lower case.

    Raises:
        UsageError: *checksum* is nothing of these.
    """
    wish = "none" if checksum is None else _stripped(checksum)
    if wish.lower() in ("none", "null"):
        return None
    if wish.lower() == "auto":
        return next(iter(promised(headers)), None)
    return parse(wish)


def new(algorithm: str) -> Hash:
    """Return a running digest that has no bytes yet.

    Raises:
        UsageError: there is no such algorithm, or it is s3-etag, which is for `Check`.
    """
    name = _canonical(algorithm)
    if name is None or name == "s3-etag":
        raise UsageError(f"{_shown(algorithm)} cannot be hashed: use one of {', '.join(ALGORITHMS[:-1])}")
    if name.startswith("crc"):
        return _Crc(name)
    return hashlib.new(name, usedforsecurity=False)


class Check:
    """Whether the bytes of one object keep a promise. They are given in order, or in any for a CRC.

    An S3 ETag of several parts is the MD5 of the parts' MD5s. Who knows the size of the parts can verify it. Otherwise the
    few likeliest sizes are tried: one may match, but that none does tells nothing.

    Args:
        promise: what is expected.
        size: bytes in the object.
        name: of the object, its redacted URL, for the error; "" for none.

    Attributes:
        promise: as given.
        size: as given.
        name: as given.
        count: bytes so far.
    """

    def __init__(self, promise: Promise, size: int, name: str = "") -> None:
        self.promise = promise
        self.size = size
        self.count = 0
        self.name = name
        self._is_finished = False
        self._is_certain = promise.parts < 2 or promise.part_size is not None
        self._hashes: list[Hash]
        if promise.parts:
            self._hashes = [_Parts(part_size) for part_size in _part_sizes(promise, size)]
        else:
            self._hashes = [new("md5" if promise.algorithm == "s3-etag" else promise.algorithm)]
        self._pieces: dict[int, tuple[int, _Crc]] = {}  # of a CRC: by the byte after the last of a range, its first

    @property
    def is_hopeless(self) -> bool:
        """Whether `finish` will say that it cannot be told, whatever the bytes are; nothing is hashed then."""
        return not self._hashes and not self._is_certain

    @property
    def is_ordered(self) -> bool:
        """Whether it takes bytes in their order alone."""
        return not self.promise.algorithm.startswith("crc")

    def wanted(self, there: Iterable[ranges.Range]) -> list[ranges.Range]:
        """Return what of *there* it would take now."""
        if self.is_ordered:
            return [(self.count, stop) for start, stop in there if start <= self.count < stop]
        taken = sorted((start, stop) for stop, (start, _) in self._pieces.items())
        return [rest for each in there for rest in ranges.subtract(each, taken)]

    def update(self, buffer: ReadableBuffer, start: int | None = None) -> None:
        """Take the next bytes, or those from *start*, which are wanted.

        Raises:
            ValueError: it is finished.
        """
        if self._is_finished:
            raise ValueError("a Check takes no bytes after finish()")
        with memoryview(buffer) as view:
            if self.is_ordered:
                for each in self._hashes:
                    each.update(view)
            elif view.nbytes:
                self._put(view, self.count if start is None else start)
            self.count += view.nbytes

    def _put(self, view: memoryview, start: int) -> None:
        """Take bytes of a CRC, and join the ranges that they lie between."""
        first, crc = self._pieces.pop(start, (start, _Crc(self.promise.algorithm)))
        crc.update(view)
        stop = start + view.nbytes
        for end, (begin, other) in self._pieces.items():
            if begin == stop:
                crc.extend(other, end - begin)
                del self._pieces[end]
                stop = end
                break
        self._pieces[stop] = (first, crc)

    def finish(self) -> bool:
        """Say whether the bytes are verified; False if it cannot be told. Asked again, it says the same.

        Raises:
            IntegrityError: they are not those that were promised.
            ValueError: they are not as many as the object has.
        """
        if self.count != self.size:
            raise ValueError(f"{self.count} bytes of {self.size} were given to the Check")
        self._is_finished = True
        expected = self.promise.text
        whole = [crc for _, crc in self._pieces.values()]  # of a CRC, joined
        actual = [each.hexdigest() for each in whole or self._hashes]
        if expected in actual:
            return True
        if not self._is_certain:
            return False
        algorithm, origin = self.promise.algorithm, self.promise.origin
        found = actual[0] if actual else f"of {self.size} bytes in parts of {self.promise.part_size}"
        message = f"{self.name}: " * bool(self.name) + f"{algorithm} is {found}, {origin} promised {expected}"
        raise IntegrityError(message, algorithm=algorithm, expected=expected, actual="".join(actual), url=self.name or None)


class _Crc:
    """A running CRC.

    awscrt is here by measurement: it takes any memoryview as it is, releases the GIL, and hashes 21 GB/s. google-crc32c does
    9 GB/s with the copy that it needs, crc32c 12.6 GB/s, and neither has the crc64nvme that S3 promises.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.digest_size = _SIZES[name]
        self._value = 0

    def update(self, buffer: ReadableBuffer, /) -> None:
        update = zlib.crc32 if self.name == "crc32" else _awscrt(self.name)
        self._value = update(buffer, self._value)

    def extend(self, other: _Crc, length: int) -> None:
        """Take as many bytes more, whose CRC is another."""
        self._value = _awscrt(f"combine_{self.name}")(self._value, other._value, length)

    def digest(self) -> bytes:
        return self._value.to_bytes(self.digest_size, "big")

    def hexdigest(self) -> str:
        return self.digest().hex()


@functools.cache
def _awscrt(name: str) -> Callable[..., int]:
    """Return a function on CRCs. It is imported here: that takes 60 ms, and few need it, none before there are bytes."""
    from awscrt import checksums  # noqa: PLC0415

    function: Callable[..., int] = getattr(checksums, name)
    return function


class _Parts:
    """The ETag of an object that was uploaded in parts of one size, the last one shorter; an empty object is one part."""

    name = "s3-etag"
    digest_size = _SIZES["s3-etag"]

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._whole = hashlib.md5(usedforsecurity=False)  # of the digests of all parts before the current one
        self._part = new("md5")
        self._parts = 1
        self._room = part_size  # bytes that the current part still takes

    def update(self, buffer: ReadableBuffer, /) -> None:
        view = memoryview(buffer).cast("B")
        while view:
            if not self._room:
                self._whole.update(self._part.digest())
                self._part = new("md5")
                self._parts += 1
                self._room = self._part_size
            taken = view[: self._room]
            self._part.update(taken)
            self._room -= len(taken)
            view = view[len(taken) :]

    def digest(self) -> bytes:
        whole = self._whole.copy()
        whole.update(self._part.digest())
        return whole.digest()

    def hexdigest(self) -> str:
        """Return it as the ETag has it: with the number of parts."""
        return f"{self.digest().hex()}-{self._parts}"


def _part_sizes(promise: Promise, size: int) -> list[int]:
    """Return the sizes of parts that may have led to an ETag: those that make as many of *size* bytes."""
    parts, part_size = promise.parts, promise.part_size
    if part_size is not None:
        return [part_size] if parts == max(-(-size // part_size), 1) else []
    if parts == 1:
        return [max(size, 1)]
    least, most = -(-size // parts), (size - 1) // (parts - 1)
    others = (each for each in range(ranges.ceil(least, _MIB), most + 1, _MIB) if each not in _PART_SIZES)
    return list(islice((each for each in chain(_PART_SIZES, others) if least <= each <= most), GUESSES))


def _claims(said: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (origin, algorithm, digest as it is written) of whatever may be a promise, the best first."""
    content_range = said.get("content-range")
    is_whole = content_range is None or _is_whole(content_range)

    # cloud.google.com/storage/docs/transcoding: these are of the stored bytes, not of those unpacked on the way.
    stored, sent = (said.get(name, "identity") for name in ("x-goog-stored-content-encoding", "content-encoding"))
    if stored == sent or "x-goog-stored-content-encoding" not in said:
        yield from _listed("x-goog-hash", said, _GOOGLE)

    # For a range that is one part S3 sends the checksum of that part, for a range that is all of the object a composite one
    # without its -N (github.com/boto/botocore/issues/3346). With its -N it is no base64.
    kind = said.get("x-amz-checksum-type", "FULL_OBJECT" if content_range is None else "")
    if is_whole and kind == "FULL_OBJECT":
        yield from ((name, algorithm, said.get(name, "")) for algorithm, name in _AMAZON.items())

    yield from _listed("Repr-Digest", said, _DIGESTS)  # RFC 9530, 3
    yield from _listed("Digest", said, _DIGESTS)  # RFC 3230, 4.3.2: also of the whole object, whatever part is sent
    if is_whole:
        yield "Content-MD5", "md5", said.get("content-md5", "")  # RFC 1864: of the message
    yield "x-ms-blob-content-md5", "md5", said.get("x-ms-blob-content-md5", "")
    yield "ETag", "s3-etag", _md5_etag(said)


def _is_whole(content_range: str) -> bool:
    content = ranges.parse_content_range(content_range)
    return content is not None and (content.start, content.stop) == (0, content.size)


def _listed(origin: str, said: Mapping[str, str], algorithms: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield what a header promises as `algorithm=digest, ...`; RFC 9530 writes `algorithm=:digest:;parameters`."""
    found: dict[str | None, str] = {}
    for item in said[origin.lower()].split(",") if origin.lower() in said else ():
        name, _, value = item.partition("=")
        found[_canonical(name)] = value.partition(";")[0].strip().strip(":")
    yield from ((origin, algorithm, found[algorithm]) for algorithm in algorithms if algorithm in found)


def _md5_etag(said: Mapping[str, str]) -> str:
    """Return the ETag if it is of an S3 that makes it of MD5s; "" otherwise.

    It is none in directory buckets and where the encryption is not S3's own (AWS, S3 API reference, Object).
    MinIO may send a random one, which it marks by -1 (minio, cmd/object-api-utils.go, MD5CurrentHexString).
    """
    etag = said.get("etag", "")
    is_amazon = said.get("server", "").lower() == "amazons3"
    is_other = "x-amz-request-id" in said and not etag.rstrip('"').endswith("-1")
    is_sealed = (
        said.get("x-amz-server-side-encryption", "AES256") != "AES256"
        or "x-amz-server-side-encryption-customer-algorithm" in said
        or said.get("x-amz-storage-class") == "EXPRESS_ONEZONE"
    )
    return etag if (is_amazon or is_other) and not is_sealed else ""


def _named(text: str) -> tuple[str, str]:
    """Return (algorithm, digest) of a checksum that names its algorithm, or whose form leaves no doubt."""
    if len(text) != 32 and _ETAG.fullmatch(text):
        return "s3-etag", text
    if named := _NAMED.fullmatch(text):
        return named[1], named[2]
    digits = len(text) if _HEX.fullmatch(text) else 0
    if digits in _BY_HEX_LENGTH:
        return _BY_HEX_LENGTH[digits], text
    if digits == 8:
        raise UsageError(f"{_shown(text)} may be crc32 or crc32c: write crc32:{text} or crc32c:{text}")
    raise UsageError(
        f"{_shown(text)} does not say of what it is: write ALGORITHM:DIGEST with one of {', '.join(ALGORITHMS)}"
    )


def _promise(algorithm: str, text: str, origin: str) -> Promise | None:
    """Return the promise that *text* is, None if it is no digest of that algorithm."""
    if algorithm != "s3-etag":
        digest = _decoded(text, _SIZES[algorithm])
        return None if digest is None else Promise(algorithm, digest, origin)
    etag = _ETAG.fullmatch(text)
    if etag is None:
        return None
    parts = int(etag[3] or 0)
    part_size = int(etag[4]) * _UNITS[etag[5].lower()] if parts and etag[4] else None
    return Promise(algorithm, bytes.fromhex(etag[2]), origin, parts, part_size)


def _decoded(text: str, size: int) -> bytes | None:
    """Return the *size* bytes that *text* is in hexadecimal, or in base64 of either alphabet; None if it is neither."""
    if len(text) == 2 * size and _HEX.fullmatch(text):
        return bytes.fromhex(text)
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        digest = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        return None
    return digest if len(digest) == size else None


def _canonical(name: str) -> str | None:
    """Return the name as it is in `ALGORITHMS`, None if it is none."""
    name = name.strip().lower().replace("_", "-")
    name = _OTHER_NAMES.get(name, name)
    return name if name in _SIZES else None


def _stripped(checksum: str) -> str:
    if not isinstance(checksum, str):
        raise UsageError(f"a checksum must be a str, not {type(checksum).__name__}")
    return checksum.strip()


def _shown(text: str) -> str:
    return repr(uri.printable(text[:100]))
