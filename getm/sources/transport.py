"""Send prepared requests over connections that are kept, check every answer, and read bodies straight into memory.

The head of an answer is read by `requests`; the body by `readinto1` on the file below the `http.client` response, which is a
single `recv_into` into the given memory, and is counted here, because `http.client` ends silently on a connection that is
cut.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import requests
import urllib3

from getm.config import STALL_LEAST
from getm.retry import Failure, RequestFailed, StallWatch, Trouble
from getm.sources.answer import check
from getm.sources.base import UNTOLD, Answer, Body, Request, Transport
from getm.sources.connection import PlainAdapter, cut, discreet, receive
from getm.sources.failures import connection_failure, is_stale, reason
from getm.sources.spool import SCRATCH

POOL = 32
REFUSAL_TEXT = 4096
"""Bytes of the body of a 400 that are looked at: some servers refuse by it."""
Sent = tuple[urllib3.HTTPResponse, Mapping[str, str]]
"""An answer, and its headers."""

_REFUSED = re.compile(rb"xpired|<Code>(AccessDenied|AuthorizationQueryParameters|InvalidToken)", re.IGNORECASE)
"""What such a body says: S3 and GCS of a token that has expired, S3 of one that it does not know and of a signature that is
none, `rclone serve s3` of a signature that has expired."""
_HIDDEN_LOCATION = "getm-location"
_process: dict[int, Transport] = {}  # by process number: a forked child must not use its parent's connections


class HttpTransport:
    """Sends requests over kept-alive connections; one a process."""

    def __init__(self) -> None:
        self._adapter = PlainAdapter(pool_connections=POOL, pool_maxsize=POOL, max_retries=0)

    def send(self, request: Request) -> Body:
        """Send one request and check its answer.

        A kept-alive connection that turns out to be closed is replaced at once; nothing else is tried again here.

        Raises:
            RequestFailed: no answer, or none that can be used.
        """
        return answered(request, lambda: self._send(request))

    def close(self) -> None:
        """Close the connections."""
        self._adapter.close()

    def _send(self, request: Request) -> Sent:
        prepared: Any = requests.PreparedRequest()
        prepared.method = "GET"
        prepared.url = request.url
        prepared.headers = request.headers
        response: Any = self._adapter.send(prepared, **sending(request))
        return response, response.headers


class HttpBody:
    """The body of one answer, read as it comes, straight into the given memory, and counted.

    Args:
        response: an answer whose body is not read yet.
        answer: what its head says.
        stall: seconds of waiting for it, all together, in which at least 1 KiB must come.
    """

    def __init__(self, response: urllib3.HTTPResponse, answer: Answer, stall: float) -> None:
        self._response = response
        self._answer = answer
        self._left = answer.stop - answer.start
        # The answer of http.client below that of urllib3; requests goes there, too, for its cookies.
        self._original: Any = response._original_response  # noqa: SLF001
        self._skipped = answer.skipped  # bytes to throw away first
        self._watch = StallWatch(stall, STALL_LEAST, 0.0)
        self._waited = 0.0  # seconds, its clock: whoever takes his time to read on does not count as a stall
        if self._left == 0:
            self.close()

    @property
    def answer(self) -> Answer:
        """The head."""
        return self._answer

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one and at most `len(buffer)` bytes, as they come.

        Raises:
            RequestFailed: the connection was cut, or stalled; the body is closed.
        """
        if len(buffer) > self._left:
            buffer = buffer[: self._left]
        try:
            if self._skipped:
                self._skip()
            count = self._receive(buffer)
        except RequestFailed:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise RequestFailed(Failure(Trouble.TIMEOUT, "nothing came in time in the middle of the body")) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise RequestFailed(Failure(Trouble.CUT, f"connection lost in the body: {reason(error)}")) from error
        if count == 0:
            left = self._left
            self.close()
            if self._answer.stop == UNTOLD and not self._skipped:
                return 0
            raise RequestFailed(Failure(Trouble.CUT, f"the server ended an answer {left} bytes early"))
        self._left -= count
        if self._left == 0:
            self.close()
        return count

    def close(self) -> None:
        """Give the connection back if the body was read to its end, otherwise drop it."""
        answer = self._answer
        is_at_end = self._left == 0 and not (answer.skipped and answer.stop < answer.version.size)
        if is_at_end and not self._original.will_close and not self._original.chunked:
            self._original.close()
            self._response.release_conn()
        else:
            _close(self._response)

    def abort(self) -> None:
        """Make a `readinto` under way in another thread return or fail at once."""
        stream = self._original.fp
        if stream is not None:
            cut(stream)

    def _skip(self) -> None:
        waste = memoryview(bytearray(min(self._skipped, SCRATCH)))
        while self._skipped:
            count = self._receive(waste[: self._skipped])
            if count == 0:
                raise ConnectionResetError
            self._skipped -= count

    def _receive(self, buffer: memoryview) -> int:
        began = time.monotonic()
        if self._original.chunked:
            data = self._original.read1(len(buffer))
            count = len(data)
            buffer[:count] = data
        else:
            count = receive(self._original, buffer)
        self._waited += time.monotonic() - began
        self._watch.add(count, self._waited)
        return count


