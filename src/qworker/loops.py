"""From other threads into an event loop: what gathers until the loop looks round wakes it once, not each by itself.

    I/O thread ── entrance.let_in(waiter, error) ─► waiting ─► one call_soon_threadsafe ─► the loop resolves them all

Used by whatever is awaited: the answer to `asubmit`, the end of a task.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["Entrance", "entrance"]


class Entrance:
    """The way into one loop. `let_in` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[tuple[asyncio.Future[None], BaseException | None]] = deque()
        self._rung = False

    def let_in(self, waiter: asyncio.Future[None], error: BaseException | None = None) -> None:
        """Resolve an awaited future of the loop; nothing happens if that was cancelled, or the loop is closed."""
        self._waiting.append((waiter, error))
        if not self._rung:  # the loop clears it before it looks, so that none is left behind
            try:
                self._rung = True
                self.loop.call_soon_threadsafe(self._resolve)
            except RuntimeError:
                pass  # the loop is closed: nobody waits
            except BaseException:  # Ctrl-C: the next one rings
                self._rung = False
                raise

    def _resolve(self) -> None:
        self._rung = False
        while self._waiting:
            waiter, error = self._waiting.popleft()
            if waiter.done():
                continue  # whoever awaited it was cancelled meanwhile
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


_here = threading.local()


def entrance(loop: asyncio.AbstractEventLoop) -> Entrance:
    """Return the entrance of the loop that runs in this thread."""
    known: Entrance | None = getattr(_here, "entrance", None)
    if known is None or known.loop is not loop:
        known = _here.entrance = Entrance(loop)
    return known
