"""`interrupt=True`: a TaskInterrupt raised by a signal into the code of a process slot.

    worker: flag in the page, then the signal ──► handler, in the main thread, between two bytecodes
      └─► walks the stack: is `interruptible` on it, whose attempt was asked to end? ──► raise, once
      └─► not now (a shield, an import, a lock of ours)? ──► a thread sends the signal again, until it is over

What is on the stack decides, so a signal that comes late or twice, before the code of its attempt has begun or after
it has ended, hits nobody: then `interruptible` is not there, or it is that of another attempt, which nobody asked.
"""

from __future__ import annotations

import _thread
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from ..shields import covers, interruption, must_end, was_interrupted
from . import linux
from .page import SlotCells

# Between one more signal and the next: what prints all the time is nearly always in the middle of our code.
_PAUSE_S: Final = 0.005
# An exception out of the middle of these may leave a lock taken, a frame half sent or a module half imported. That of
# a finalizer would be lost. None of them takes long, except where users' code is called from it: see `_PASSING`.
_DELICATE: Final = (f"{Path(__file__).parents[1]}/", f"{Path(logging.__file__).parent}/", "<frozen importlib")
# Of Task, of what `current.bind` returns, and of `current.iterate` while it waits for the next item.
_PASSING: Final = ("__call__", "bound", "iterate", "steps")

# Not the exception itself: its traceback holds all that was in the task's frames.
_thrown: weakref.ref[BaseException] | None = None
_insisting: SlotCells | None = None  # for whom a thread sends the signal again


def install() -> None:
    """Heed the signal, in the main thread of a child with one slot."""
    signal.signal(linux.INTERRUPT_SIGNAL, _handle)


def interruptible(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], cells: SlotCells) -> Any:
    """Call a task's code so that it can be interrupted: the handler looks for this very frame."""
    if must_end(cells):
        raise _interrupt(cells)  # the signal came before
    return fn(*args, **kwargs)


def threw(error: BaseException) -> bool:
    """Say whether an exception that came out of a task was raised by the handler."""
    return _thrown is not None and error is _thrown()


def _interrupt(cells: SlotCells) -> BaseException:
    global _thrown
    error = interruption(cells)
    _thrown = weakref.ref(error)
    return error


def _handle(_number: int, frame: FrameType | None) -> None:
    cells, delicate = _look(frame)
    if cells is None or not cells.asked() or was_interrupted(cells):
        return
    if delicate or covers(cells):
        _insist(cells)
    else:
        raise _interrupt(cells)


def _look(frame: FrameType | None) -> tuple[SlotCells | None, bool]:
    """Return whose code the main thread runs, if it runs any, and whether it must not be interrupted there."""
    delicate = False
    while frame is not None:
        code = frame.f_code
        if code is interruptible.__code__:
            return frame.f_locals["cells"], delicate
        name = code.co_name
        if name == "__del__" or (name not in _PASSING and code.co_filename.startswith(_DELICATE)):
            delicate = True
        frame = frame.f_back
    return None, False


def _insist(cells: SlotCells) -> None:
    global _insisting
    if _insisting is not cells:
        _insisting = cells
        # Not `threading`: what was interrupted may be starting a thread itself, and hold its locks.
        _thread.start_new_thread(_send_again, (cells,))


def _send_again(cells: SlotCells) -> None:
    main = threading.main_thread().ident
    while main is not None and not cells.over() and not was_interrupted(cells):
        time.sleep(_PAUSE_S)
        signal.pthread_kill(main, linux.INTERRUPT_SIGNAL)
