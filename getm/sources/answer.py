"""What the head of an HTTP answer says, and whether it can be used: pure decisions.

The rules are those of DESIGN: the bytes asked for, of the version asked for, or a failure that says what came instead.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Mapping
from dataclasses import replace

from getm.ranges import ContentRange, Range, parse_content_range, parse_length
from getm.retry import Failure, RequestFailed, Trouble, parse_retry_after
from getm.sources.base import UNTOLD, Answer, Request, Version

SKIPPED_MOST = 1 << 20
"""Bytes of a whole object that are thrown away to get at the rest, where a range was ignored: an answer to a small object
that was cut is so gone on with."""
WITNESS_MOST = 200
"""Longest ETag that is kept as it is; it goes with every request to a worker."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Redirected(RequestFailed):
    """The answer is a redirect; only the first request of an object follows it."""

    def __init__(self, status: int, location: str) -> None:
        super().__init__(Failure(Trouble.STATUS, f"the server answered {status}: another place", status))
        self.location = location


def check(request: Request, status: int, headers: Mapping[str, str], now: float) -> Answer:
    """Return the head of an answer that can be used for *request*.

    Args:
        request: that was sent.
        status: of the answer.
        headers: of the answer, names in lower case.
        now: the time, in seconds since the epoch.

    Raises:
        Redirected: the object is elsewhere.
        RequestFailed: the answer cannot be used.
    """
    content = parse_content_range(headers.get("content-range", ""))
    if status in REDIRECTS and "location" in headers:
        raise Redirected(status, headers["location"])
    if status == 416 and content is not None and content.size is not None and content.size <= request.start:
        return _checked(request, (request.start, request.start), content.size, headers)
    if status not in (200, 206):
        phrase = http.client.responses.get(status, "")
        retry_after = parse_retry_after(headers.get("retry-after"), now)
        raise RequestFailed(Failure(Trouble.STATUS, f"the server answered {status} {phrase}".rstrip(), status, retry_after))
    length = headers.get("content-length", "")
    length_told = parse_length(length)
    if length_told is None and length and "transfer-encoding" not in headers:
        raise _unusable(f"the Content-Length {length[:50]!r} is no number of bytes")
    if content is not None:
        return _check_part(request, content, length_told, headers)
    if status == 206:
        raise _unusable("the server answered 206 without a usable Content-Range")
    return _check_whole(request, length_told, headers)


def _check_part(request: Request, content: ContentRange, length_told: int | None, headers: Mapping[str, str]) -> Answer:
    """Return the head of an answer with a `Content-Range`: that is believed, not the status."""
    if content.start is None or content.stop is None:
        raise _unusable("the answer's Content-Range holds no range")
    if content.start != request.start or content.stop > request.stop:
        asked, sent = f"{request.start}-{request.stop - 1}", f"{content.start}-{content.stop - 1}"
        raise _unusable(f"asked for bytes {asked}, was sent {sent}")
    size = content.size
    if size is None and request.version is not None:
        size = request.version.size
    if size is None:
        raise RequestFailed(Failure(Trouble.RANGE, "the server does not tell the object's size"))
    length = content.stop - content.start
    if length_told is not None and length_told != length:
        raise _unusable(f"Content-Range promises {length} bytes, Content-Length {length_told}")
    return _checked(request, (content.start, content.stop), size, headers)


def _check_whole(request: Request, length_told: int | None, headers: Mapping[str, str]) -> Answer:
    """Return the head of an answer that holds the whole object, where a range was asked for."""
    if length_told is not None and request.start == 0 and length_told <= request.stop:
        return _checked(request, (0, length_told), length_told, headers)
    if request.version is None:
        size, stop = (-1, UNTOLD) if length_told is None else (length_told, length_told)
        return replace(_checked(request, (0, stop), size, headers), is_whole=True)
    if length_told is not None and length_told == request.version.size and request.start < min(length_told, SKIPPED_MOST):
        span = (request.start, min(request.stop, length_told))
        return replace(_checked(request, span, length_told, headers), skipped=request.start)
    raise RequestFailed(Failure(Trouble.RANGE, "the server ignored the range and sent the whole object"))


def _checked(request: Request, span: Range, size: int, headers: Mapping[str, str]) -> Answer:
    """Return the head of an answer whose version is the right one."""
    version = Version(size, _witness(headers.get("etag", "")), _witness(headers.get("last-modified", "")))
    difference = None if request.version is None else request.version.difference(version)
    if difference is not None:
        raise RequestFailed(Failure(Trouble.CHANGED, f"the object was replaced while it was read: {difference}"))
    return Answer(request.url, *span, version, headers)


def _witness(value: str) -> str | None:
    """Return the value of a header that tells versions apart: one of its own length at most, None if it is empty."""
    if len(value) <= WITNESS_MOST:
        return value if value.strip() else None
    return value[:20] + hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()


def _unusable(text: str) -> RequestFailed:
    return RequestFailed(Failure(Trouble.PROTOCOL, text))
