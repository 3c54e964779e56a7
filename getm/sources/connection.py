"""Connections to servers, kept for the next request, and what they trust.

They are our own: `requests` takes 50 ms to import, and what is prepared by `http.client`, header by header, takes as long
as the rest of a request. It comes on top where it is needed, see `sessions.py`.
"""

from __future__ import annotations

import http.client
import os
import re
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, cast

from getm.sources.response import Response
from getm.uri import Origin

IDLE_MOST = 64
"""Connections that are kept though nobody uses them."""

_NO_TARGET = re.compile(r"[\x00-\x20\x7f]")


class ConnectTimeout(TimeoutError):  # noqa: N818  # as `requests` has it
    """There was no connection in time."""


class NoProxy(ConnectionError):  # noqa: N818  # likewise
    """There is no connection to a proxy."""


class Reply(NamedTuple):
    """An answer whose body is not read yet.

    Attributes:
        response: that of `http.client`.
        headers: of it.
        leave: called once it is not read any more, with whether another request may be sent over its connection.
    """

    response: Any
    headers: Mapping[str, str]
    leave: Callable[[bool], None]


def context_for(authorities: str | bool, cert: str | tuple[str, str] | None) -> ssl.SSLContext:  # noqa: FBT001
    """Return what connects over TLS.

    Args:
        authorities: path of those that vouch for the server, True for the usual ones, False not to check its certificate.
        cert: path of the certificate to show, or (certificate, key).

    Raises:
        OSError: a file cannot be used.
    """
    if authorities is False:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
        found.set_alpn_protocols(["http/1.1"])
    else:
        path = _usual_authorities() if authorities is True else authorities
        shared = trust(path) if cert is None else None
        if shared is not None:
            return shared
        found = _trusting_in(path)
    if cert is not None:
        found.load_cert_chain(*(cert if isinstance(cert, tuple) else (cert,)))
    return found


def trust(path: str) -> ssl.SSLContext | None:
    """Return what connects to servers that the authorities of a file vouch for; None if that cannot be read.

    There is one for all connections, until the file is another: to read the usual 140 authorities takes 27 ms.
    """
    with suppress(OSError):
        written = os.stat(path).st_mtime_ns
        known = _trusting.get(path)
        if known is not None and known[0] == written:
            return known[1]
        _trusting[path] = (written, _trusting_in(path))
        return _trusting[path][1]
    return None


def trusted() -> list[str]:
    """Return the files of authorities that connections of this process have needed."""
    return list(_trusting)


class Connection:
    """A connection to a server, which is not made yet.

    Args:
        origin: the server.
        seconds: in which it has to be connected.
        tls: what connects over TLS; None without it.

    Attributes:
        use: what it is good for: of two requests of one use the later may be sent over the connection of the earlier.
    """

    def __init__(self, origin: Origin, seconds: float, tls: ssl.SSLContext | None, use: object = None) -> None:
        self._origin = origin
        self._seconds = seconds
        self._tls = tls
        self._socket: socket.socket | None = None
        self.use = use

    def __del__(self) -> None:
        """Close it: whoever was to, was interrupted, or the process ends."""
        self.close()

    @property
    def is_dropped(self) -> bool:
        """Whether the server has closed it, or sent what nobody has asked for."""
        waiting = select.poll()
        waiting.register(self._connected, select.POLLIN)
        return bool(waiting.poll(0))

    def connect(self) -> None:
        """Connect.

        Raises:
            ConnectTimeout: it takes too long.
            OSError: it fails.
        """
        host, port = self._origin.host.encode("ascii"), self._origin.port  # a str would be asked for in IDNA: 1 ms to import
        try:
            self._socket = socket.create_connection((cast("str", host), port), self._seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                self._socket = self._tls.wrap_socket(self._socket, server_hostname=host.rstrip(b"."))
        except TimeoutError as error:
            raise ConnectTimeout from error

    def exchange(self, target: str, headers: Mapping[str, str], sending: float, waiting: float) -> Response:
        """Send a GET request, and return its answer, whose body is to be read.

        Args:
            target: path and query.
            headers: of the request.
            sending: seconds in which the server has to take it.
            waiting: seconds to wait for each part of the answer.

        Raises:
            OSError: the connection is lost, or something does not come in time.
            HTTPException: the answer is none, or the request holds what cannot be sent.
            UnicodeError: it does.
        """
        request = _request(self._origin, target, headers)
        self._connected.settimeout(sending)
        with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # the server may have said why it closed
            self._connected.sendall(request)
        self._connected.settimeout(waiting)
        response = Response(self._connected, method="GET")
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """Close it. Twice is harmless."""
        if self._socket is not None:
            self._socket.close()

    @property
    def _connected(self) -> socket.socket:
        assert self._socket is not None
        return self._socket


class Idle:
    """The connections that nobody uses, the last one used first.

    There is no lock, as an interrupt could leave it taken for ever.
    """

    def __init__(self) -> None:
        self._connections: deque[Connection] = deque()

    def take(self, use: object) -> Connection | None:
        """Return a connection of a use, if there is one that the server has not closed."""
        for connection in reversed(list(self._connections)):
            if connection.use == use:
                try:
                    self._connections.remove(connection)
                except ValueError:  # another thread has it
                    continue
                if not connection.is_dropped:
                    return connection
                connection.close()
        return None

    def put(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        self._connections.append(connection)
        self._keep(IDLE_MOST)

    def close(self) -> None:
        """Close them all."""
        self._keep(0)

    def _keep(self, most: int) -> None:
        while len(self._connections) > most:
            with suppress(IndexError):  # another thread does the same
                self._connections.popleft().close()


def _request(origin: Origin, target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a GET request.

    Raises:
        InvalidURL: something is in it that would end a line, or the target.
        UnicodeError: something is that no head may hold.
    """
    said = {_encoded(name): _encoded(value) for name, value in headers.items()}
    lines = [b"GET %s HTTP/1.1" % target.encode("ascii")]
    if not any(name.lower() == b"host" for name in said):
        lines.append(b"Host: %s" % origin.authority.encode("ascii"))
    lines += [b"%s: %s" % item for item in said.items()]
    head = b"\r\n".join(lines)
    if head.count(b"\n") >= len(lines) or head.count(b"\r") >= len(lines) or _NO_TARGET.search(target):
        raise http.client.InvalidURL("the request holds what cannot be sent")
    return head + b"\r\n\r\n"


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _usual_authorities() -> str:
    import certifi  # noqa: PLC0415  # takes 4 ms

    return certifi.where()


def _trusting_in(path: str) -> ssl.SSLContext:
    """Return what connects to servers that authorities vouch for: those of a file, or of a folder."""
    found = ssl.create_default_context(capath=path) if os.path.isdir(path) else ssl.create_default_context(cafile=path)
    found.set_alpn_protocols(["http/1.1"])
    return found


_trusting: dict[str, tuple[int, ssl.SSLContext]] = {}  # by path, with the time of its last change
