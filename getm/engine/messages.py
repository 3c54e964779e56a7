"""What the calling process and its workers say to each other: frozen values, one a packet.

A packet is a pickle on a private socket pair between processes of one user and one program; nothing else is ever read
from it. Offsets are absolute in the object, addresses are bytes from the start of the arena.
"""

from __future__ import annotations

import math
import pickle
from typing import NamedTuple

from getm.retry import Failure
from getm.sources.base import Request

PACKET_MOST = 192 * 1024
"""Longest packet in bytes: below the default send buffer of a socket, 208 KiB."""


class Segment(NamedTuple):
    """Where the bytes `[start, stop)` of an object go.

    Attributes:
        start: first byte.
        stop: the byte after the last.
        address: place of the first byte in the arena; None if the bytes are there already and are thrown away.
    """

    start: int
    stop: int
    address: int | None


class Fetch(NamedTuple):
    """To a worker: send this request, fill what is granted, report.

    Attributes:
        run: number of the run.
        request: ready to be sent.
        segments: the first grant.
        awaited: the byte before which somebody waits for all, as in `Report`; 0 if nobody does.
        to_file: whether the bytes go to the descriptor that came with this packet, at their own offsets, without grants.
        pace: bytes a second, at most, that go to a file.
    """

    run: int
    request: Request
    segments: tuple[Segment, ...] = ()
    awaited: int = 0
    to_file: bool = False
    pace: float = math.inf


class Grant(NamedTuple):
    """To a worker: more places for the run under way; they adjoin what was granted before."""

    run: int
    segments: tuple[Segment, ...]


class Report(NamedTuple):
    """To a worker: somebody waits for the bytes of this run before *stop*.

    It is to say at once how far it is, again when these have come, and often from then on.
    """

    run: int
    stop: int


class Cancel(NamedTuple):
    """To a worker: nobody wants the rest of this run."""

    run: int


class Hello(NamedTuple):
    """From a worker, first: it is there."""

    pid: int


class Started(NamedTuple):
    """From a worker: an answer that can be used has begun.

    Attributes:
        run: number of the run.
        stop: where its bytes end; before the stop asked for if the server sends less.
        seconds: from sending the request to the head of the answer.
    """

    run: int
    stop: int
    seconds: float


class Filled(NamedTuple):
    """From a worker: all bytes of the run before *position* are in their places, after *seconds* spent on the body."""

    run: int
    position: int
    seconds: float


class Ended(NamedTuple):
    """From a worker, last of a run: it asks for nothing more and writes nothing more.

    Attributes:
        run: number of the run.
        position: all bytes before it are in their places.
        seconds: spent waiting for and reading the body; waiting for grants does not count.
        failure: why it ended before its stop; None if it is whole, was cancelled, or the server sent less than was asked.
    """

    run: int
    position: int
    seconds: float
    failure: Failure | None = None


class Bye(NamedTuple):
    """From a worker: it had nothing to do for long and ends."""


ToWorker = Fetch | Grant | Report | Cancel
FromWorker = Hello | Started | Filled | Ended | Bye


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return the packet of one message."""
    return pickle.dumps(message, protocol=5)


def decode_to_worker(packet: bytes) -> ToWorker:
    """Return the message of a packet that the calling process sent."""
    message: ToWorker = pickle.loads(packet)  # noqa: S301  our own packet on a private socket
    return message


def decode_from_worker(packet: bytes) -> FromWorker:
    """Return the message of a packet that a worker sent."""
    message: FromWorker = pickle.loads(packet)  # noqa: S301  our own packet on a private socket
    return message
