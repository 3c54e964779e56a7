"""Bodies that come by TLS: read as they come, bounded in time, over connections that are used again."""

import select
import ssl
import threading

import pytest

import getm
from tests.content import assert_ramp
from tests.servers.fault import Fault
from tests.servers.sockets import Listener, TlsFront
from tests.threads import in_thread

MIB = 2**20
SIZE = 3 * MIB + 12_345
EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4])


class Dripping(Listener):
    """Pass on all of a connection; but while it drips, only some bytes now and then of a body.

    Args:
        target: URL of the server.
    """

    def __init__(self, target):
        self._target = target
        self.drips = False
        self._over = threading.Event()
        super().__init__()

    def serve(self, connection):
        target = self.connect(self._target)
        try:
            while self._pass_on(connection, target):
                pass
        finally:
            self.drop(target)

    def _pass_on(self, client, target):
        """Pass on what is said until the client says something; tell whether both are there still."""
        count = 0
        while True:
            is_slow = self.drips and count > 5_000  # after a handshake, and the head of an answer
            if client in select.select([client, target], [], [])[0]:
                data = client.recv(4096)
                target.sendall(data)
                return data
            data = target.recv(4 if is_slow else 4096)
            if not data:
                return data
            client.sendall(data)
            count += len(data)
            if is_slow:
                self._over.wait(0.05)


@pytest.fixture
def url(server, certificates, monkeypatch):
    """Serve an object by TLS, to who trusts its authority."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.authority)
    server.put("/a.bin", SIZE)
    with TlsFront(server.url, certificates.server) as front:
        yield front.url + "/a.bin"


def beyond(start):
    """Return what tells requests that begin there or later."""
    return lambda request: request.start >= start


@EVERY
def test_a_body_that_comes_in_small_parts_is_waited_for(server, url, new_engine, concurrency):
    server.fail(Fault(pace=4 * MIB), times=None)  # the server sends a part in each pause that it makes
    with getm.open(url, concurrency=concurrency, engine=new_engine()) as file:
        assert_ramp(file.read(), 0)
        assert SIZE == file.tell()


@EVERY
@pytest.mark.parametrize("cut", [0, 1, 16_384, 100_001])
def test_a_body_that_is_cut_is_gone_on_with(server, url, new_engine, concurrency, cut):
    server.fail(Fault(cut=cut), when=lambda request: request.stop - request.start > cut, times=3)
    with getm.open(url, concurrency=concurrency, engine=new_engine()) as file:
        assert_ramp(file.read(), 0)


@EVERY
def test_a_body_that_stalls_is_gone_on_with(server, url, new_engine, concurrency):
    server.fail(Fault(stall=70_000), times=2)
    with getm.open(url, concurrency=concurrency, engine=new_engine(), timeout=(5, 0.2)) as file:
        assert_ramp(file.read(), 0)


@EVERY
def test_a_body_that_always_stalls_is_an_error(server, url, new_engine, concurrency):
    with getm.open(url, concurrency=concurrency, engine=new_engine(), timeout=(5, 0.1), retries=1) as file:
        server.fail(Fault(stall=0), when=beyond(MIB), times=None)
        with pytest.raises(getm.TransferTimeout):
            file.read_at(2 * MIB, 100_000)
        server.heal()
        assert_ramp(file.read_at(2 * MIB, 100_000), 2 * MIB)


@EVERY
def test_a_record_that_drips_is_an_error(url, new_engine, concurrency):
    with Dripping(url) as front:
        address = front.url.replace("http", "https") + "/a.bin"
        with getm.open(address, concurrency=concurrency, engine=new_engine(), timeout=(5, 0.3), retries=1) as file:
            front.drips = True
            with pytest.raises(getm.TransferTimeout):
                file.read_at(2 * MIB, 100_000)
            front.drips = False
            assert_ramp(file.read_at(2 * MIB, 100_000), 2 * MIB)


@EVERY
def test_closing_ends_the_wait_for_a_body(server, url, new_engine, concurrency):
    file = getm.open(url, concurrency=concurrency, engine=new_engine())
    server.fail(Fault(stall=100_000), when=beyond(MIB), times=None)
    read = in_thread(file.read_at, 2 * MIB, 200_000)
    server.wait_for(lambda log: any(request.sent == 100_000 for request in log))
    file.close()
    with pytest.raises(ValueError, match="closed"):
        read()


def test_a_connection_is_used_again_and_waits_again(server, url, monkeypatch):
    late, waits = threading.Event(), []

    class Watched(ssl.SSLSocket):
        def sendall(self, data, flags=0):
            if not self.server_side:
                waits.append(self.gettimeout())
            super().sendall(data, flags)

    monkeypatch.setattr(ssl.SSLContext, "sslsocket_class", Watched)
    with getm.open(url, concurrency=None, timeout=(5, 7)) as file:
        file.read_at(0, MIB)
        server.fail(Fault(delay=late))
        read = in_thread(file.read_at, 2 * MIB, 100_000)
        server.wait_for(lambda log: log[-1].start >= 2 * MIB)
        assert read.is_waiting()
        late.set()
        assert_ramp(read(), 2 * MIB)
    assert 1 == len({request.connection for request in server.log})
    assert waits == [5.0] * len(server.log)  # to send, too
