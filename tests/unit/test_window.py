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

    room.drained(4, QUICK_S, 0.0)

    assert room.target == 8


def test_short_tasks_that_wait_for_processors_are_short_all_the_same() -> None:
    room = Room(2)
    room.recalled()

    room.drained(2, 0.1, ran_s=0.001)

    assert room.target == 4


def test_tasks_that_keep_the_slots_busy_for_longer_do_not_ask_for_more_of_them() -> None:
    room = Room(100)

    room.drained(200, 0.1, ran_s=200 * 0.05)  # of 50 ms, two in each slot
    room.drained(100, 0.05, ran_s=100 * 0.05)

    assert room.target == 200


def test_few_long_tasks_are_not_taken_for_many_short_ones() -> None:
    room = Room(100)
    room.recalled()

    room.drained(50, 0.03, ran_s=50 * 0.03)  # half of the slots had nothing to do

    assert room.target == 100


def test_a_window_smaller_than_half_the_target_teaches_nothing() -> None:
    room = Room(8)

    room.drained(3, 0.001, 0.0)

    assert room.target == 16


def test_after_a_recall_exactly_what_the_slots_can_start_is_claimed() -> None:
    """Half of a thousand would be claimed again at once, to wait here once more."""
    room = Room(3)
    room.drained(6, QUICK_S, 0.0)
    room.drained(12, QUICK_S, 0.0)

    room.recalled()

    assert room.target == 3
    assert room.room(held=3) == 0


def test_a_slow_window_halves_the_target() -> None:
    room = Room(2)
    room.drained(4, QUICK_S, 0.0)

    room.drained(8, SLOW_S, 0.0)

    assert room.target == 4


def test_a_fixed_window_never_breathes() -> None:
    room = Room(2, fixed=5)
    room.drained(5, 0.0, 0.0)
    room.recalled()

    assert room.target == 5


def test_many_slots_claim_again_before_a_burst_of_ends_leaves_them_dry() -> None:
    room = Room(100)

    assert room.wanted(held=151) == 0
    assert room.wanted(held=150) == 50


def test_few_slots_do_not_claim_one_by_one() -> None:
    room = Room(2)

    assert room.wanted(held=3) == 0
    assert room.wanted(held=2) == 2


def test_at_the_floor_nothing_is_claimed_ahead() -> None:
    room = Room(100)
    room.recalled()

    assert room.wanted(held=100) == 0
    assert room.wanted(held=99) == 1


def test_a_window_of_one_claims_one_at_a_time() -> None:
    room = Room(4, fixed=1)

    assert room.wanted(held=0) > 0
    assert room.wanted(held=1) == 0


def test_a_pool_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot, not 0"):
        Room(0)


@given(
    slots=st.integers(1, 200),
    events=st.lists(
        st.one_of(st.none(), st.tuples(st.integers(0, 2000), st.floats(0, 2), st.floats(0, 50))), max_size=60
    ),
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


@given(
    slots=st.integers(1, 200), size=st.integers(1, 2000), took_s=st.floats(0, QUICK_S * 0.999), share=st.floats(0, 1)
)
def test_what_drains_within_20_ms_is_short_however_its_time_is_made_up(slots, size, took_s, share) -> None:
    """No slot is busy for longer than that."""
    room = Room(slots)
    before = room.target

    room.drained(size, took_s, ran_s=share * took_s * min(size, slots))

    assert room.target == (min(before * 2, room.limit) if size * 2 >= before else before)
