"""What could not be had: when it may be asked for again, and whose error it is."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Hashable, Mapping

from getm.engine.feed import Attempt, Feed, Inline, Object, Run
from getm.engine.pool import Worker
from getm.ranges import floor
from getm.retry import Failure, Trouble, pause

DEATHS_MOST = 5
DEATHS_SECONDS = 60.0
"""So often may workers die in the middle of their work in so many seconds; with the next one somebody must look."""
DEATH_SECONDS = 0.25
"""Workers of one age that die within so many seconds have died once: of one `kill` of them all perhaps."""

_log = logging.getLogger(__name__)


class Troubles:
    """Failures of requests and deaths of workers, of one core.

    Args:
        objects: all that is read, by key; it changes.
    """

    def __init__(self, objects: Mapping[Hashable, Object]) -> None:
        self._objects = objects
        self._deaths: deque[float] = deque()  # when workers died in the middle of their work, of late
        self._holds: dict[str, float] = {}  # by host: when it may be asked again, at its own wish

    def failed(self, feed: Feed, request: Run | Inline, failure: Failure) -> None:
        """Note that what a request has not brought could not be had: to be tried again later, or an error.

        The error is for those who were waiting when the request was sent. To others it tells how the server was before;
        they ask for themselves.

        Args:
            feed: whose request it was.
            request: the one.
            failure: why.
        """
        position, stop = request.position, request.stop
        attempt = feed.attempts.get(position)
        count = 1 if attempt is None else attempt.count + 1
        _log.debug("%s", failure.told(feed.source.name, position, stop, count))
        if failure.is_refusal and feed.source.is_renewable and count <= max(1, feed.settings.retries):
            feed.attempts[position] = Attempt(count, 0.0)
            if request.generation == feed.source.generation:
                feed.refused = failure
            return
        if failure.is_transient and count <= feed.settings.retries:
            now = time.monotonic()
            feed.attempts[position] = Attempt(count, now + pause(count + 1, failure.retry_after, random.random()))
            if failure.retry_after is not None:
                self._hold(feed, failure.status, now + pause(count + 1, failure.retry_after, 0.0))
            return
        failure = feed.source.explain(failure)
        feed.attempts[position] = Attempt(0, 0.0)  # not fetched ahead again before a caller has had it
        if feed.saving is not None:
            feed.saving.error = failure.error(feed.source.name, position, stop, count)
        for other in feed.object.feeds:
            is_patient = failure.is_transient and count <= other.settings.retries
            if other is not feed and (is_patient or (failure.is_refusal and other.source.is_renewable)):
                continue  # these ask for themselves
            for demand in other.demands:
                start, last = max(position, demand.position), min(stop, demand.stop)
                if start < last and demand.began <= request.asked and not demand.is_done:
                    demand.error = failure.error(other.source.name, start, demand.stop, count)

    def paused(self, feed: Feed, offset: int) -> float:
        """Return the seconds until a byte may be asked for again."""
        whole = offset if feed.saving is not None else floor(offset, feed.piece)  # a copy has no pieces
        attempt = feed.attempts.get(whole) or feed.attempts.get(offset)
        return max(self.held(feed), 0.0 if attempt is None else attempt.not_before - time.monotonic())

    def held(self, feed: Feed) -> float:
        """Return the seconds until a server may be asked again for anything of a reader's object."""
        return max(0.0, max(feed.object.not_before, self._holds.get(feed.host, 0.0)) - time.monotonic())

    def death(self, worker: Worker) -> Failure | None:
        """Return what it means that a worker has died in the middle of its work: another try, but not for ever.

        One that never came up has not begun; whether others are to be tried is the pool's.
        """
        if worker.pid is None:
            return None
        now = time.monotonic()
        if not self._deaths or now - self._deaths[-1] > DEATH_SECONDS or worker.born > self._deaths[-1]:
            self._deaths.append(now)
        while self._deaths[0] < now - DEATHS_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) <= DEATHS_MOST:
            return Failure(Trouble.WORKER, f"background process {worker.pid} ended in the middle of its work")
        seconds = now - self._deaths[0]
        text = f"background processes ended in the middle of their work {len(self._deaths)} times in {seconds:.0f} s"
        return Failure(Trouble.WORKERS, text + ": are they killed, for want of memory perhaps?")

    def _hold(self, feed: Feed, status: int | None, until: float) -> None:
        """Ask for nothing more of an object as long as its server wishes.

        A 429 speaks for its whole host, and so does a 503 that two objects were answered with.
        """
        feed.object.not_before = until
        others = [
            one for one in self._objects.values() if one is not feed.object and feed.host in {f.host for f in one.feeds}
        ]
        is_of_all = status == 503 and any(one.not_before > time.monotonic() for one in others)
        if status == 429 or is_of_all:
            self._holds[feed.host] = max(until, self._holds.get(feed.host, 0.0))
