"""Requests that the calling thread sends and reads itself: the first of every object, and whatever no worker does.

Nothing here touches what the engine's lock guards; it is called without that lock.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import closing

from getm import buffers
from getm.config import RATE_LEAST, Settings
from getm.engine.feed import Feed, Inline, Silence
from getm.retry import Failure, RequestFailed, pause
from getm.sources.base import Body, Source

HEED_SECONDS = 0.1
"""A pause ends so soon after another thread has closed its source."""

_log = logging.getLogger(__name__)


def first(  # noqa: PLR0913  # a range of an object, and how to ask for it
    source: Source, settings: Settings, start: int, stop: int, refused: Failure | None = None, *, spools: bool = True
) -> tuple[Body, float]:
    """Send a first request until it is answered; return the body, and the seconds to its head.

    Args:
        source: of the object.
        settings: how it is read.
        start: first byte asked for.
        stop: the byte after the last.
        refused: how another request for the object was refused, if that is why this is sent.
        spools: whether what a server without ranges sends is to be read to its end.

    Raises:
        GetmError: the object cannot be had.
    """
    attempt, failure = 0, refused
    deadline = time.monotonic() + settings.deadline
    while True:
        if failure is not None and not source.renew(failure):
            wait = pause(attempt + 1, failure.retry_after, random.random())
            is_late = time.monotonic() + wait > deadline
            is_over = not failure.is_transient or attempt > settings.retries or is_late
            if is_over or not _pause(source, wait):
                raise source.explain(failure).error(source.name, start, stop, attempt)
        attempt += 1
        began = time.monotonic()
        try:
            return source.open(start, stop, spools=spools), time.monotonic() - began
        except RequestFailed as failed:
            failure = failed.failure
            _log.debug("%s", failure.told(source.name, start, stop, attempt))


def _pause(source: Source, seconds: float) -> bool:
    """Wait before another first request; say whether it is still wanted, which may end at any moment."""
    until = time.monotonic() + seconds
    while not source.is_closed:
        left = until - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(left, HEED_SECONDS))
    return False


def first_bytes(source: Source, settings: Settings, body: Body, stop: int) -> bytes:
    """Return the bytes from the first of *body* on up to *stop*, fewer if the object ends before.

    Args:
        source: of the object; it has sent nothing else.
        settings: how it is read.
        body: of the answer to its first request; it is closed.
        stop: the byte after the last.

    Raises:
        GetmError: they cannot be had.
    """
    start = body.answer.start
    data = buffers.buffer(max(0, min(stop, body.answer.version.size) - start))
    count = attempt = 0
    silence = Silence()
    while True:
        before = count
        try:
            with closing(body):
                last = min(body.answer.stop - start, len(data))
                while count < last:
                    count += body.readinto(data[count:last])
        except RequestFailed as failed:
            attempt = 1 if count > before else attempt + 1
            _log.debug("%s", failed.failure.told(source.name, start + count, start + len(data), attempt))
            silence.note(count - before)
            if attempt > settings.retries or silence.seconds > settings.deadline:
                raise failed.failure.error(source.name, start + before, start + len(data), attempt) from failed
        if count >= len(data):
            return bytes(data)
        body, _ = first(source, settings, start + count, start + len(data))


def receive(feed: Feed, inline: Inline, target: memoryview) -> tuple[int, Failure | None]:
    """Fill *target* from an inline's body, sending it first if need be; return how many bytes came, and why not all."""
    count = 0
    try:
        if inline.body is None:
            feed.stats.requests += 1
            began = time.monotonic()
            inline.generation = feed.source.generation
            inline.body = feed.source.send(feed.source.request(inline.position, inline.stop))
            inline.stop = inline.body.answer.stop
            if inline.is_given_up:
                return 0, None
            feed.planner.observe(time.monotonic() - began, None)
        began = time.monotonic()
        least = min(len(target), inline.stop - inline.position)
        while count < least:
            count += inline.body.readinto(target[count:least])
        inline.measured += count
        inline.seconds += time.monotonic() - began
        if inline.measured >= RATE_LEAST:  # what comes first may have been on its way for long
            feed.planner.observe(None, inline.measured / max(inline.seconds, 1e-6))
            inline.measured, inline.seconds = 0, 0.0
    except RequestFailed as failed:
        return count, failed.failure
    return count, None
