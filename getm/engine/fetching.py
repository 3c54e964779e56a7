"""How bytes get to those who wait for them: brought by workers, or fetched by the thread that waits.

Where no worker or no slot is to be had, the calling thread fetches its bytes itself, so no read can starve.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator

from getm import buffers
from getm.config import FETCH_LEAST, MIB, paced_length
from getm.engine.core import Core
from getm.engine.feed import Demand, Feed, Inline, Saving, Silence
from getm.engine.hub import CLOSED, Hub, Outside, Then
from getm.engine.inline import first, receive
from getm.errors import TransferTimeout
from getm.ranges import total
from getm.retry import Failure, Trouble

WAIT_MOST = 1.0
"""Longest single wait in seconds; then everything is looked at again."""
WAIT_RENEWING = 0.05
"""Likewise, while another thread finds out where to ask: workers, which may be what is waited for, do not hear of it."""
SAVE_BUFFER = MIB
"""Bytes that the calling thread receives and writes at once, where it copies to a file itself."""


class Fetching:
    """Waits for bytes of readers, and does meanwhile what has to be done for them.

    Args:
        hub: where it is decided what that is.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def satisfy(self, feed: Feed, demand: Demand) -> None:
        """Wait until a demand is met, doing what has to be done for it."""
        try:
            then: Then | None = None
            is_met = self._hub.turn(feed, functools.partial(self._begin, feed, demand))
            while not is_met:
                outside = self._hub.turn(feed, functools.partial(self._look, feed, demand, then))
                if outside is None:
                    break
                then = outside()
        except BaseException:
            self._hub.quit(feed, demand)
            raise
        error, demand.error = demand.error, None
        if error is not None:
            demand.view = demand.lease = None  # whoever keeps the error keeps the demand
            try:
                raise error
            finally:
                del error  # otherwise its traceback would hold it, and the caller's memory, until the collector comes

    def save(self, feed: Feed) -> Iterator[int]:
        """Fill the file that *feed* was attached with, and yield how many bytes are still missing whenever that changes.

        Raises:
            GetmError: the bytes cannot be had.
            OSError: the file cannot be written.
        """
        saving = feed.saving
        if saving is None:
            raise ValueError("attached without a descriptor")
        saving.silence = Silence()
        missing = -1
        then: Then | None = None
        try:
            while missing and saving.error is None:
                outside = self._hub.turn(feed, functools.partial(self._look_saving, feed, saving, then))
                missing = total(saving.missing)
                yield missing
                then = None if outside is None else outside()
            if then is not None:  # another thread has set the error while this one was outside
                self._hub.turn(feed, then)
        except BaseException:
            self._hub.quit(feed, saving)
            raise
        if saving.error is not None:
            raise saving.error

    def _begin(self, feed: Feed, demand: Demand, core: Core) -> bool:
        """Enter a demand, unless it can be met at once; say whether it was."""
        if feed.is_closed:
            demand.error = ValueError(CLOSED)
        feed.planner.read(demand.start, demand.stop)
        if feed.demands:
            feed.planner.share()
        core.collect()
        core.memory.serve(feed, demand)
        if demand.is_done:
            self.hit(core, feed, demand.began)
            return True
        feed.planner.away(demand.began)
        feed.stats.misses += 1
        feed.planner.waited()
        feed.demands.append(demand)
        return False

    def hit(self, core: Core, feed: Feed, began: float) -> None:
        """Note that a read found all its bytes there."""
        feed.stats.hits += 1
        feed.planner.away(began)
        feed.planner.here(time.monotonic(), feed.stats.fetched)
        if not feed.is_closed:
            core.dispatch(feed)

    def _look(self, feed: Feed, demand: Demand, then: Then | None, core: Core) -> Outside | None:
        """Account for what was done outside; return what is to be done there next, or None if the demand is met."""
        outside = then(core) if then is not None else None
        if outside is not None:
            return outside
        core.collect()
        core.memory.serve(feed, demand)
        feed.planner.here(time.monotonic(), feed.stats.fetched)
        silence = demand.silence.seconds
        if not demand.is_done and silence > feed.settings.deadline:
            text = f"{feed.source.name}, bytes {demand.position}-{demand.stop - 1}: next to nothing came for {silence:.0f} s"
            demand.error = TransferTimeout(text, url=feed.source.name, start=demand.position, stop=demand.stop)
        if not demand.is_done:
            if self._is_to_renew(feed):
                return self._renew(core, feed, demand, demand.position)
            core.dispatch(feed)
        if not demand.is_done:
            return self._fetch_here(core, feed, demand)
        feed.demands.remove(demand)
        feed.stats.waited += time.monotonic() - demand.began
        if not feed.is_closed:
            core.dispatch(feed)
        return None

    def _look_saving(self, feed: Feed, saving: Saving, then: Then | None, core: Core) -> Outside | None:
        """Likewise for a copy."""
        if then is not None:
            then(core)
        core.collect()
        silence = saving.silence.seconds
        if not saving.is_done and silence > feed.settings.deadline:
            text = f"{feed.source.name}: next to nothing came for {silence:.0f} s"
            saving.error = TransferTimeout(text, url=feed.source.name)
        if saving.is_done:
            return None
        if self._is_to_renew(feed):
            return self._renew(core, feed, saving, saving.missing[0][0])
        core.dispatch_saving(feed, saving)
        return self._save_here(core, feed, saving)

    def _fetch_here(self, core: Core, feed: Feed, demand: Demand) -> Outside:
        """Return how to fetch bytes of a demand in the calling thread, if no worker will; how to wait if one will."""
        for inline in feed.inlines:
            if inline.position <= demand.position < inline.upto:
                if inline.owner is not None:
                    return self._hub.wait(core, demand, WAIT_MOST)
                break
        else:
            if core.is_full(feed):
                core.give_up_inline(feed)
            if core.is_coming(feed, demand.position):
                return self._hub.wait(core, demand, WAIT_MOST)
            paused = core.troubles.paused(feed, demand.position)
            if paused:
                return self._hub.wait(core, demand, min(paused, WAIT_MOST))
            inline = core.inline(feed, demand)
        return self._receive(core, feed, inline, demand, is_rest=False)

    def _receive(self, core: Core, feed: Feed, inline: Inline, demand: Demand, *, is_rest: bool) -> Outside:
        """Return how to receive what of an inline goes to one place."""
        target = core.targets.find(feed, inline, demand, is_alone=core.is_alone(feed))
        inline.owner, inline.target = demand, target
        demand.is_direct = target.is_direct

        def outside() -> Then:
            count, failure = receive(feed, inline, target.memory)
            return functools.partial(received, count, failure)

        def received(count: int, failure: Failure | None, now: Core) -> Outside | None:
            start, inline.owner, inline.target, demand.is_direct = inline.position, None, None, False
            self._hub.open_gate()
            if now is not core or inline not in feed.inlines:  # given up meanwhile
                inline.close()
                if now is core:
                    core.targets.leave(feed, start, target)
                return None
            core.targets.received(feed, inline, demand, target, count)
            self._settle(core, feed, inline, failure)
            core.targets.leave(feed, start, target)
            if is_rest or inline not in feed.inlines or inline.stop - inline.position > FETCH_LEAST:
                return None
            return self._receive(core, feed, inline, demand, is_rest=True)  # in the next block: that keeps the connection

        return outside

    def _save_here(self, core: Core, feed: Feed, saving: Saving) -> Outside | None:
        """Return how to save some bytes in the calling thread, if no worker will; how to wait if one will."""
        if saving.error is not None:
            return None
        if not feed.inlines:
            gaps = core.unsaved(feed, saving)
            if feed.runs or not gaps:
                return self._hub.wait(core, saving, WAIT_MOST)
            paused = core.troubles.paused(feed, gaps[0][0])
            if paused:
                return self._hub.wait(core, saving, min(paused, WAIT_MOST))
            feed.inlines.append(Inline(*gaps[0]))
        inline = feed.inlines[0]
        inline.owner = saving
        length = min(SAVE_BUFFER, inline.stop - inline.position, paced_length(saving.pace))
        buffer = buffers.buffer(length)

        def outside() -> Then:
            began = time.monotonic()
            count, failure = receive(feed, inline, buffer)
            written = count if inline.body is not None and inline.body.answer.is_saved else 0
            while written < count:
                written += os.pwrite(saving.descriptor, buffer[written:count], inline.position + written)
            early = began + count / saving.pace - time.monotonic()
            if early > 0:
                time.sleep(early)
            return functools.partial(saved, count, failure)

        def saved(count: int, failure: Failure | None, now: Core) -> None:
            inline.owner = None
            saving.saved(inline.position, inline.position + count)
            inline.position += count
            inline.is_at_end = inline.position >= inline.stop
            saving.silence.note(count)
            feed.stats.fetched += count
            if now is core and inline in feed.inlines:
                self._settle(core, feed, inline, failure)
            else:
                inline.close()

        return outside

    def _settle(self, core: Core, feed: Feed, inline: Inline, failure: Failure | None) -> None:
        """Take leave of an inline that is at its end, one way or another."""
        if failure is None and not inline.is_at_end:
            return
        feed.inlines.remove(inline)
        inline.close()
        if failure is not None:
            core.troubles.failed(feed, inline, failure)

    def _is_to_renew(self, feed: Feed) -> bool:
        """Say whether where to ask is to be found out anew, because a server refused or the URL is about to expire."""
        if feed.refused is None and time.time() >= feed.source.due and feed.source.is_renewable:
            feed.refused = Failure(Trouble.EXPIRED, "the URL is about to expire")
        return feed.refused is not None

    def _renew(self, core: Core, feed: Feed, waiter: Demand | Saving, position: int) -> Outside:
        """Return how to find out anew where to ask; or how to wait while another thread does."""
        if feed.renewer is not None:
            return self._hub.wait(core, waiter, WAIT_RENEWING)
        feed.renewer, refused = waiter, feed.refused

        def outside() -> Then:
            try:
                body, _ = first(feed.source, feed.settings, position, position + 1, refused)
                body.close()
            except Exception as error:  # noqa: BLE001  # it is that of all who wait
                return functools.partial(self._renewed, feed, waiter, error)
            return functools.partial(self._renewed, feed, waiter, None)

        return outside

    def _renewed(self, feed: Feed, waiter: Demand | Saving, error: Exception | None, _core: Core) -> None:
        feed.renewer, feed.refused = None, None
        feed.stats.requests += 1
        for each in (waiter, *feed.demands):
            if not each.is_done:
                each.error = error
        self._hub.open_gate()
