"""A child's answer to "where is it?": the stack of a task, taken by Python code, with the GIL held.

    worker: number in the page, then the signal ──► handler, in the main thread, between two bytecodes
      └─► of whoever is meant: the frame of its thread ──► one write to the stack pipe

Between two bytecodes, and in threads that wait for the GIL, the record of frames is whole: no look can crash a child.
The handler takes no lock and sends nothing through ours, so it may come in the middle of anything. Where Python does
not get to run it, because C code holds the GIL or waits, the worker notices, and asks faulthandler (recorder.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Final

from . import linux
from .page import Page, thread_idents
from .stacks import frame_line

_FRAMES_MAX: Final = 100  # as many as faulthandler writes
# Around an answer: what faulthandler and the names of files and functions never have in them.
BEGIN: Final = b"\x02"
END: Final = b"\x03"


def install(page: Page, fd: int) -> None:
    """Answer from now on, in the main thread of a child. `fd`: its end of the stack pipe, which does not block."""
    main = os.getpid()
    answering = again = False

    def answer(_number: int, interrupted: FrameType | None) -> None:
        nonlocal answering, again
        again = True  # for an answer that this call may have come in the middle of
        while again and not answering:
            again, answering = False, True
            try:
                # What fails here is not the task's. Anything else comes from a signal handler of its own: it passes.
                with contextlib.suppress(MemoryError, RecursionError, BlockingIOError):
                    _write_stacks(page, fd, main, interrupted)
            finally:
                answering = False

    signal.signal(linux.LOOK_SIGNAL, answer)
    # A system call of the task goes on where it can. In one that does the thread is asleep, and faulthandler is safe.
    signal.siginterrupt(linux.LOOK_SIGNAL, False)


def _write_stacks(page: Page, fd: int, main: int, interrupted: FrameType | None) -> None:
    looks = page.take_looks()
    frames = sys._current_frames() if any(thread != main for _, _, thread in looks) else {}
    for slot, number, thread in looks:
        text = stack_of(interrupted if thread == main else frames.get(thread_idents.get(thread, 0)))
        if page.number(slot) == number:  # it is the stack of no other attempt
            data = text.encode("utf-8", "backslashreplace").replace(BEGIN, b"?").replace(END, b"?")
            os.write(fd, b"%b%d\n%b%b" % (BEGIN, number, data, END))


def stack_of(frame: FrameType | None) -> str:
    """Write a stack as faulthandler does, innermost frame first."""
    lines: list[str] = []
    while frame is not None:
        if len(lines) == _FRAMES_MAX:
            lines.append("  ...")
            break
        lines.append(frame_line(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return "".join(f"{line}\n" for line in lines)
