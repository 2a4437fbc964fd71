"""What a worker may believe about its lease and about the server's clock."""

from __future__ import annotations

import pytest

from qworker.worker.lease import Lease


def test_a_claim_counts_from_when_it_was_sent_not_from_its_reply() -> None:
    lease = Lease(10)

    lease.opened(100.0, alone=True)

    assert lease.until == 110.0
    assert lease.start_until == pytest.approx(109.0)


def test_a_younger_claim_does_not_lengthen_the_lease_of_older_ones() -> None:
    lease = Lease(10)
    lease.opened(100.0, alone=True)

    lease.opened(105.0, alone=False)

    assert lease.until == 110.0


def test_a_renewal_moves_the_lease_of_all_claims() -> None:
    lease = Lease(10)
    lease.opened(100.0, alone=True)

    lease.renewed(106.0)

    assert lease.until == 116.0
    assert not lease.uncertain(114.9)
    assert lease.uncertain(115.0)


def test_the_servers_time_is_followed_between_replies() -> None:
    lease = Lease(10)
    assert lease.expected_ms(1.0) is None

    lease.answered(sent=5.0, now=5.1, server_ms=1_000_000)

    assert lease.expected_ms(7.1) == 1_002_000


@pytest.mark.parametrize(
    ("server_ms", "step_s"),
    [
        (1_012_000, 0.0),  # as expected
        (1_015_900, 0.0),  # the reply before may have been on its way for the four seconds that it took
        (1_009_900, 0.0),  # this one may have, for its two
        (1_016_100 + 5_000, 5.1),
        (1_016_000 + 3_600_000, 3600.0),
        (1_010_000 - 3_600_000, -3600.0),
    ],
)
def test_a_step_of_the_servers_clock_is_what_no_delay_explains(server_ms: int, step_s: float) -> None:
    lease = Lease(10)
    assert lease.answered(sent=1.0, now=5.0, server_ms=1_000_000) == 0.0

    assert lease.answered(sent=15.0, now=17.0, server_ms=server_ms) == pytest.approx(step_s)


def test_a_call_unanswered_for_half_a_lease_is_a_witness_of_a_stall() -> None:
    lease = Lease(10)
    lease.asked(100.0)

    assert not lease.stalled(104.9)
    assert lease.stalled(105.1)


def test_after_an_unanswered_call_the_server_counts_as_away_since_its_last_answer() -> None:
    lease = Lease(10)
    lease.answered(sent=90.0, now=90.0, server_ms=1)
    lease.asked(95.0)
    assert not lease.stalled(95.5), "it may just be on its way"

    lease.unanswered()

    assert lease.stalled(95.5)


def test_who_has_just_come_knows_nothing_of_the_servers_clock_before() -> None:
    lease = Lease(10)
    assert lease.is_newcomer(100.0)

    lease.answered(sent=100.0, now=100.0, server_ms=1)

    assert lease.is_newcomer(101.4)
    assert not lease.is_newcomer(101.6)


def test_who_stood_still_itself_knows_as_little_as_who_has_just_come() -> None:
    """The server may have been away meanwhile: an outage that this worker has not seen."""
    lease = Lease(10)
    lease.answered(sent=100.0, now=100.0, server_ms=1)
    assert not lease.is_newcomer(105.0)
    assert lease.is_newcomer(105.1)

    lease.answered(sent=105.1, now=105.1, server_ms=5101)

    assert lease.is_newcomer(106.5)
    lease.answered(sent=106.5, now=106.5, server_ms=6501)
    assert not lease.is_newcomer(106.7)


def test_a_late_reply_lets_the_next_call_carry_the_witness_once() -> None:
    lease = Lease(10)
    lease.asked(100.0)
    lease.answered(sent=100.0, now=106.0, server_ms=1)

    assert lease.stalled(106.1)

    lease.asked(106.1)
    lease.answered(sent=106.1, now=106.2, server_ms=2)
    assert not lease.stalled(106.3)


def test_silence_alone_is_no_witness() -> None:
    lease = Lease(10)
    lease.asked(100.0)
    lease.answered(sent=100.0, now=100.1, server_ms=1)

    assert not lease.stalled(1000.0)


def test_a_claim_answered_after_an_outage_does_not_revive_the_lapsed_lease_of_older_ones() -> None:
    lease = Lease(10)
    lease.opened(100.0, alone=True)

    lease.opened(130.0, alone=False)

    assert lease.uncertain(130.1)
    lease.renewed(130.2)
    assert not lease.uncertain(130.3)
