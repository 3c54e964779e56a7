"""Connections to servers, kept for the next request, and what they trust.

They are those of `http.client`, which is imported in a third of the time that `requests` takes; that comes on top where
it is needed, see `sessions.py`.
"""

from __future__ import annotations

import http.client
import os
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


class ConnectTimeout(TimeoutError):  # noqa: N818  # as `requests` has it
    """There was no connection in time."""


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


class Connection(http.client.HTTPConnection):
    """A connection to a server, which is not made yet.

    Args:
        origin: the server.
        seconds: in which it has to be connected, and to take a request.
        tls: what connects over TLS; None without it.

    Attributes:
        use: what it is good for: of two requests of one use the later may be sent over the connection of the earlier.
    """

    response_class = Response

    def __init__(self, origin: Origin, seconds: float, tls: ssl.SSLContext | None, use: object = None) -> None:
        super().__init__(origin.host, origin.port, timeout=seconds)
        if tls is not None:
            self.default_port = http.client.HTTPS_PORT
        self._tls = tls
        self.use = use

    def __del__(self) -> None:
        """Close it: whoever was to, was interrupted, or the process ends."""
        self.close()

    @property
    def is_dropped(self) -> bool:
        """Whether the server has closed it, or sent what nobody has asked for."""
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        return bool(waiting.poll(0))

    def connect(self) -> None:
        """Connect.

        Raises:
            ConnectTimeout: it takes too long.
            OSError: it fails.
        """
        host = self.host.encode("ascii")  # of a str Python would ask for the name in IDNA, which is imported in 1 ms
        try:
            self.sock = socket.create_connection((cast("str", host), self.port), self.timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                self.sock = self._tls.wrap_socket(self.sock, server_hostname=host.rstrip(b"."))
        except TimeoutError as error:
            raise ConnectTimeout from error

    def exchange(self, target: str, headers: Mapping[str, str], sending: float, waiting: float) -> http.client.HTTPResponse:
        """Send a GET request, and return its answer, whose body is to be read.

        Args:
            target: path and query.
            headers: of the request.
            sending: seconds in which the server has to take it.
            waiting: seconds to wait for each part of the answer.

        Raises:
            OSError: the connection is lost, or something does not come in time.
            HTTPException: the answer is none.
        """
        self.sock.settimeout(sending)
        with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):  # the server may have said why it closed
            self.request("GET", target, headers=cast("dict[str, str]", headers))
        self.sock.settimeout(waiting)
        return self.getresponse()


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


def _usual_authorities() -> str:
    import certifi  # noqa: PLC0415  # takes 4 ms

    return certifi.where()


def _trusting_in(path: str) -> ssl.SSLContext:
    """Return what connects to servers that authorities vouch for: those of a file, or of a folder."""
    found = ssl.create_default_context(capath=path) if os.path.isdir(path) else ssl.create_default_context(cafile=path)
    found.set_alpn_protocols(["http/1.1"])
    return found


_trusting: dict[str, tuple[int, ssl.SSLContext]] = {}  # by path, with the time of its last change
