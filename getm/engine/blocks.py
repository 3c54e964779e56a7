"""Which block is in which slot, and which of its pieces are there: a table without I/O.

A slot is always in exactly one of five places; `take` looks for one in this order:

    cold    its block was passed by a reader of a large object, the last one passed first: its memory is still in the cache
    free    it holds nothing
    stale   the oldest ahead, if there are more ahead than all readers together may have
    idle    its block was read, the least recently read first
    ahead   its block is there but was not read yet, the oldest first; not for what nobody waits for

and one that is held, because a run may write to it or a lease shows it, is not taken at all.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from cachetools import LRUCache

_NONE: Mapping[int, int] = {}

Block = tuple[Hashable, int]
"""Key of an object, number of a block."""


class BlockTable:
    """The slots of one arena.

    Not safe against threads: the engine calls it under its lock. Only `generation` is read without.

    Args:
        slots: how many there are.
    """

    def __init__(self, slots: int) -> None:
        self.generation = [0] * slots  # raised when a slot gets another block; readers look at it without the lock
        self.present = [0] * slots  # bit map of the pieces that are there
        self._unread = [0] * slots  # bit map of the pieces that are there and no byte of which was read
        self._block: list[Block | None] = [None] * slots  # what a slot holds; None if that is nobody's any more
        self._holds = [0] * slots  # runs that may write to a slot, and leases on it
        self._slots: dict[Hashable, dict[int, int]] = {}  # slot by block, by object
        self._passed: set[int] = set()  # slots that are to be cold once nobody holds them
        self._free = list(range(slots - 1, -1, -1))  # the lowest is taken first, the last freed before others
        self._cold: dict[int, None] = {}
        self._idle: LRUCache[int, None] = LRUCache(maxsize=slots)
        self._ahead: dict[int, None] = {}

    def slots(self, key: Hashable) -> Mapping[int, int]:
        """Return the slots of an object's blocks, by their numbers."""
        return self._slots.get(key, _NONE)

    def find(self, key: Hashable, block: int) -> int | None:
        """Return the slot of a block, or None."""
        return self._slots.get(key, _NONE).get(block)

    def take(self, key: Hashable, block: int, ahead: int, *, is_ahead: bool = False) -> int | None:
        """Return a slot for a block that has none, held once and with nothing in it; None if there is none.

        Args:
            key: of an object.
            block: number of its block.
            ahead: how many blocks readers may have ahead of them at most, all together.
            is_ahead: whether nobody waits for this one: then it takes the place of no other that was not read yet, but for
                those that are too many.
        """
        if self.find(key, block) is not None:
            raise ValueError(f"block {block} has a slot already")
        if self._cold:
            slot, _ = self._cold.popitem()
        elif self._free:
            slot = self._free.pop()
        elif self._ahead and (len(self._ahead) > ahead or not (self._idle or is_ahead)):
            slot = next(iter(self._ahead))
            del self._ahead[slot]
        elif self._idle:
            slot, _ = self._idle.popitem()
        else:
            return None
        self._drop(slot)
        self._block[slot] = (key, block)
        self._slots.setdefault(key, {})[block] = slot
        self._holds[slot] = 1
        return slot

    def confine(self, slots: int) -> None:
        """Take only slots below number *slots* from now on, on and above which all are free."""
        self._free = [slot for slot in self._free if slot < slots]

    def hold(self, slot: int) -> None:
        """Keep a slot from being taken, until it is released as often as it is held."""
        if not self._holds[slot]:
            if self._block[slot] is None:
                raise ValueError(f"slot {slot} holds no block")
            self._remove(slot)
        self._holds[slot] += 1

    def release(self, slot: int) -> None:
        """Undo one `take` or `hold`."""
        if not self._holds[slot]:
            raise ValueError(f"slot {slot} is not held")
        self._holds[slot] -= 1
        if self._holds[slot]:
            return
        if self._block[slot] is None or not self.present[slot]:
            self._drop(slot)
            self._free.append(slot)
        else:
            self._put(slot)

    def fill(self, slot: int, pieces: int) -> int:
        """Note that pieces are there; return which of them are new."""
        if not self._holds[slot] or self._block[slot] is None:
            raise ValueError(f"slot {slot} is not held for a block, nothing of one can have been written to it")
        new = pieces & ~self.present[slot]
        self._unread[slot] |= new
        self.present[slot] |= new
        self._passed.discard(slot)
        return new

    def read(self, slot: int, pieces: int, *, is_passed: bool = False) -> int:
        """Note that pieces were read; return how many of them for the first time.

        Args:
            slot: where they are.
            pieces: bit map.
            is_passed: whether the block is not expected to be read again.
        """
        if self._block[slot] is None:
            raise ValueError(f"slot {slot} holds no block")
        new = self._unread[slot] & pieces
        self._unread[slot] ^= new
        if is_passed:
            self._passed.add(slot)
        if not self._holds[slot]:
            self._remove(slot)
            self._put(slot)
        return new.bit_count()

    def forget(self, key: Hashable) -> None:
        """Give up all blocks of an object; slots that are held are free when they are released."""
        for slot in self._slots.pop(key, {}).values():
            if not self._holds[slot]:
                self._remove(slot)
                self._free.append(slot)
            self._clear(slot)

    def vacate(self, slots: int) -> int:
        """Empty all slots from number *slots* on that nobody holds; return the number from which on all are empty."""
        for slot in [slot for slot in (*self._idle, *self._ahead, *self._cold) if slot >= slots]:
            self._remove(slot)
            self._drop(slot)
            self._free.append(slot)
        self._free.sort(reverse=True)
        return max([slots, *(slot + 1 for slot, holds in enumerate(self._holds) if holds)])

    def invalidate(self) -> None:
        """Let nobody who reads without the lock trust any slot any more."""
        self.generation[:] = [generation + 1 for generation in self.generation]

    def states(self) -> dict[str, set[int]]:
        """Return which slots are in which of the five places."""
        return {
            "free": set(self._free),
            "cold": set(self._cold),
            "idle": set(self._idle),
            "ahead": set(self._ahead),
            "held": {slot for slot, holds in enumerate(self._holds) if holds},
        }

    def _put(self, slot: int) -> None:
        """Put a slot that nobody holds where it belongs."""
        if slot in self._passed:
            self._cold[slot] = None
        elif self._unread[slot] == self.present[slot]:
            self._ahead[slot] = None
        else:
            self._idle[slot] = None

    def _remove(self, slot: int) -> None:
        """Take a slot that nobody holds from where it is."""
        self._cold.pop(slot, None)
        self._idle.pop(slot, None)
        self._ahead.pop(slot, None)

    def _drop(self, slot: int) -> None:
        """Take a slot's block from it."""
        old = self._block[slot]
        if old is not None:
            key, block = old
            blocks = self._slots[key]
            del blocks[block]
            if not blocks:
                del self._slots[key]
        self._clear(slot)

    def _clear(self, slot: int) -> None:
        self._block[slot] = None
        self.present[slot] = 0
        self._unread[slot] = 0
        self._passed.discard(slot)
        self.generation[slot] += 1
