"""A child's way out: one pipe to the worker, written by any thread, at any moment, never torn.

outcome ─┐
output ──┼──► pending ──► whoever holds the lock sends for all ──► pipe
gone ────┘
"""

from __future__ import annotations

import os
import select
import sys
import threading
import traceback
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

    def send(self, *frame: bytes, through: bool = False) -> None:
        """Send a frame (its pieces), or leave it to the thread that is sending now.

        That lock is never waited for: a signal handler of user code may print while the thread that it interrupted is
        in the middle of a send. A frame that finds the lock taken is sent by its holder, who looks again after
        every release.

        `through`: return when it is in the pipe, also if another thread sends it. So an outcome is sent, by the loops:
        what is left to a thread that dies would be an attempt that no slot owns any more, and that nobody told of.
        """
        pending = self._pending
        pending.extend(frame)  # at once: no other thread's comes between
        while (pending or through) and not self.closed and self._lock.acquire(blocking=through):
            through = False
            begun = b""
            try:
                while pending:
                    data = begun = pending[0]
                    pending.popleft()
                    while (written := self._write(self._fd, data)) < len(data):
                        data = data[written:]  # a signal came in between
                    begun = b""
            except OSError:
                # The worker is gone, and with it the reason to run: the fork server is about to say so with a KILL.
                os._exit(1)
            except BaseException:
                if _may_be_torn(begun):
                    # Before the lock is free: whatever another thread wrote now would be read as the rest of it.
                    traceback.print_exc(file=sys.__stderr__)
                    os._exit(70)
                raise
            finally:
                self._lock.release()


def _may_be_torn(begun: bytes) -> bool:
    """Say whether an exception of user code (a signal's handler, a want of memory) may have left half of a frame.

    A pipe takes what is no longer than PIPE_BUF whole, or not at all (pipe(7)). A line of output may be missing then;
    anything else is waited for.
    """
    return bool(begun) and (len(begun) > select.PIPE_BUF or begun[1] != frames.OUTPUT)
