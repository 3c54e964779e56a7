"""Waiting at a socket until much has come; over real connections."""

import math
import socket
import threading
import time

import pytest

import getm
from getm.sources import lowwater
from getm.sources.lowwater import MARK_LEAST, MARK_MOST, LowWater
from tests.content import ramp
from tests.servers.fault import Fault

SOON = 20.0  # seconds that are never waited for
MIB = 2**20


@pytest.fixture
def pair():
    """Return a socket that does not block, and the one at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        yield near, far


def mark(sock):
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def soon():
    return time.monotonic() + SOON


def take(near, water, count):
    """Receive so many bytes, waiting for each part."""
    left = count
    while left:
        water.wait(left, soon())
        left -= len(near.recv(min(left, MIB)))


def test_the_mark_rises_where_much_comes_and_never_above_what_is_to_come(pair, monkeypatch):
    monkeypatch.setattr(lowwater, "QUICK_SECONDS", math.inf)  # however busy this machine is
    monkeypatch.setattr(lowwater, "MARK_SECONDS", SOON)
    near, far = pair
    water, marks = LowWater(near), set()
    left = 64 * MIB
    sending = threading.Thread(target=far.sendall, args=(bytes(left),))
    sending.start()
    while left:
        water.wait(left, soon())
        assert mark(near) <= max(left, 1)
        marks.add(mark(near))
        left -= len(near.recv(min(left, MIB)))
    sending.join()
    assert max(marks) == MARK_MOST


@pytest.mark.parametrize("first", [0, 8 * MIB])
def test_a_single_byte_is_heard(pair, first):
    near, far = pair
    water = LowWater(near)
    sending = threading.Thread(target=far.sendall, args=(bytes(first),))
    sending.start()
    take(near, water, first)
    sending.join()
    for _ in range(3):
        far.sendall(b"x")
        water.wait(MIB, soon())
        assert near.recv(MIB) == b"x"


def test_what_comes_slowly_is_not_waited_for_twice(pair):
    near, far = pair
    water = LowWater(near)
    for _ in range(3):
        timer = threading.Timer(0.02, far.sendall, [b"x"])
        timer.start()
        water.wait(MIB, soon())
        timer.join()
        assert near.recv(MIB) == b"x"
        assert mark(near) == 1


def test_the_end_is_heard(pair):
    near, far = pair
    far.shutdown(socket.SHUT_WR)
    LowWater(near).wait(MIB, math.inf)
    assert near.recv(1) == b""


def test_it_ends_in_time(pair):
    near, _ = pair
    water = LowWater(near)
    with pytest.raises(TimeoutError):
        water.wait(MIB, time.monotonic() + 0.01)
    with pytest.raises(TimeoutError):
        water.wait(1, time.monotonic() - 1)


def test_the_socket_is_left_as_it_was(pair):
    near, far = pair
    water = LowWater(near)
    far.sendall(bytes(MARK_LEAST))
    while mark(near) == 1:
        water.wait(MIB, soon())
    water.reset()
    assert mark(near) == 1


@pytest.mark.parametrize("concurrency", [None, 1])
def test_what_came_before_a_pause_is_handed_out(server, concurrency):
    url, release = server.put("/a.bin", 64 * MIB), threading.Event()
    server.fail(Fault(stall=16 * MIB, release=release), when=lambda request: request.start == MIB)
    with getm.open(url, concurrency=concurrency) as file:
        assert ramp(0, 17 * MIB) == file.read(17 * MIB)
        release.set()
        assert ramp(17 * MIB, 64 * MIB) == file.read()


def test_a_connection_is_good_for_a_short_answer_after_a_long_one(server):
    short = server.put("/short.bin", 10)
    for number in range(3):
        assert ramp(0, 32 * MIB) == getm.read(server.put(f"/{number}", 32 * MIB), concurrency=None)
        assert ramp(0, 10) == getm.read(short, concurrency=None, timeout=(5, 5), retries=0)
    assert 1 == len({request.connection for request in server.log})
