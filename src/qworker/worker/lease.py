"""What a worker may believe about its leases: pure, fed with replies. What it saw of their server: witness.py."""

from __future__ import annotations

from math import inf

MARGIN = 0.1  # of the lease: nothing starts in the last tenth, so that a start is over before the lease can lapse


class Lease:
    """The instant until which this worker's claims hold, as far as it can know. All times are seconds of `clock`."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.until = 0.0  # the claims hold until here at least: the lease counts from when the call was sent
        self._others_until = inf  # those that came when the latest renewal was on its way already

    @property
    def start_until(self) -> float:
        """The instant after which no slot may start anything."""
        return self.until - self.lease_s * MARGIN

    def opened(self, sent: float, *, alone: bool) -> None:
        """A claim sent at `sent` was answered. `alone`: nothing else is held, so its lease is the only one."""
        end = sent + self.lease_s
        self._others_until = end if alone else min(self._others_until, end)
        # With older claims held, theirs is the earlier end, also when it has passed: what waits in a child belongs to
        # any of them, and there is one instant for all. The next renewal moves them together.
        self.until = end if alone else min(self.until, end)

    def renewing(self) -> None:
        """A renewal of all claims is sent."""
        self._others_until = inf

    def renewed(self, sent: float) -> None:
        """That renewal, sent at `sent`, was answered. Of what came meanwhile, claimed long ago, it says nothing."""
        self.until = max(self.until, min(sent + self.lease_s, self._others_until))

    def uncertain(self, now: float) -> bool:
        """Say whether the lease may have lapsed."""
        return now >= self.start_until
