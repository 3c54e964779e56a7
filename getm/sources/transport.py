"""Send prepared requests over connections that are kept, check every answer, and read bodies straight into memory.

The head of an answer is read by `http.client`; the body by `readinto1` on the file below its response, which is a single
`recv_into` into the given memory, and is counted here, because `http.client` ends silently on a connection that is cut.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from getm import uri
from getm.config import STALL_LEAST
from getm.retry import Failure, RequestFailed, StallWatch, Trouble
from getm.sources.answer import check
from getm.sources.base import UNTOLD, Answer, Body, Request, Transport
from getm.sources.connection import Connection, Idle, Reply, context_for, trust, trusted
from getm.sources.failures import connection_failure, is_stale, reason
from getm.sources.response import cut, receive
from getm.sources.spool import SCRATCH

if TYPE_CHECKING:
    from getm.sources.sessions import PlainAdapter

REFUSAL_TEXT = 4096
"""Bytes of the body of a 400 that are looked at: some servers refuse by it."""

_REFUSED = re.compile(rb"xpired|<Code>(AccessDenied|AuthorizationQueryParameters|InvalidToken)", re.IGNORECASE)
"""What such a body says: S3 and GCS of a token that has expired, S3 of one that it does not know and of a signature that is
none, `rclone serve s3` of a signature that has expired."""
_process: dict[int, HttpTransport] = {}  # by process number: a forked child must not use its parent's connections


class HttpTransport:
    """Sends requests over kept-alive connections; one a process."""

    def __init__(self) -> None:
        self._idle = Idle()
        self._proxied: PlainAdapter | None = None

    def send(self, request: Request) -> Body:
        """Send one request and check its answer.

        A kept-alive connection that turns out to be closed is replaced at once; nothing else is tried again here.

        Raises:
            RequestFailed: no answer, or none that can be used.
        """
        return answered(request, lambda: self._proxy(request) if request.proxies else self._send(request))

    def close(self) -> None:
        """Close the connections."""
        self._idle.close()
        if self._proxied is not None:
            self._proxied.close()

    @property
    def has_proxies(self) -> bool:
        """Whether a request has gone through a proxy."""
        return self._proxied is not None

    def prepare_proxies(self) -> None:
        """Import what sends requests through proxies, which takes 50 ms."""
        if self._proxied is None:
            from getm.sources.sessions import PlainAdapter  # noqa: PLC0415

            self._proxied = PlainAdapter()

    def _send(self, request: Request) -> Reply:
        """Send a request straight to its server."""
        origin, target = uri.address(request.url)
        use = (origin, request.verify, request.cert)
        connection = self._idle.take(use)
        is_kept = connection is not None
        try:
            if connection is None:
                tls = context_for(request.verify, request.cert) if origin.scheme == "https" else None
                connection = Connection(origin, request.connect, tls, use)
                connection.connect()
            response = connection.exchange(target, request.headers, request.connect, request.stall)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if is_kept and isinstance(error, http.client.HTTPException):  # bytes that came behind the last answer, perhaps
                raise ConnectionResetError from error
            raise

        def leave(is_reusable: bool) -> None:  # noqa: FBT001
            response.close()
            if is_reusable:
                self._idle.put(connection)
            else:
                connection.close()

        return Reply(response, response.values, leave)

    def _proxy(self, request: Request) -> Reply:
        """Send a request through a proxy."""
        self.prepare_proxies()
        assert self._proxied is not None
        return self._proxied.carry(request)


class HttpBody:
    """The body of one answer, read as it comes, straight into the given memory, and counted.

    Args:
        reply: an answer whose body is not read yet.
        answer: what its head says.
        stall: seconds of waiting for it, all together, in which at least 1 KiB must come.
    """

    def __init__(self, reply: Reply, answer: Answer, stall: float) -> None:
        self._response, _, self._leave = reply
        self._answer = answer
        self._left = answer.stop - answer.start
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
        leave, self._leave = self._leave, _left
        leave(is_at_end and not self._response.will_close and not self._response.chunked)

    def abort(self) -> None:
        """Make a `readinto` under way in another thread return or fail at once."""
        stream = self._response.fp
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
        if self._response.chunked:
            data = self._response.read1(len(buffer))
            count = len(data)
            buffer[:count] = data
        else:
            count = receive(self._response, buffer)
        self._waited += time.monotonic() - began
        self._watch.add(count, self._waited)
        return count


def answered(request: Request, send: Callable[[], Reply]) -> Body:
    """Send a request, once more if its connection turns out to be closed, and check the answer.

    Args:
        request: what is asked for.
        send: sends it.

    Raises:
        RequestFailed: no answer, or none that can be used; from None, as the texts of `requests` hold the whole URL.
    """
    try:
        found = _sent(send)
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise RequestFailed(connection_failure(error)) from None
    response = found.response
    try:
        headers = {name.lower(): value for name, value in found.headers.items()}
        return HttpBody(found, check(request, response.status, headers, time.time()), request.stall)
    except BaseException as error:
        if isinstance(error, RequestFailed) and error.failure.status == 400 and _REFUSED.search(_beginning(response)):
            error = RequestFailed(replace(error.failure, trouble=Trouble.EXPIRED))
        found.leave(False)
        raise error from None


def open_transport(known: Iterable[str] = ()) -> Transport:
    """Return a transport of this process's own, once it has read what requests of another have needed, see below."""
    transport = HttpTransport()
    for kind, path in (each.split(":", 1) for each in known):
        if kind == "trust":
            trust(path)
        else:
            transport.prepare_proxies()
    return transport


def known() -> list[str]:
    """Return what requests of this process have needed that takes long to read, for `open_transport` in another."""
    proxies = ["proxies:"] if process_transport().has_proxies else []
    return [*proxies, *(f"trust:{path}" for path in trusted())]


def process_transport() -> HttpTransport:
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


def _left(is_reusable: bool) -> None:  # noqa: FBT001
    """Do nothing, as what has left its connection already."""


def _sent(send: Callable[[], Reply]) -> Reply:
    try:
        return send()
    except OSError as error:
        if isinstance(error, TimeoutError) or not is_stale(error):
            raise
    return send()


def _beginning(response: http.client.HTTPResponse) -> bytes:
    """Return what has come of the body of a refusal, as far as it is looked at."""
    try:
        return response.read1(REFUSAL_TEXT)
    except (AttributeError, OSError, http.client.HTTPException):
        return b""
