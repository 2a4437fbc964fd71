"""The token pipe: eight bytes a task, and who reads them owns the task.

    worker ── number ──► pipe ──► child   takes it and runs the task
                          └─────► worker  takes it back (recall), whatever the child is doing

Both sides hold the reading end. All writes and reads are multiples of eight bytes and the kernel serves them one
after the other, so each number is read exactly once and never torn.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

WIDTH = 8
# A write of up to PIPE_BUF bytes is never split; a pipe of 64 KiB holds far more than a child is given at once.
PER_WRITE = 4096 // WIDTH
_ALL = 64 * 1024


def open_pipe() -> tuple[int, int]:
    """Return (reading end, writing end), both non-blocking: the flag is shared by every holder of an end."""
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def give(fd: int, numbers: Sequence[int]) -> bool:
    """Write up to `PER_WRITE` numbers, all or none; False when the pipe is full or its readers are gone."""
    assert len(numbers) <= PER_WRITE
    try:
        return os.write(fd, array("Q", numbers).tobytes()) == len(numbers) * WIDTH
    except (BlockingIOError, BrokenPipeError):
        return False


def take(fd: int) -> int | None:
    """Take the oldest number; None when there is none now."""
    try:
        return int.from_bytes(os.read(fd, WIDTH), "little") or None
    except BlockingIOError:
        return None
    except OSError as error:
        if is_no_error(error):
            return None
        raise


def is_no_error(error: OSError) -> bool:
    """Did a call fail and leave no reason? Then there was nothing to read, and the caller looks again soon.

    faulthandler's signal handler (the flight recorder's) may come between the call and the look at its `errno`, and
    leaves 0 there. Chained to another handler it would not, but handlers that are nested then overflow their stack.
    """
    return error.errno == 0


def take_all(fd: int) -> list[int]:
    """Take every number that is in the pipe, oldest first.

    User code holds the descriptor, too. What it left of a number that it took a part of makes others of those behind
    it: numbers that nobody knows, and an end that is none.
    """
    taken = array("Q")
    while True:
        try:
            data = os.read(fd, _ALL)
        except BlockingIOError:
            return taken.tolist()
        if not data:
            return taken.tolist()
        taken.frombytes(data[: len(data) // WIDTH * WIDTH])
