"""What a worker may believe about its lease."""

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

    lease.renewing()
    lease.renewed(106.0)

    assert lease.until == 116.0
    assert not lease.uncertain(114.9)
    assert lease.uncertain(115.0)


def test_a_claim_answered_after_an_outage_does_not_revive_the_lapsed_lease_of_older_ones() -> None:
    lease = Lease(10)
    lease.opened(100.0, alone=True)

    lease.opened(130.0, alone=False)

    assert lease.uncertain(130.1)
    lease.renewing()
    lease.renewed(130.2)
    assert not lease.uncertain(130.3)


def test_a_renewal_says_nothing_of_what_came_while_it_was_on_its_way() -> None:
    """A window that was pushed to a worker that heard nothing for long: its lease counts from when it was left."""
    lease = Lease(10)
    lease.opened(100.0, alone=True)
    lease.renewing()  # at 112

    lease.opened(101.0, alone=False)
    lease.renewed(112.0)

    assert lease.uncertain(112.1)
    lease.renewing()
    lease.renewed(112.2)
    assert lease.until == 122.2


def test_what_came_alone_is_all_that_counts() -> None:
    lease = Lease(10)
    lease.opened(100.0, alone=True)
    lease.opened(90.0, alone=False)
    lease.renewing()

    lease.opened(105.0, alone=True)  # the others have ended
    lease.renewed(104.0)

    assert lease.until == 115.0
