"""`current.shield`: what it holds back, and what it lets through when it is left."""

from __future__ import annotations

import threading
import time

import pytest

from qworker import shields
from qworker.current_task import current
from qworker.errors import TaskInterrupt
from support.slots import FakeSlot, occupied


@pytest.fixture
def slot():
    with occupied(FakeSlot()) as slot:
        yield slot
    assert not shields._covers


def test_inside_nothing_interrupts_and_leaving_does(slot):
    with pytest.raises(TaskInterrupt, match="stop"), current.shield(5):
        slot.event.set()
        current.check()
        current.sleep(0.02)
        assert current.asked
    assert shields.was_interrupted(slot)


def test_a_helper_thread_that_notices_leaves_the_main_thread_its_interruption(slot):
    slot.event.set()
    caught = []

    def work():
        try:
            current.check()
        except TaskInterrupt as error:
            caught.append(error)

    thread = threading.Thread(target=current.bind(work))
    thread.start()
    thread.join()

    assert caught
    assert not shields.was_interrupted(slot)


def test_leaving_one_that_nobody_asked_in_raises_nothing(slot):
    with current.shield(5):
        pass


def test_who_was_asked_before_can_clean_up_under_a_shield(slot):
    slot.event.set()
    with pytest.raises(TaskInterrupt):
        current.check()

    with current.shield(5):
        current.check()

    with pytest.raises(TaskInterrupt):
        current.check()


def test_an_exception_on_its_way_out_is_not_replaced(slot):
    with pytest.raises(ValueError, match="mine"), current.shield(5):
        slot.event.set()
        raise ValueError("mine")


def test_one_that_has_run_out_protects_no_longer(slot):
    with pytest.raises(TaskInterrupt), current.shield(0.05):
        slot.event.set()
        before = time.monotonic()
        current.sleep(30)
    assert time.monotonic() - before < 5


def test_the_outermost_decides_how_long_and_its_end_is_the_end(slot):
    reached = []
    with pytest.raises(TaskInterrupt), current.shield(2):
        with current.shield(60):
            slot.event.set()
        reached.append("between")
        current.check()
        reached.append("after")

    assert reached == ["between", "after"]
    until, over = slot.told
    assert until <= time.monotonic() + 2
    assert over == 0.0


def test_it_covers_the_whole_task_whatever_thread_asks(slot):
    with pytest.raises(TaskInterrupt), current.shield(5):
        slot.event.set()
        thread = threading.Thread(target=current.bind(current.check))
        thread.start()
        thread.join()


@pytest.mark.parametrize("seconds", [0, -1, 61, float("nan")])
def test_a_length_that_makes_no_sense_is_refused(slot, seconds):
    with pytest.raises(ValueError, match=r"more than 0 and at most 60 s; divide longer work"):
        current.shield(seconds)


def test_in_a_coroutine_slot_leaving_it_is_left_to_asyncio(slot):
    slot.cancels = True

    with current.shield(5):
        slot.event.set()

    assert shields.must_end(slot)


def test_in_a_plain_call_it_is_inert():
    with current.shield(60), current.shield(1):
        current.check()
        current.sleep(0)
