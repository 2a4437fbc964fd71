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

    lease.renewed(106.0)

    assert lease.until == 116.0
    assert not lease.uncertain(114.9)
    assert lease.uncertain(115.0)


def test_a_claim_answered_after_an_outage_does_not_revive_the_lapsed_lease_of_older_ones() -> None:
    lease = Lease(10)
    lease.opened(100.0, alone=True)

    lease.opened(130.0, alone=False)

    assert lease.uncertain(130.1)
    lease.renewed(130.2)
    assert not lease.uncertain(130.3)