def sending(request: Request) -> dict[str, Any]:
    """Return how `requests` is to send a request."""
    return {
        "stream": True,
        "timeout": (request.connect, request.stall),
        "verify": request.verify,
        "cert": request.cert,
        "proxies": dict(request.proxies),
    }


def answered(request: Request, send: Callable[[], Sent]) -> Body:
    """Send a request, once more if its connection turns out to be closed, and check the answer.

    Args:
        request: what is asked for.
        send: sends it; returns its answer, and the headers of that.

    Raises:
        RequestFailed: no answer, or none that can be used; from None, as the texts of `requests` hold the whole URL.
    """
    try:
        with discreet():
            response, found = _sent(send)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise RequestFailed(connection_failure(error)) from None
    try:
        headers = {name.lower(): value for name, value in found.items()}
        if _HIDDEN_LOCATION in headers:
            headers["location"] = headers.pop(_HIDDEN_LOCATION)
        return HttpBody(response, check(request, response.status, headers, time.time()), request.stall)
    except BaseException as error:
        if isinstance(error, RequestFailed) and error.failure.status == 400 and _REFUSED.search(_beginning(response)):
            error = RequestFailed(replace(error.failure, trouble=Trouble.EXPIRED))
        _close(response)
        raise error from None


def hide_location(response: requests.Response, **_: object) -> None:
    """Have `requests` not look where an answer redirects to: it would read its whole body first."""
    if "location" in response.headers:
        response.headers[_HIDDEN_LOCATION] = response.headers.pop("location")


def process_transport() -> Transport:
    """Return this process's transport; a forked child gets its own."""
    process = os.getpid()
    transport = _process.get(process)
    if transport is None:  # no lock, for a fork could leave it locked
        _process.clear()
        transport = _process.setdefault(process, HttpTransport())
    return transport


def close_connections() -> None:
    """Close the idle connections that this process keeps; the next request opens new ones."""
    process_transport().close()


def _sent(send: Callable[[], Sent]) -> Sent:
    try:
        return send()
    except requests.exceptions.ConnectionError as error:
        if not is_stale(error):
            raise
    return send()


def _close(response: urllib3.HTTPResponse) -> None:
    """Drop the connection of an answer."""
    response.close()
    response.release_conn()


def _beginning(response: urllib3.HTTPResponse) -> bytes:
    """Return what has come of the body of a refusal, as far as it is looked at."""
    try:
        return response.read1(REFUSAL_TEXT)
    except (AttributeError, OSError, http.client.HTTPException, urllib3.exceptions.HTTPError):
        return b""
