"""A scripted HTTP/1.1 range server: serves objects, misbehaves as it is told, records what it was asked.

    with FaultServer() as server:
        url = server.put("/a.bin", 10 * 2**20)                 # a virtual object: its content is ramp(0, size)
        server.fail(Fault(status=503), times=2)                # the next two requests
        server.fail(Fault(cut=1000), when=lambda request: request.covers(5_000_000))
        ...
        assert [(0, 2**20)] == [(request.start, request.stop) for request in server.log]

One thread accepts, and each connection has one of its own. What they share belongs to the server, is guarded by its one
condition, and every change of it is notified: tests wait for events, not for time.
"""

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import parse_headers
from io import BufferedReader
from typing import Self
from urllib.parse import urlsplit

from tests.servers.answer import Answer, Fault, Object, Request, asked, decide

__all__ = ["Fault", "FaultServer", "Request"]

PIECE = 64 * 1024  # bytes sent at once
TICK = 0.01  # a pause notices within this time that it is over, or the client gone


class FaultServer:
    """Serve objects on a free port of 127.0.0.1 until closed; a context manager.

    Attributes:
        url: of the server, without a slash at its end.
    """

    def __init__(self):
        self._changed = threading.Condition()  # guards the six below, and is notified when they change
        self._objects: dict[str, Object] = {}
        self._rules: list[_Rule] = []
        self._log: list[Request] = []
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._connections = 0
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, name=self.url)
        self._acceptor.start()

    def put(self, path: str, content: int | bytes, headers: Mapping[str, str | None] | None = None) -> str:
        """Serve an object at *path*; in place of one that is there, as its next version.

        Each version has its own ETag, Last-Modified and bytes. An answer under way keeps to its own.

        Args:
            path: with its slash, and quoted as in a URL.
            content: the bytes, or the size of a virtual object of ``ramp(0, size, seed=version)``, where the first
                version is 0.
            headers: sent with every answer, or where None not sent: ``{"ETag": None, "Last-Modified": None}``.

        Returns:
            The object's URL.
        """
        with self._changed:
            version = self._objects[path].version + 1 if path in self._objects else 0
            self._objects[path] = Object(content, version, headers or {})
        return self.url + path

    def fail(
        self,
        fault: Fault | Callable[[Request], Fault | None],
        *,
        when: Callable[[Request], bool] = lambda _: True,
        times: int | None = 1,
    ) -> None:
        """Answer requests with *fault*; the first rule that applies wins.

        Args:
            fault: what to do; or what decides it, where None leaves the request to the next rule. It may call `put`.
            when: the requests it is for.
            times: how often; None for ever.
        """
        with self._changed:
            self._rules.append(_Rule(fault, when, times))

    def heal(self) -> None:
        """Forget every fault that was still to come."""
        with self._changed:
            self._rules.clear()

    @property
    def log(self) -> list[Request]:
        """Every request so far, in order of arrival."""
        with self._changed:
            return list(self._log)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._connections

    def wait_for(self, condition: Callable[[list[Request]], bool], timeout: float = 10.0) -> list[Request]:
        """Wait until *condition* holds for the log, and return the log.

        Raises:
            AssertionError: it did not within *timeout* seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._log), timeout):
                raise AssertionError(f"not within {timeout} seconds; the log: {self._log}")
            return list(self._log)

    def close(self) -> None:
        """Break every connection and end every thread."""
        self._closing.set()
        if self._acceptor.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
        self._listener.close()
        with self._changed:
            for connection in self._sockets:
                with contextlib.suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)
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
                if self._closing.is_set():
                    return
                raise
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                thread = threading.Thread(
                    target=self._serve, args=(connection, self._connections), name=f"{self.url} #{self._connections}"
                )
                self._connections += 1
                self._sockets.add(connection)
                self._threads.append(thread)
                self._changed.notify_all()
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        """Answer the requests of one connection until one side ends it."""
        with connection:
            with contextlib.suppress(ConnectionError), connection.makefile("rb") as stream:
                while (request := self._receive(stream, number)) and self._answer(connection, request):
                    pass
            with self._changed:
                self._sockets.remove(connection)  # before it closes: close() shuts down only what is open

    def _receive(self, stream: BufferedReader, number: int) -> Request | None:
        """Read a request's head and record it; None at the end of the connection."""
        line = stream.readline().decode("latin-1").split()
        if not line:
            return None
        method, target, _ = line
        headers = parse_headers(stream)
        url = urlsplit(target)  # of a proxy's request, too
        with self._changed:
            served = self._objects.get(url.path)
            start, stop = asked(headers["Range"], served.size if served else 0)
            request = Request(len(self._log), number, method, url.path, url.query, headers, start, stop, time.monotonic())
            self._log.append(request)
            self._changed.notify_all()
        return request

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        """Answer one request, record how it went, and tell whether the connection may be used again."""
        with self._changed:
            fault = next((fault for rule in self._rules if (fault := rule.apply(request))), Fault())
            answer = decide(self._objects.get(request.path), request, fault)
        stop = min(limit for limit in (answer.length, fault.cut, fault.reset) if limit is not None)
        finished = None
        try:
            self._pause(connection, fault.delay)
            if fault.drop:
                return False
            finished = self._send(connection, request, answer, fault, stop)
            if stop == fault.reset:
                self._await_delivery(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except ConnectionError:
            self._note(request, gone=not self._closing.is_set())
            return False
        else:
            return answer.keeps_connection and not fault.hang_up and stop not in {fault.cut, fault.reset}
        finally:
            self._note(request, finished=finished or time.monotonic())

    def _send(self, connection: socket.socket, request: Request, answer: Answer, fault: Fault, stop: int) -> float:
        """Send an answer, its body as far as *stop*; return a time just before its last bytes went out."""
        finished = time.monotonic()
        connection.sendall(answer.head)
        self._note(request, status=answer.status)
        sent = 0
        while True:
            if sent == fault.stall:
                self._pause(connection, fault.release)
            if sent == stop:
                break
            piece = answer.read(sent, _next_stop(sent, stop, fault))
            if fault.pace:
                self._pause(connection, len(piece) / fault.pace)
            finished = time.monotonic()
            connection.sendall(answer.framed(piece))
            sent += len(piece)
            self._note(request, sent=sent)
        if stop not in {fault.cut, fault.reset}:
            connection.sendall(answer.tail)
        return finished

    def _note(self, request: Request, **facts: object) -> None:
        with self._changed:
            self._log[request.index] = replace(self._log[request.index], **facts)
            self._changed.notify_all()

    def _pause(self, connection: socket.socket, until: float | threading.Event | None) -> None:
        """Wait: seconds, for an event, or for ever.

        Raises:
            ConnectionAbortedError: the client left meanwhile, or the server closes.
        """
        begun = time.monotonic()
        tick = min(TICK, until) if isinstance(until, int | float) else TICK
        left = select.poll()
        left.register(connection, select.POLLRDHUP)  # a request that waits in line is no reason to wake
        while not self._closing.is_set():
            if isinstance(until, threading.Event):
                if until.is_set():
                    return
            elif until is not None and time.monotonic() - begun >= until:
                return
            if left.poll(tick * 1000):
                raise ConnectionAbortedError("the client left")
        raise ConnectionAbortedError("the server closes")

    def _await_delivery(self, connection: socket.socket) -> None:
        """Wait until the client's machine has every byte sent, as a reset destroys those still on their way."""
        unsent = bytearray(4)
        while fcntl.ioctl(connection, termios.TIOCOUTQ, unsent) == 0 and any(unsent):
            self._pause(connection, 0.001)


@dataclass
class _Rule:
    """When a fault happens, and how often it still will."""

    fault: Fault | Callable[[Request], Fault | None]
    when: Callable[[Request], bool]
    times: int | None

    def apply(self, request: Request) -> Fault | None:
        if self.times == 0 or not self.when(request):
            return None
        fault = self.fault(request) if callable(self.fault) else self.fault
        if fault is not None and self.times is not None:
            self.times -= 1
        return fault


def _next_stop(sent: int, stop: int, fault: Fault) -> int:
    """Return how far to send at once."""
    piece = PIECE if fault.pace is None else min(PIECE, max(1, int(fault.pace * 2 * TICK)))
    stop = min(stop, sent + piece)
    return min(stop, fault.stall) if fault.stall is not None and fault.stall > sent else stop
