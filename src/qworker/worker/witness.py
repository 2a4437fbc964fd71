"""What a worker has seen of a server: its clock, and whether it was away. Pure, fed with replies.

No two hosts' clocks are compared. The server's time is followed through its replies and this host's `clock`, which
goes on while the host is suspended, as the server does; a reply that disagrees by more than half a lease means that the
server's clock stepped, or that the server (or this worker) stood still. Either way expiry proves nothing for a while,
and the next call says so: that is the witness that an amnesty needs. An amnesty is one of a queue, so each queue is
told, whichever of them it was seen on; and what one server of a cluster answers says nothing of the others.
"""

from __future__ import annotations

NEW_S = 1.5  # longer than any worker that lives takes to renew (or half a lease, if that is less)


class Witness:
    """Follows one server, for the queues that it has. All times are seconds of `clock`."""

    def __init__(self, lease_s: float) -> None:
        self._half_s = lease_s / 2
        self._server_ms: int | None = None
        self._sent_at = self.seen_at = 0.0  # the latest answer: when its call was sent, when it came
        self._first_at: float | None = None  # since when the server's answers have been followed
        self._asked_at: float | None = None  # when the oldest unanswered call was sent, or the last answer before it
        self._back_at: float | None = None  # until when it was away at most, or when its clock had stepped
        self._told: dict[str, float] = {}  # queue -> when a call was sent that said so there

    def expected_ms(self, now: float) -> int | None:
        """What the server's clock should say now, or None before the first reply."""
        if self._server_ms is None:
            return None
        return self._server_ms + int((now - self.seen_at) * 1000)

    def is_newcomer(self, now: float) -> bool:
        """Say whether this worker has followed the server's clock for too short a time to tell what lapsed on it.

        It cannot have seen the clock step, nor that the server was away, if it stood still itself meanwhile. Whoever
        holds something, and lives, has: and says so when it renews.
        """
        return self._first_at is None or self._missed(now) or now - self._first_at < min(NEW_S, self._half_s)

    def asked(self, now: float) -> None:
        """A claim or a renewal is sent."""
        if self._asked_at is None:
            self._asked_at = now

    def unanswered(self) -> None:
        """A claim or a renewal was not answered in its time: the server may have been away since its last answer."""
        if self._asked_at is not None and self._server_ms is not None:
            self._asked_at = self.seen_at

    def stalled(self, queue: str, now: float) -> bool:
        """Say whether a call that is sent to a queue now has to tell that the server was away, or its clock stepped.

        For half a lease after it is back: by then all who live have renewed what they hold.
        """
        if self._asked_at is not None and now - self._asked_at > self._half_s:
            return True
        back = self._back_at
        return back is not None and now - back < self._half_s and self._told.get(queue, 0.0) < back

    def answered(self, queue: str, sent: float, now: float, server_ms: int, *, told: bool) -> float:
        """A reply arrived at `now` to a call sent at `sent`; `server_ms` is the server's time in it.

        `told`: the call said that the server had been away. Returns by how many seconds the server's clock has stepped
        since the reply before; 0: by no more than half a lease, as far as can be told from when calls were sent and
        answered.
        """
        step_ms = 0.0
        if self._server_ms is not None:
            least = self._server_ms + (sent - self.seen_at) * 1000
            most = self._server_ms + (now - self._sent_at) * 1000
            step_ms = max(0.0, server_ms - most) + min(0.0, server_ms - least)
        if abs(step_ms) <= self._half_s * 1000:
            step_ms = 0.0
        asked_at = sent if self._asked_at is None else self._asked_at
        if now - sent <= self._half_s and (step_ms or sent - asked_at > self._half_s):
            self._back_at = sent
        elif now - asked_at > self._half_s:
            self._back_at = now  # this call was on its way through the last of it, and could not say so
        if told:
            self._told[queue] = sent
        missed = self._missed(now)
        self._asked_at = None
        self._server_ms, self._sent_at, self.seen_at = server_ms, sent, now
        if self._first_at is None or missed:
            self._first_at = now
        return step_ms / 1000

    def _missed(self, now: float) -> bool:
        """Say whether the last reply is older than it ever gets while this worker runs and the server is there.

        An idle worker asks once a second, and no less often than each fifth of a lease.
        """
        return now - self.seen_at > self._half_s
