"""A child's way out: one pipe to the worker, written by any thread, at any moment, never torn.

outcome ─┐
output ──┼──► pending ──► whoever holds the lock sends for all ──► pipe
gone ────┘

What user code prints is sent in its own threads, so exceptions of its signal handlers may come at any line here.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from typing import Final

from .. import faultpoints
from . import frames, last_words

# What a write to the pipe fails with; the errors of user code (TimeoutError is an OSError, too) are others. 0: see
# tokens.py.
_GONE: Final = (errno.EPIPE, errno.EBADF, 0)


class Outbox:
    """The writing end. A pipe and not the stream's other half: a small write costs a third of what it costs there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: deque[bytes] = deque()
        self._lock = threading.RLock()  # knows its owner
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
        pending, lock = self._pending, self._lock
        pending.extend(frame)  # at once: no other thread's comes between
        if not through and lock._is_owned():  # type: ignore[attr-defined]
            return  # below a send, in a handler: what that interrupted sends this as well
        begun = b""
        try:
            while (pending or through) and not self.closed and lock.acquire(blocking=through):
                through = False
                while pending:
                    data = begun = pending[0]
                    pending.popleft()
                    while (written := self._write(self._fd, data)) < len(data):
                        data = data[written:]  # a signal came in between
                    begun = b""
                lock.release()
        except BaseException as error:
            if begun:
                _end_if_torn(begun, error)
            raise
        finally:
            # An exception may come between any two of these lines, and the next outcome would wait for ever.
            while lock._is_owned():  # type: ignore[attr-defined]
                lock.release()


def _end_if_torn(begun: bytes, error: BaseException) -> None:
    """End this process if a part of a frame may be in the pipe without the rest; the lock is not free yet.

    Whatever another thread wrote then would be read as that rest. A pipe takes what is no longer than PIPE_BUF whole,
    or not at all (pipe(7)): a line of output may be missing then, anything else is waited for.
    """
    if isinstance(error, OSError) and error.errno in _GONE:
        # The worker is gone, and with it the reason to run: the fork server is about to say so with a KILL.
        os._exit(1)
    if len(begun) > select.PIPE_BUF or begun[1] != frames.OUTPUT:
        last_words.end()
