"""A child's way out: one stream to the worker, written by any thread, at any moment, never torn.

outcome ─┐
output ──┼──► pending ──► whoever holds the lock sends for all ──► stream
gone ────┘
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque


class Outbox:
    """The sending side of a child's stream."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._pending: deque[bytes] = deque()
        self._lock = threading.Lock()
        self.closed = False

    def send(self, frame: bytes) -> None:
        """Send a frame, or leave it to the thread that is sending now.

        The lock is never waited for: a signal handler of user code may print while the thread that it interrupted is
        in the middle of a send. A frame that finds the lock taken is sent by its holder, who looks again after
        every release.
        """
        pending = self._pending
        pending.append(frame)
        while pending and not self.closed and self._lock.acquire(blocking=False):
            try:
                while pending:
                    self._stream.sendall(pending.popleft())
            except OSError:
                # The worker is gone, and with it the reason to run: the fork server is about to say so with a KILL.
                os._exit(1)
            finally:
                self._lock.release()
