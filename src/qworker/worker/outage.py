"""What a worker says and does while its server does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..health import Aside as HealthFile
from ..log import Emit

SAY_EVERY_S = 10.0
REVIVE_EVERY_S = 5.0
WAITING = "waiting for the server; the worker starts when it answers"


class Outage:
    """Says once that the server does not answer, repeats it every few seconds, and says when it is back.

    `revive` starts the embedded server again: when it died, nobody else may come to do that. It may block.
    """

    def __init__(self, emit: Emit, health: HealthFile, revive: Callable[[], object] | None) -> None:
        self._emit, self._health, self._revive = emit, health, revive
        self._since: float | None = None
        self._said = 0.0
        self._answered = False  # never yet: no claim can have brought a task, so nothing runs
        self._next_revival = 0.0
        self._reviving: asyncio.Future[object] | None = None

    def call(self, ok: bool, error: str) -> None:
        """Hear that a call was answered, or was not in its time."""
        now = time.monotonic()
        if ok:
            self._health.succeeded()
            self._answered = True
            if self._since is not None:
                self._emit("redis.back", after_s=round(now - self._since, 1))
                self._since = None
            return
        self._since = self._since if self._since is not None else now
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            note = "trying again with the same calls; running tasks go on" if self._answered else WAITING
            self._emit("redis.unreachable", level="error", error=error, note=note)
        if self._revive is not None and now >= self._next_revival and self._reviving is None:
            self._next_revival = now + REVIVE_EVERY_S
            self._reviving = asyncio.get_running_loop().run_in_executor(None, self._revive)
            self._reviving.add_done_callback(self._revived)

    def _revived(self, done: asyncio.Future[object]) -> None:
        self._reviving = None
        if not done.cancelled() and (error := done.exception()) is not None:
            self._emit("server.embedded", level="error", note=f"it cannot be started again: {error}")
