"""What a worker says and does while a server does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..errors import BrokerUnavailable
from ..health import Aside as HealthFile
from ..log import Emit

SAY_EVERY_S = 10.0
REVIVE_EVERY_S = 5.0
WAITING = "waiting for the server; the worker starts when it answers"


class Outage:
    """Says once that calls are not answered, repeats it every few seconds, and says when they are again.

    Of each server for itself: one of a cluster may be away while the others are there. And what a server refuses of one
    queue, such as a key that somebody made another type of, says nothing of its others.

    `revive` starts the embedded server again: when it died, nobody else may come to do that. It may block.
    """

    def __init__(
        self,
        emit: Emit,
        health: HealthFile,
        revive: Callable[[], object] | None,
        server_of: Callable[[str], str | None] = lambda _: "",
    ) -> None:
        """`server_of` names the server of a queue; empty if there is one only."""
        self._emit, self._health, self._revive, self._server_of = emit, health, revive, server_of
        self._since: dict[tuple[str, bool], float] = {}  # queue, and whether it was refused -> since when
        self._said: dict[tuple[str | None, bool], float] = {}  # server or refused queue, likewise -> when
        self._answered = False  # never yet: no claim can have brought a task, so nothing runs
        self._next_revival = 0.0
        self._reviving: asyncio.Future[object] | None = None

    def call(self, queue: str, error: Exception | None) -> None:
        """Hear that a call about a queue was answered, or why it was not."""
        if error is None:
            self._health.succeeded()
            self._answered = True
            if self._since:
                self._came_back(queue)
        else:
            self._failed(queue, error)

    def _came_back(self, queue: str) -> None:
        server = self._server_of(queue)
        # Whichever queue it was asked about: a server that answers is there for all that it has by now.
        over = [
            (one, refused)
            for one, refused in self._since
            if one == queue or (not refused and self._server_of(one) == server)
        ]
        if over:
            since = min(self._since.pop(place) for place in over)
            # As it was said: of a queue of its own, or of the one server.
            where = {"queue": queue} if server or all(refused for _, refused in over) else {}
            self._emit("redis.back", after_s=round(time.monotonic() - since, 1), **where)

    def _failed(self, queue: str, error: Exception) -> None:
        now = time.monotonic()
        refused = not isinstance(error, BrokerUnavailable)
        server = self._server_of(queue)
        self._since.setdefault((queue, refused), now)
        place = (queue if refused else server, refused)
        if now - self._said.get(place, -SAY_EVERY_S) >= SAY_EVERY_S:
            self._said[place] = now
            note = "trying again with the same calls; running tasks go on" if self._answered else WAITING
            where = {"queue": queue} if server or refused else {}
            self._emit("redis.unreachable", level="error", error=str(error), note=note, **where)
        if self._revive is not None and now >= self._next_revival and self._reviving is None:
            self._next_revival = now + REVIVE_EVERY_S
            self._reviving = asyncio.get_running_loop().run_in_executor(None, self._revive)
            self._reviving.add_done_callback(self._revived)

    def _revived(self, done: asyncio.Future[object]) -> None:
        self._reviving = None
        if not done.cancelled() and (error := done.exception()) is not None:
            self._emit("server.embedded", level="error", note=f"it cannot be started again: {error}")
