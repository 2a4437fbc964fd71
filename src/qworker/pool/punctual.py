"""An event loop whose timers are punctual to some ten microseconds.

epoll counts a timeout in milliseconds, rounded up: on asyncio's own loop a sleep ends half a millisecond late in the
mean, and a slot that runs sleeps of 50 ms loses a hundredth of its time by that. `select` counts microseconds, and an
epoll descriptor can be waited for like any other.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
from typing import Final

_FD_SETSIZE: Final = 1024  # select knows no descriptors from here on


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: asyncio's, but punctual. Where the app chose loops of another kind, one of those."""
    loop = asyncio.new_event_loop()
    if sys.platform != "linux" or type(loop) is not asyncio.SelectorEventLoop:
        return loop
    loop.close()
    return asyncio.SelectorEventLoop(Selector())


if sys.platform == "linux":

    class Selector(selectors.EpollSelector):
        """Waits no longer than it is told."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait until something is ready, or the timeout is over."""
            if timeout is not None and timeout > 0 and (fd := self.fileno()) < _FD_SETSIZE:
                select.select((fd,), (), (), timeout)
                timeout = 0
            return super().select(timeout)
