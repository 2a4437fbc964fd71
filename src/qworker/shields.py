"""`current.shield`: for a bounded time nothing may interrupt the task, and force waits.

    with current.shield(5) ──► page: no force before now + 5 s ──► worker's ladder waits
                           ├─► check, sleep, guards, interrupts and asyncio's cancellation ask `must_end`: not now
         the block is left ──► TaskInterrupt, if the task was asked to end meanwhile

A shield belongs to an attempt, not to a thread: helper threads of a task are under it, too. Everything here takes the
attempt's slot (`context.Slot`), so that whoever may interrupt a task can ask without knowing of `current`.
"""

from __future__ import annotations

import os
import threading
import time
from _thread import get_ident
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final

from .errors import TaskInterrupt

if TYPE_CHECKING:
    from .context import Slot

__all__ = ["MOST_S", "Shield", "covers", "interruption", "must_end", "was_interrupted"]

MOST_S: Final = 60.0


@dataclass(slots=True)
class _Cover:
    """The shield that an attempt is under: all of its nested blocks together."""

    until: float  # monotonic clock; the outermost block decides
    asked_before: bool  # asked to end before the outermost block was entered
    depth: int = 0


_covers: dict[Slot, _Cover] = {}
_lock = threading.Lock()
_interrupted: Slot | None = None  # in whose code a TaskInterrupt was raised last, in the main thread


def covers(slot: Slot) -> bool:
    """Say whether the attempt is under a shield that has not run out."""
    cover = _covers.get(slot) if _covers else None
    return cover is not None and time.monotonic() < cover.until


def must_end(slot: Slot) -> bool:
    """Say whether the attempt was asked to end and may be interrupted now."""
    return slot.asked() and not covers(slot)


def interruption(slot: Slot) -> TaskInterrupt:
    """Return the TaskInterrupt to be raised into the attempt's code, here; see `was_interrupted`."""
    global _interrupted
    if get_ident() == threading.main_thread().ident:
        _interrupted = slot
    return TaskInterrupt(slot.reason())


def was_interrupted(slot: Slot) -> bool:
    """Say whether the main thread has had its TaskInterrupt, so that a signal would bring a second one."""
    return _interrupted is slot


class Shield:
    """What `current.shield` returns: a block to be entered once."""

    def __init__(self, slot: Slot, seconds: float) -> None:
        if not 0 < seconds <= MOST_S:
            raise ValueError(
                f"current.shield({seconds!r}): a shield lasts more than 0 and at most {MOST_S:.0f} s; "
                "divide longer work into parts, each under a shield of its own"
            )
        self._slot = slot
        self._seconds = seconds

    def __enter__(self) -> None:
        slot = self._slot
        asked = slot.asked()
        with _lock:
            cover = _covers.get(slot)
            if cover is None:
                cover = _covers[slot] = _Cover(time.monotonic() + self._seconds, asked)
                slot.shield(cover.until)
            cover.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        slot = self._slot
        with _lock:
            cover = _covers[slot]
            cover.depth -= 1
            if cover.depth:
                return
            del _covers[slot]
            slot.shield(0.0)
        # Who was asked before entered it to clean up: one more exception would only cut that short. And an exception
        # that is on its way out ends the task as well. Coroutines get asyncio's cancellation instead, from their loop.
        if error is None and not cover.asked_before and slot.asked() and not getattr(slot, "cancels", False):
            raise interruption(slot)


def _forked() -> None:
    """In a copy of this process that user code made: another thread may have held the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
