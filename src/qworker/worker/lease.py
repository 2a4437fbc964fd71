"""What a worker may believe about its leases and about the server's clock: pure, fed with replies.

No two hosts' clocks are compared. The server's time is followed through its replies and this process's monotonic
clock; a reply that disagrees by more than half a lease means that the server's clock stepped, or that the server (or
this worker) stood still. Either way expiry proves nothing for a while, and the next call says so: that is the witness
that an amnesty needs.
"""

from __future__ import annotations

NEW_S = 1.5  # longer than any worker that lives takes to renew (or half a lease, if that is less)
MARGIN = 0.1  # of the lease: nothing starts in the last tenth, so that a start is over before the lease can lapse


class Lease:
    """The instant until which this worker's claims hold, as far as it can know. All times are monotonic seconds."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.until = 0.0  # the claims hold until here at least: the lease counts from when the call was sent
        self._server_ms: int | None = None
        self._sent_at = self._seen_at = 0.0
        self._first_at: float | None = None  # since when the server's answers have been followed
        self._asked_at: float | None = None  # when the oldest unanswered call was sent, or the last answer before it
        self._stalled = False

    @property
    def start_until(self) -> float:
        """The instant after which no slot may start anything."""
        return self.until - self.lease_s * MARGIN

    def expected_ms(self, now: float) -> int | None:
        """What the server's clock should say now, or None before the first reply."""
        if self._server_ms is None:
            return None
        return self._server_ms + int((now - self._seen_at) * 1000)

    def is_newcomer(self, now: float) -> bool:
        """Say whether this worker has followed the server's clock for too short a time to tell what lapsed on it.

        It cannot have seen the clock step, nor that the server was away, if it stood still itself meanwhile. Whoever
        holds something, and lives, has: and says so when it renews.
        """
        return self._first_at is None or self._missed(now) or now - self._first_at < min(NEW_S, self.lease_s / 2)

    def asked(self, now: float) -> None:
        """A claim or a renewal is sent."""
        if self._asked_at is None:
            self._asked_at = now

    def unanswered(self) -> None:
        """A claim or a renewal was not answered in its time: the server may have been away since its last answer."""
        if self._asked_at is not None and self._server_ms is not None:
            self._asked_at = self._seen_at

    def stalled(self, now: float) -> bool:
        """Say whether a call of ours went unanswered for over half a lease, since the last call that said so."""
        waiting = self._asked_at is not None and now - self._asked_at > self.lease_s / 2
        return self._stalled or waiting

    def answered(self, sent: float, now: float, server_ms: int) -> float:
        """A reply arrived at `now` to a call sent at `sent`; `server_ms` is the server's time in it.

        Returns by how many seconds the server's clock has stepped since the reply before; 0: by no more than half a
        lease, as far as can be told from when calls were sent and answered.
        """
        step_ms = 0.0
        if self._server_ms is not None:
            least = self._server_ms + (sent - self._seen_at) * 1000
            most = self._server_ms + (now - self._sent_at) * 1000
            step_ms = max(0.0, server_ms - most) + min(0.0, server_ms - least)
        # The reply that ends a stall does not carry the witness itself if it was sent before the stall: keep it.
        self._stalled = now - sent > self.lease_s / 2
        self._asked_at, missed = None, self._missed(now)
        self._server_ms, self._sent_at, self._seen_at = server_ms, sent, now
        if self._first_at is None or missed:
            self._first_at = now
        return step_ms / 1000 if abs(step_ms) > self.lease_s * 500 else 0.0

    def opened(self, sent: float, *, alone: bool) -> None:
        """A claim sent at `sent` was answered. `alone`: nothing else is held, so its lease is the only one."""
        end = sent + self.lease_s
        # With older claims held, theirs is the earlier end, also when it has passed: what waits in a child belongs to
        # any of them, and there is one instant for all. The next renewal moves them together.
        self.until = end if alone else min(self.until, end)

    def renewed(self, sent: float) -> None:
        """A renewal of all claims, sent at `sent`, was answered."""
        self.until = max(self.until, sent + self.lease_s)

    def _missed(self, now: float) -> bool:
        """Say whether the last reply is older than it ever gets while this worker runs and the server is there."""
        return now - self._seen_at > max(NEW_S, self.lease_s / 2)

    def uncertain(self, now: float) -> bool:
        """Say whether the lease may have lapsed."""
        return now >= self.start_until
