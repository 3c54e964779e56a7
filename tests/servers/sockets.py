"""Servers below HTTP: raw answers right or wrong, a proxy that tunnels, and TLS in front of another server.

with RawServer(script) as server:        # script(head) yields the bytes of an answer, whatever they are
with TlsFront(backend.url, certificates.server, authority=...) as front:  # front.url, and what backend.log says
with TunnelProxy(front.url) as proxy:    # CONNECT, wherever to, leads there
"""

import contextlib
import re
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

PIECE = 64 * 1024
HANDSHAKE = 10.0  # seconds


class Listener:
    """Serve each connection by a thread, until closed; a context manager.

    Attributes:
        url: of the server, without a slash at its end.
    """

    SCHEME = "http"

    def __init__(self) -> None:
        self.lock = threading.Lock()  # guards the two below, and what subclasses count
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_closing = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.url = f"{self.SCHEME}://127.0.0.1:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, name=self.url)
        self._acceptor.start()

    def serve(self, connection: socket.socket) -> None:
        """Do what there is to do for one connection; it is closed afterwards."""
        raise NotImplementedError

    def connect(self, url: str) -> socket.socket:
        """Return a connection to the server of *url*, which ends with this server at the latest."""
        parts = urlsplit(url)
        return self._keep(socket.create_connection((parts.hostname, parts.port), HANDSHAKE))

    def close(self) -> None:
        """Break every connection and end every thread."""
        self._is_closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self.lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._is_closing:
                    return
                raise
            self._keep(connection)
            thread = threading.Thread(target=self._run, args=(connection,), name=self.url)
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has left, or did not like our certificate
            self.serve(connection)
        self.drop(connection)

    def _keep(self, connection: socket.socket) -> socket.socket:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self._sockets.add(connection)
        return connection

    def drop(self, connection: socket.socket) -> None:
        """Close a connection."""
        with self.lock:
            self._sockets.discard(connection)
        connection.close()


class RawServer(Listener):
    """Answer each request with the bytes of a script, as far as the client takes them, and close the connection then.

    Args:
        script: gets the head of a request, and yields bytes; for ever if it likes.
        keeps: whether to keep the connection instead, for the next request.

    Attributes:
        heads: of all requests so far.
        sent: bytes handed to the kernel so far.
    """

    def __init__(self, script: Callable[[str], Iterable[bytes]], *, keeps: bool = False) -> None:
        self.heads: list[str] = []
        self.sent = 0
        self._script = script
        self._keeps = keeps
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        while head := receive_head(connection):
            with self.lock:
                self.heads.append(head)
            for piece in self._script(head):
                connection.sendall(piece)
                with self.lock:
                    self.sent += len(piece)
            if not self._keeps:
                return


class TunnelProxy(Listener):
    """Connect whoever asks for it, by CONNECT, to one server, whatever the name they ask for.

    Args:
        target: URL of that server.
        authorization: the `Proxy-Authorization` without which it answers 407; None for none.

    Attributes:
        heads: of all requests so far.
        traffic: what went to and fro after them.
    """

    def __init__(self, target: str, authorization: str | None = None) -> None:
        self.heads: list[str] = []
        self.traffic = bytearray()
        self._target = target
        self._authorization = authorization
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        head = receive_head(connection)
        if not head:
            return
        with self.lock:
            self.heads.append(head)
        if self._authorization is not None and f"Proxy-Authorization: {self._authorization}\r\n" not in head:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        target = self.connect(self._target)
        try:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            relay(connection, target, self.traffic)
        finally:
            self.drop(target)


class TlsFront(Listener):
    """Speak TLS, and pass on what is said to a server that does not.

    Args:
        target: URL of that server; or by the common name of the client's certificate, where one is wanted.
        certificate: path of certificate and key.
        authority: path of the certificate that clients' certificates must be signed by; None for no such certificates.
    """

    SCHEME = "https"

    def __init__(self, target: str | Mapping[str, str], certificate: str, authority: str | None = None) -> None:
        self._targets = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        if authority is not None:
            self._context.load_verify_locations(authority)
            self._context.verify_mode = ssl.CERT_REQUIRED
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(HANDSHAKE)
        with self._context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as secure:
            secure.settimeout(None)
            target = self.connect(self._targets if isinstance(self._targets, str) else self._targets[_common_name(secure)])
            with self.lock:
                self._sockets.add(secure)
            try:
                relay(secure, target)
            finally:
                with self.lock:
                    self._sockets.discard(secure)
                self.drop(target)


