"""The shared page: flags hit the attempt that they name, and nobody else."""

from __future__ import annotations

import threading
import time

import pytest

from qworker import clock
from qworker.pool.page import FOREVER, Page, SlotCells


@pytest.fixture
def page():
    page = Page.create(3)
    yield page
    page.close()


def test_a_fresh_page_shows_no_attempt_and_allows_every_start(page):
    assert [page.seen(slot) for slot in range(3)] == [(0, 0)] * 3
    assert page.start_until_ns == FOREVER


def test_an_attempt_owns_its_slot_from_the_mark_to_the_clearing(page):
    cells = SlotCells(page, 1, 41, bytes)
    assert page.seen(1) == (41, 0)

    started_ns = cells.start()
    assert page.seen(1) == (41, started_ns)

    cells.clear()
    assert page.number(1) == 0


def test_a_flag_reaches_the_attempt_with_its_reason(page):
    cells = SlotCells(page, 0, 5, bytes)
    assert (cells.asked(), cells.reason()) == (False, "")

    page.raise_flag(0, 5, "stop")

    assert (cells.asked(), cells.reason()) == (True, "stop")


def test_a_flag_that_is_up_is_not_raised_again_but_takes_a_stronger_reason(page):
    cells = SlotCells(page, 0, 5, bytes)

    assert page.raise_flag(0, 5, "timeout")
    assert not page.raise_flag(0, 5, "stop")

    assert cells.reason() == "stop"


def test_the_numbers_and_starts_of_all_slots_are_read_at_once(page):
    cells = SlotCells(page, 1, 41, bytes)
    started_ns = cells.start()

    assert page.numbers()[:2] == [0, 41]
    assert page.starts()[1] == started_ns
    assert len(page.numbers()) == len(page.starts()) == page.slots


def test_a_late_flag_does_not_hit_the_successor_nor_a_later_flag_the_predecessor(page):
    before = SlotCells(page, 0, 5, bytes)
    before.clear()
    after = SlotCells(page, 0, 6, bytes)

    page.raise_flag(0, 5, "timeout")
    assert not after.asked()

    page.raise_flag(0, 6, "timeout")
    assert after.asked()
    assert not before.asked()  # a helper thread of the predecessor may still ask


def test_a_new_attempt_does_not_show_its_predecessors_start_or_progress(page):
    cells = SlotCells(page, 2, 8, bytes)
    cells.start()
    cells.progress(1, 2, "half")
    cells.clear()

    SlotCells(page, 2, 9, bytes)

    assert page.seen(2) == (9, 0)
    assert page.progress(2, 9) is None


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ((1, 4, "a"), (1.0, 4.0, "a")),
        ((0.5, None, ""), (0.5, None, "")),
        ((3, 3, "ä" * 100), (3.0, 3.0, "ä" * 48)),
    ],
)
def test_progress_is_shown_as_it_was_told(page, told, shown):
    cells = SlotCells(page, 0, 7, bytes)

    cells.progress(*told)

    assert page.progress(0, 7) == shown
    assert page.progress(0, 8) is None


def test_waiting_for_the_flag_ends_soon_after_it_is_raised(page):
    cells = SlotCells(page, 0, 7, bytes)
    raiser = threading.Timer(0.05, page.raise_flag, (0, 7, "stop"))
    raiser.start()
    before = time.monotonic()

    asked = cells.wait_asked(10)

    assert asked
    assert time.monotonic() - before < 1
    raiser.join()


def test_waiting_for_a_flag_that_nobody_raises_ends_with_the_time(page):
    assert SlotCells(page, 0, 7, bytes).wait_asked(0.02) is False


def test_the_lease_is_uncertain_once_the_instant_to_start_has_passed(page):
    cells = SlotCells(page, 0, 7, bytes)
    assert not cells.lease_uncertain()

    page.start_until_ns = clock.now_ns() - 1

    assert cells.lease_uncertain()


def test_both_sides_see_the_same_cells(page):
    other = Page(page.fd, 3)

    SlotCells(other, 1, 12, bytes).start()
    other.beat()

    assert page.number(1) == 12
    assert page.pulse_ns > 0
    other.cells.release()
    other._bytes.release()
    other._memory.close()


def test_a_thread_that_outlives_its_attempt_tells_and_asks_nothing_for_the_next_one(page):
    before = SlotCells(page, 0, 5, bytes)
    before.run_here()
    before.clear()
    after = SlotCells(page, 0, 6, bytes)
    page.refuse_wait(0, 6, cycle=False)

    before.progress(666, None, "not yours")
    before.shield(time.monotonic() + 60)
    before.lend(["default:1"])

    assert page.progress(0, 6) is None
    assert page.shielded_until(0, 6) == 0
    assert page.thread(0) == 0
    assert after.refused() == "place"
    page.refuse_wait(0, 6, cycle=True)
    assert after.refused() == "cycle"


def test_progress_that_is_no_number_leaves_what_was_told_before(page):
    cells = SlotCells(page, 0, 7, bytes)
    cells.progress(1, 2, "before")

    with pytest.raises((TypeError, ValueError)):
        cells.progress("a few", None, "")  # type: ignore[arg-type]

    assert page.progress(0, 7) == (1.0, 2.0, "before")


@pytest.mark.parametrize(("text", "shown"), [("caf\udce9", "caf\\udce9"), ("x" + "é" * 60, "x" + "é" * 47)])
def test_any_text_can_be_told_as_progress(page, text, shown):
    cells = SlotCells(page, 0, 7, bytes)

    cells.progress(1, None, text)

    assert page.progress(0, 7) == (1.0, None, shown)
