"""When a server said what it said: never later than it was, and no earlier than can be known."""

from __future__ import annotations

import pytest

from qworker.worker.moments import Moments


def test_the_first_reply_may_have_been_given_as_soon_as_it_was_asked_for() -> None:
    assert Moments().given(100.0, 108.0, 5_000) == 100.0


def test_a_late_reply_is_dated_by_one_that_came_in_time() -> None:
    moments = Moments()
    moments.heard(99.999, 100.001, 5_000, stepped=False)

    assert moments.given(100.5, 109.0, 6_000) == pytest.approx(100.999)
    assert moments.given(90.0, 109.0, 6_000) == pytest.approx(100.999), "also one that was asked for long before"


def test_what_is_known_exactly_stays_known_through_slow_replies() -> None:
    moments = Moments()
    moments.heard(99.999, 100.001, 5_000, stepped=False)

    moments.heard(100.0, 106.0, 8_000, stepped=False)

    assert moments.given(100.0, 120.0, 9_000) == pytest.approx(103.999)


def test_no_reply_was_given_before_its_call_nor_after_it_came() -> None:
    """However the clocks drift apart, or the server's steps by too little to be noticed."""
    moments = Moments()
    moments.heard(99.999, 100.001, 5_000, stepped=False)

    assert moments.given(101.0, 101.2, 5_000 + 60_000) == 101.2
    assert moments.given(101.0, 101.2, 5_000 - 60_000) == 101.0


def test_after_a_step_of_the_servers_clock_the_replies_before_say_nothing() -> None:
    moments = Moments()
    moments.heard(99.999, 100.001, 5_000, stepped=False)

    moments.heard(101.0, 101.2, 3_600_000, stepped=True)

    assert moments.given(102.0, 109.0, 3_602_000) == pytest.approx(103.0)
