"""The block table against a naive one: lists of slots, and sets of pieces."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from getm.engine.blocks import BlockTable
from getm.ranges import ALL_PIECES, PIECES

KEYS = st.sampled_from(["one", "other"])
BLOCKS = st.integers(0, 4)
PIECE_SETS = st.one_of(
    st.just(frozenset(range(PIECES))), st.just(frozenset({0})), st.frozensets(st.integers(0, PIECES - 1), max_size=3)
)


def bits(pieces):
    return sum(1 << piece for piece in pieces)


def everything(table):
    return copy.deepcopy({name: list(value.items()) if name == "_idle" else value for name, value in vars(table).items()})


class Table(RuleBasedStateMachine):
    """What a table is to do, done in the most naive way."""

    @initialize(slots=st.integers(1, 5))
    def build(self, slots):
        self.table = BlockTable(slots)
        self.slots = range(slots)
        self.block = [None] * slots
        self.holds = [0] * slots
        self.present = [set() for _ in self.slots]
        self.unread = [set() for _ in self.slots]
        self.passed = set()
        self.places = {"free": list(self.slots), "cold": [], "idle": [], "ahead": []}  # in each, the first is taken first
        self.seen = list(zip(self.block, self.table.generation, strict=True))

    # What is asked of it.

    @rule(key=KEYS, block=BLOCKS, most=st.integers(0, 5), is_ahead=st.booleans())
    def take(self, key, block, most, is_ahead):
        if (key, block) in self.block:
            self.refused(self.table.take, key, block, most)
            return
        ahead, idle = self.places["ahead"], self.places["idle"]
        stale = ahead if len(ahead) > most else []
        order = [*self.places["cold"], *self.places["free"], *stale[:1], *idle, *([] if is_ahead else ahead)]
        slot = self.table.take(key, block, most, is_ahead=is_ahead)
        assert (order[0] if order else None) == slot
        if slot is not None:
            self.leave(slot)
            self.empty(slot)
            self.block[slot] = (key, block)
            self.holds[slot] = 1

    @rule(data=st.data())
    def hold(self, data):
        slot = data.draw(st.sampled_from(self.slots))
        if self.block[slot] is None and not self.holds[slot]:
            self.refused(self.table.hold, slot)
            return
        self.table.hold(slot)
        self.leave(slot)
        self.holds[slot] += 1

    @rule(data=st.data())
    def release(self, data):
        slot = data.draw(st.sampled_from(self.slots))
        if not self.holds[slot]:
            self.refused(self.table.release, slot)
            return
        self.table.release(slot)
        self.holds[slot] -= 1
        if self.holds[slot]:
            return
        if self.block[slot] is None or not self.present[slot]:
            self.empty(slot)
            self.places["free"].insert(0, slot)
        else:
            self.enter(slot)

    @rule(data=st.data(), pieces=PIECE_SETS)
    def fill(self, data, pieces):
        slot = data.draw(st.sampled_from(self.slots))
        if not self.holds[slot] or self.block[slot] is None:
            self.refused(self.table.fill, slot, bits(pieces))
            return
        new = pieces - self.present[slot]
        assert bits(new) == self.table.fill(slot, bits(pieces))
        self.present[slot] |= new
        self.unread[slot] |= new
        self.passed.discard(slot)

    @rule(data=st.data(), pieces=PIECE_SETS, is_passed=st.booleans())
    def read(self, data, pieces, is_passed):
        slot = data.draw(st.sampled_from(self.slots))
        if self.block[slot] is None:
            self.refused(self.table.read, slot, bits(pieces), is_passed=is_passed)
            return
        new = pieces & self.unread[slot]
        assert len(new) == self.table.read(slot, bits(pieces), is_passed=is_passed)
        self.unread[slot] -= new
        if is_passed:
            self.passed.add(slot)
        if not self.holds[slot]:
            self.leave(slot)
            self.enter(slot)

    @rule(key=KEYS)
    def forget(self, key):
        self.table.forget(key)
        for slot in self.slots:
            if self.block[slot] is not None and self.block[slot][0] == key:
                self.empty(slot)
                if not self.holds[slot]:
                    self.leave(slot)
                    self.places["free"].append(slot)
        # In which order an object's slots become free is nobody's concern, but the table's word is to be kept.
        found = self.table._free[::-1]
        assert sorted(self.places["free"]) == sorted(found)
        self.places["free"] = found

    @rule(data=st.data())
    def vacate(self, data):
        first = data.draw(st.integers(0, len(self.slots)))
        kept = [slot for slot in self.slots if slot < first or self.holds[slot]]
        assert max([first, *(slot + 1 for slot in kept)]) == self.table.vacate(first)
        for slot in self.slots:
            if slot not in kept:
                self.empty(slot)
                self.leave(slot)
                self.places["free"].append(slot)
        self.places["free"].sort()

    @rule()
    def invalidate(self):
        self.table.invalidate()
        for slot in self.slots:
            assert self.table.generation[slot] > self.seen[slot][1]
        self.seen = list(zip(self.block, self.table.generation, strict=True))

    # What is true at any time.

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def every_slot_is_in_exactly_one_place(self):
        states = self.table.states()
        assert list(self.slots) == sorted(slot for slots in states.values() for slot in slots)
        assert {slot for slot in self.slots if self.holds[slot]} == states.pop("held")
        assert {name: set(slots) for name, slots in self.places.items()} == states

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def a_block_is_found_where_it_is(self):
        for key in ("one", "other"):
            found = {block: self.table.find(key, block) for block in range(6)}
            slots = {block: slot for block, slot in found.items() if slot is not None}
            assert {block[1]: slot for slot, block in enumerate(self.block) if block and block[0] == key} == slots
            assert slots == dict(self.table.slots(key))
        assert {block[0] for block in self.block if block} == set(self.table._slots)  # no object is kept without blocks

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def pieces_are_there_and_unread_as_filled_and_read(self):
        assert [bits(pieces) for pieces in self.present] == self.table.present
        assert [bits(pieces) for pieces in self.unread] == self.table._unread
        assert all(self.table.present[slot] == 0 for slot in self.places["free"])

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def generation_tells_blocks_apart(self):
        for slot, (block, generation) in enumerate(self.seen):
            if self.block[slot] != block:
                assert self.table.generation[slot] > generation
            elif block is not None and self.present[slot]:
                assert self.table.generation[slot] >= generation
        self.seen = list(zip(self.block, self.table.generation, strict=True))

    # How.

    def refused(self, call, *args, **options):
        before = everything(self.table)
        with pytest.raises(ValueError, match="slot"):
            call(*args, **options)
        assert before == everything(self.table)

    def empty(self, slot):
        self.block[slot] = None
        self.present[slot].clear()
        self.unread[slot].clear()
        self.passed.discard(slot)

    def leave(self, slot):
        for slots in self.places.values():
            if slot in slots:
                slots.remove(slot)

    def enter(self, slot):
        if slot in self.passed:
            self.places["cold"].insert(0, slot)
        elif self.unread[slot] == self.present[slot]:
            self.places["ahead"].append(slot)
        else:
            self.places["idle"].append(slot)


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_slot_that_holds_nothing_cannot_be_read():
    table = BlockTable(2)
    with pytest.raises(ValueError, match="slot 0 holds no block"):
        table.read(0, 1)
    assert [0, 1] == [table.take("key", block, 1) for block in range(2)]  # it was in two places, and so taken twice


def filled(table, key, blocks, pieces=ALL_PIECES):
    """Fill blocks, one after the other, and return their slots."""
    slots = [table.take(key, block, 6) for block in blocks]
    for slot in slots:
        table.fill(slot, pieces)
        table.release(slot)
    return slots


def test_places_are_looked_through_in_order():
    table = BlockTable(6)
    ahead, second, idle, cold, colder, _ = filled(table, "key", range(6))
    table.read(idle, 1)
    table.read(cold, ALL_PIECES, is_passed=True)
    table.read(colder, ALL_PIECES, is_passed=True)
    table.take("held", 0, 4)  # takes the block passed last
    assert {"held": {colder}, "cold": {cold}, "idle": {idle}, "ahead": {ahead, second, 5}, "free": set()} == table.states()
    assert [cold, idle, ahead, second, 5, None] == [table.take("next", block, 4) for block in range(6)]


def test_stale_read_ahead_goes_before_blocks_that_were_read():
    table = BlockTable(4)
    first, second, third, read = filled(table, "key", range(4))
    table.read(read, 1)
    assert [first, second, read, third] == [table.take("next", block, 1) for block in range(4)]


def test_what_nobody_waits_for_takes_no_place_of_what_was_not_read_yet():
    table = BlockTable(3)
    first, second, read = filled(table, "key", range(3))
    table.read(read, 1)
    assert [read, None] == [table.take("next", block, 2, is_ahead=True) for block in range(2)]
    assert first == table.take("next", 1, 2)  # somebody waits for it
    assert second == table.take("next", 2, 0, is_ahead=True)  # there was too much ahead


def test_a_passed_block_that_more_of_came_to_is_not_cold():
    table = BlockTable(2)
    (slot,) = filled(table, "key", [0], 1)
    table.read(slot, 1, is_passed=True)
    table.hold(slot)
    table.fill(slot, 2)
    table.release(slot)
    assert {slot} == table.states()["idle"]


def test_a_slot_can_be_held_again_though_its_block_is_forgotten():
    """A process was forked while a view on a closed reader's object was held: the view's slot could not be kept."""
    table = BlockTable(1)
    slot = table.take("key", 0, 1)
    table.forget("key")
    table.hold(slot)
    table.release(slot)
    assert table.take("other", 0, 1) is None
    table.release(slot)
    assert slot == table.take("other", 0, 1)


def test_a_slot_whose_block_is_forgotten_while_held_is_free_when_released():
    table = BlockTable(1)
    slot = table.take("key", 0, 1)
    table.fill(slot, 1)
    table.forget("key")
    assert table.find("key", 0) is None
    assert table.take("key", 0, 1) is None
    table.release(slot)
    assert {slot} == table.states()["free"]
