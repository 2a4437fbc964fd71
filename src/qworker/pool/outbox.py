"""A child's way out: one pipe to the worker, written by any thread, at any moment, never torn.

outcome ─┐
output ──┼──► pending ──► whoever holds the lock sends for all ──► pipe
gone ────┘
"""

from __future__ import annotations

import os
import threading
from collections import deque

from .. import faultpoints
from . import frames


class Outbox:
    """The writing end. A pipe and not the stream's other half: a small write costs a third of what it costs there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._write = faultpoints.torn("child.mid_frame", os.write, lambda data: data[1] == frames.OUTCOME)
        self.closed = False

    def send(self, *frame: bytes) -> None:
        """Send a frame (its pieces), or leave it to the thread that is sending now.

        The lock is never waited for: a signal handler of user code may print while the thread that it interrupted is
        in the middle of a send. A frame that finds the lock taken is sent by its holder, who looks again after
        every release.
        """
        pending = self._pending
        pending.extend(frame)  # at once: no other thread's comes between
        while pending and not self.closed and self._lock.acquire(blocking=False):
            try:
                while pending:
                    data = pending.popleft()
                    while (written := self._write(self._fd, data)) < len(data):
                        data = data[written:]  # a signal came in between
            except OSError:
                # The worker is gone, and with it the reason to run: the fork server is about to say so with a KILL.
                os._exit(1)
            finally:
                self._lock.release()
