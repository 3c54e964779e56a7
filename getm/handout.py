"""Verify an object by its bytes as they are handed out, as long as that is from first to last, in order."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress

from getm import integrity
from getm.engine import Feed
from getm.integrity import Check, Promise

_log = logging.getLogger(__name__)


class Handout:
    """Hashes what one reader or stream hands out.

    There is no lock: whoever hashes takes the `Check` out of its place meanwhile. So a Check always has the first bytes, in
    order, each once, whatever an interrupt, a fork or another thread comes in between of; who finds the place empty is not
    next. That may cost the verification, but never raises a false alarm.

    Args:
        feed: of what is read.
        checksum: as `getm.copy` takes it.

    Raises:
        IntegrityError: the object is empty, and another was promised.
        UsageError: the checksum cannot be used.

    Attributes:
        verified: who promised the digest that all bytes, handed out in order, have; None before that, or if nobody did.
    """

    def __init__(self, feed: Feed, checksum: str | None) -> None:
        promise = integrity.choose(checksum, feed.source.headers)
        self._name = feed.source.name
        self._size = feed.size
        self._promise = promise  # None once there is nothing more to find out
        self._checks: deque[Check] = deque(maxlen=1)  # of what was handed out; empty while that is hashed
        self._is_told = False  # whether what is not hashed was warned of
        self.verified: str | None = None
        if promise is not None and Check(promise, feed.size).is_hopeless:
            self._promise = None
            self._tell(promise)
        self.add(0, b"")

    def add(self, start: int, data: bytes | memoryview) -> None:
        """Take in what is about to be handed out.

        What begins with the first byte begins anew. Otherwise what is not the next ends all, with a warning; and so does
        what another thread hands out at the same time.

        Raises:
            IntegrityError: these are the last bytes, and all of them are not those that were promised; so from then on.
        """
        promise = self._promise
        if promise is None:
            return
        check = None
        with suppress(IndexError):
            check = self._checks.pop()
        if check is None or (check.count not in (start, self._size) and len(data)):
            if start:
                if self.verified is None:  # otherwise another thread has handed out the same, and all else, in order
                    self._promise = None
                    _log.warning("%s: not read in order, so it is not verified", self._name)
                return
            check = Check(promise, self._size, self._name)
        if check.count < self._size:
            check.update(data)
        self._checks.append(check)
        if check.count == self._size:
            is_kept = check.finish()
            if is_kept and self._promise is not None:  # no other thread has given it up
                self.verified = promise.origin
            if not is_kept:
                self._tell(promise)
            self._promise = None

    def _tell(self, promise: Promise) -> None:
        """Warn a caller that it cannot be told whether the promise is kept."""
        if promise.origin == integrity.CALLER:
            _log.warning("%s: not verified, %s", self._name, integrity.UNTOLD)

    def pass_by(self) -> None:
        """Note that something is handed out that is not hashed, because it has no place in any order: one warning."""
        if self._promise is not None and not self._is_told:
            self._is_told = True
            _log.warning("%s: what is read without a position is not verified", self._name)
