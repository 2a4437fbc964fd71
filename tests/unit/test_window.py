"""The window's arithmetic: never more than it can run or give back, larger while it drains quickly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qworker.worker.window import LIMIT, QUICK_S, SLOW_S, Room


def test_a_new_room_takes_two_tasks_for_each_slot() -> None:
    assert Room(4).room(held=0) == 8


def test_what_is_held_takes_its_room() -> None:
    assert Room(4).room(held=3) == 5
    assert Room(4).room(held=100) == 0


def test_a_window_that_drains_within_20_ms_doubles_the_target() -> None:
    room = Room(2)

    room.drained(4, QUICK_S)

    assert room.target == 8


def test_a_window_smaller_than_half_the_target_teaches_nothing() -> None:
    room = Room(8)

    room.drained(3, 0.001)

    assert room.target == 16


def test_after_a_recall_exactly_what_the_slots_can_start_is_claimed() -> None:
    """Half of a thousand would be claimed again at once, to wait here once more."""
    room = Room(3)
    room.drained(6, QUICK_S)
    room.drained(12, QUICK_S)

    room.recalled()

    assert room.target == 3
    assert room.room(held=3) == 0


def test_a_slow_window_halves_the_target() -> None:
    room = Room(2)
    room.drained(4, QUICK_S)

    room.drained(8, SLOW_S)

    assert room.target == 4


def test_a_fixed_window_never_breathes() -> None:
    room = Room(2, fixed=5)
    room.drained(5, 0.0)
    room.recalled()

    assert room.target == 5


def test_a_window_of_one_claims_one_at_a_time() -> None:
    room = Room(4, fixed=1)

    assert room.wanted(held=0) > 0
    assert room.wanted(held=1) == 0


def test_a_pool_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot, not 0"):
        Room(0)


@given(
    slots=st.integers(1, 200),
    events=st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 2000), st.floats(0, 2))), max_size=60),
    held=st.integers(0, 3000),
)
def test_whatever_happens_the_target_stays_between_the_slots_and_the_limit(slots, events, held) -> None:
    room = Room(slots)
    for event in events:
        if event is None:
            room.recalled()
        else:
            room.drained(*event)

    assert slots <= room.target <= max(LIMIT, slots)
    assert held + room.room(held) <= max(held, room.target)
    # A worker whose slots would run dry always finds a claim worth it.
    assert held >= room.target or held > room.floor or room.wanted(held) > 0