def _common_name(connection: ssl.SSLSocket) -> str:
    """Return the name in the certificate that the client has shown."""
    subject: Any = (connection.getpeercert() or {})["subject"]
    return next(value for group in subject for name, value in group if name == "commonName")


def receive_head(connection: socket.socket) -> str:
    """Return a request's head; "" if there is none."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(PIECE)
        if not part:
            return ""
        head += part
    return head.decode("latin-1")


def relay(one: socket.socket, other: socket.socket, record: bytearray | None = None) -> None:
    """Pass on what either says to the other, until one of them leaves."""
    other.settimeout(None)
    while True:
        has_more = isinstance(one, ssl.SSLSocket) and one.pending()
        ready = [one] if has_more else select.select([one, other], [], [])[0]
        for each in ready:
            data = each.recv(PIECE)
            if not data:
                return
            if record is not None:
                record += data
            (other if each is one else one).sendall(data)


@dataclass(frozen=True)
class Asked:
    """The range that a head asks for."""

    start: int
    stop: int


def asked(head: str) -> Asked:
    """Return the range that a request's head asks for."""
    match = re.search(r"^Range: bytes=(\d+)-(\d+)\r$", head, re.MULTILINE)
    assert match is not None
    return Asked(int(match[1]), int(match[2]) + 1)


def partial(head: str, content: bytes, *, more: str = "") -> bytes:
    """Return the right answer to the head of a range request, with more lines in its head if there are any."""
    span = asked(head)
    body = content[span.start : span.stop]
    lines = (
        "HTTP/1.1 206 Partial Content",
        f"Content-Range: bytes {span.start}-{span.start + len(body) - 1}/{len(content)}",
        f"Content-Length: {len(body)}",
        'ETag: "raw"',
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1") + body


class Certificates:
    """Make an authority in a folder, and what it has signed; each a path of certificate and key in one file.

    Attributes:
        authority: what clients and servers are to trust.
        server: for 127.0.0.1 and localhost.
        stranger: for another host.
        self_signed: for 127.0.0.1, by nobody but itself.
        alice: of a client.
        bob: of another.
    """

    CONFIG = (
        "[req]\ndistinguished_name=name\nprompt=no\n[name]\n[authority]\nbasicConstraints=critical,CA:TRUE\n"
        "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
        "[here]\nsubjectAltName=IP:127.0.0.1,DNS:localhost\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        "[elsewhere]\nsubjectAltName=DNS:elsewhere.invalid\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        "[alone]\nsubjectAltName=IP:127.0.0.1,DNS:localhost\nsubjectKeyIdentifier=hash\n"
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "config").write_text(self.CONFIG)
        self.authority = self._make("authority", "authority")
        self.server = self._make("server", "here", self.authority)
        self.stranger = self._make("stranger", "elsewhere", self.authority)
        self.self_signed = self._make("self-signed", "alone")
        self.alice = self._make("alice", "here", self.authority)
        self.bob = self._make("bob", "here", self.authority)

    def _make(self, name: str, section: str, authority: str | None = None) -> str:
        key, certificate, both = (self._folder / f"{name}{ending}" for ending in (".key", ".crt", ".pem"))
        command: list[str | Path] = [
            "openssl",
            "req",
            "-x509",
            "-config",
            self._folder / "config",
            "-extensions",
            section,
            "-days",
            "2",
        ]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
        command += ["-keyout", key, "-out", certificate]
        if authority is not None:
            command += ["-CA", authority, "-CAkey", authority]
        subprocess.run(command, check=True, capture_output=True)
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        return str(both)
