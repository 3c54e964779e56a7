"""How a caller spends his time: does he only read, so that his own thread is the quickest to fetch it? Without a clock."""

from __future__ import annotations

import math

from getm.config import MIB

AT_HAND = 512 * MIB
"""Least rate, in bytes a second, at which a caller who does nothing but read is not helped by others, where they could have
no more than two connections: what his own thread fetches is not copied. With two processors 1 GiB took 0.30 s in place of
0.48, with TLS 0.72 in place of 0.89, and half the processor's time."""
BUSY = 1 / 3
"""A caller who is elsewhere for more than this part of the time is helped by others who fetch for him meanwhile."""
LOOK_SECONDS = 0.1
"""So long a caller is looked at for both, twice in a row: whoever has a processor taken from him once is not meant."""


class Caller:
    """Whoever reads, and what his time was spent on since his first read.

    Attributes:
        is_idle: whether nothing speaks against his fetching what he reads himself; once something does, it does for good.
        is_starved: whether bytes came to him slowly, at the last look.
    """

    def __init__(self) -> None:
        self.is_idle = True
        self.is_starved = False
        self._is_doubtful = False  # whether the last look spoke against it
        self._noted = math.inf  # up to when it is known what he did
        self._fetched = 0  # bytes that had come by then
        self._away = 0.0  # seconds that he was elsewhere between his reads, of this look
        self._here = 0.0  # and that his reads took
        self._count = 0  # bytes that came meanwhile

    def begin(self, rate: float) -> None:
        """Note at which rate the first bytes came, in bytes a second."""
        self.is_idle = self.is_idle and rate >= AT_HAND

    def away(self, until: float) -> float | None:
        """Note that he has done something else since the last note; see `here`."""
        self._away += max(0.0, until - self._noted)
        self._noted = until
        return self._look()

    def here(self, until: float, fetched: int) -> float | None:
        """Note that he has been reading since the last note, and how many bytes have come for him so far.

        Returns:
            If that ends his being idle, the rate at which bytes came, in bytes a second.
        """
        self._here += max(0.0, until - self._noted)
        self._count += fetched - self._fetched
        self._noted, self._fetched = until, fetched
        return self._look()

    def _look(self) -> float | None:
        seconds = self._away + self._here
        if seconds <= LOOK_SECONDS:
            return None
        rate, is_busy = self._count / seconds, self._away > BUSY * seconds
        self.is_starved = self._count < AT_HAND * self._here
        was_doubtful, self._is_doubtful = self._is_doubtful, is_busy or self.is_starved
        self._away, self._here, self._count = 0.0, 0.0, 0
        if not (self.is_idle and self._is_doubtful and was_doubtful):
            return None
        self.is_idle = False
        return rate
