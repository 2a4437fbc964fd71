"""When a server said what it said, by this host's `clock`: never later than it was. Pure, fed with replies.

A deadline that a reply tells counts from then, however long the reply was on its way, or this worker stood still.
"""

from __future__ import annotations


class Moments:
    """Dates the replies of one server. All times are seconds of `clock`.

    A reply was given between the sending of its call and its coming. So was the one before, and how far the server's
    clock has gone on since, both of them tell: what comes late, to a frozen worker or over a slow line, is dated by one
    that came in time.
    """

    def __init__(self) -> None:
        self._latest: tuple[float, int] | None = None  # when the latest reply was given, and the server's time in it

    def given(self, sent: float, now: float, server_ms: int) -> float:
        """Return when a reply was given that is here `now`; `sent` is when it was asked for."""
        if self._latest is None:
            return sent
        at, ms = self._latest
        # Where the clocks drift apart, or the server's has stepped a little, it is still not later than it came.
        return max(sent, min(now, at + (server_ms - ms) / 1000))

    def heard(self, sent: float, now: float, server_ms: int, *, stepped: bool) -> None:
        """A reply has come. `stepped`: the server's clock is not what it was, so the one before says nothing of it."""
        self._latest = (sent if stepped else self.given(sent, now, server_ms), server_ms)
