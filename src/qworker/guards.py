"""`current.guard`: what a task is blocked in is closed from outside when the task is asked to end.

    guard(thing) ──► by attempt ◄── every 10 ms ── watcher: asked to end, and under no shield?
                                                      └──► a thread for that attempt: its closers, the last one first

The watcher is a thread that the first guard starts; it sleeps while there is none. What was guarded in a coroutine is
closed by its loop. A closer that hangs holds up nothing but its own attempt, and an error in one is logged.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from . import context
from .closers import closer_of
from .current_task import current
from .shields import interruption, must_end

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Guard"]

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.01
_REPEAT_S: Final = (0.05, 1.0)  # the first pause before a closer is run again, and the longest
# A block is not left, and an attempt does not end, while one of its closers runs: what that closes may be used next.
# But one that hangs must not keep the outcome for ever.
_FINISH_S: Final = 2.0

_guards: dict[context.Slot, list[Guard[Any]]] = {}
_closing: set[context.Slot] = set()  # those whose closers run now
_lock = threading.Lock()
_some = threading.Event()
_watcher: threading.Thread | None = None


class Guard(Generic[T]):
    """What `current.guard` returns: it holds until its `with` block is left, `release` is called or the task ends."""

    def __init__(self, run: context.Run, thing: T) -> None:
        self._thing = thing
        self._closer = closer_of(thing)
        self._slot = run.slot
        self._context = contextvars.copy_context()  # so that what a closer logs is the task's
        self._loop = _running_loop()
        self._busy = threading.RLock()  # held while the closer runs; a closer may release its own guard
        self._due_at = 0.0
        self._pause_s = _REPEAT_S[0]
        self._released = False
        self.fired = False
        if type(run.slot) is not context.Nowhere:
            _add(self)

    def __enter__(self) -> T:
        return self._thing

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        # The end of a stream that was cut looks like any other end: what the block made of it must not pass for whole.
        if self.fired and error is None and not getattr(self._slot, "cancels", False):
            raise interruption(self._slot)

    def release(self) -> None:
        """Guard it no longer; a closer that runs is waited for, two seconds at most, but not by a loop."""
        with _lock:
            self._released = True
            guards = _guards.get(self._slot)
            if guards is not None and self in guards:
                guards.remove(self)
                _tidy(self._slot)
        # A loop never waits: what it closes itself is done by now, and a process may be ended once more. Nor for what
        # a helper thread of a coroutine has guarded, which the loop releases when that has ended.
        if self._loop is None and _running_loop() is None and self._busy.acquire(timeout=_FINISH_S):
            self._busy.release()

    def is_due(self, now: float) -> bool:
        """Has its closer to be run, if the task is to end?"""
        return (not self.fired or self._closer.repeats) and now >= self._due_at

    def close(self) -> None:
        """Run the closer, here or in the loop that it belongs to."""
        self._due_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _REPEAT_S[1])
        if self._loop is None or self._closer.anywhere:
            self._context.run(self._close)
            return
        try:
            self._loop.call_soon_threadsafe(self._close, context=self._context)
        except RuntimeError:
            pass  # the loop is closed, and the task with it

    def _close(self) -> None:
        with self._busy:
            if self._released or not must_end(self._slot):
                return
            self.fired = True
            try:
                result = self._closer.close()
                if isinstance(result, Awaitable):
                    self._await(result)
            except BaseException as error:  # it is users' code, and must not end the thread that runs the others
                _complain(self._thing, error)

    def _await(self, result: Awaitable[object]) -> None:
        import asyncio

        if self._loop is None or _running_loop() is not self._loop:
            if hasattr(result, "close"):
                result.close()
            raise TypeError("its closer is a coroutine function, and the guard was not set in a coroutine")
        future = asyncio.ensure_future(result, loop=self._loop)
        future.add_done_callback(self._awaited)

    def _awaited(self, future: Any) -> None:
        if not future.cancelled() and future.exception() is not None:
            _complain(self._thing, future.exception())


def _running_loop() -> AbstractEventLoop | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop: AbstractEventLoop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop


def _complain(thing: object, error: BaseException) -> None:
    current.log.warning(
        f"current.guard: closing a {type(thing).__qualname__} failed: {type(error).__qualname__}: {error}"
    )


def _add(guard: Guard[Any]) -> None:
    global _watcher
    with _lock:
        _guards.setdefault(guard._slot, []).append(guard)
        _some.set()
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="qworker-guard", daemon=True)
            _watcher.start()


def _tidy(slot: context.Slot) -> None:
    """With the lock held: forget an attempt without guards."""
    if not _guards.get(slot, True):
        del _guards[slot]
    if not _guards:
        _some.clear()


def _ended(run: context.Run) -> None:
    """An attempt has ended: so have its guards. What its closers still do must not hit its successor."""
    while guards := _guards.get(run.slot):
        guards[-1].release()


def _watch() -> None:
    while True:
        _some.wait()
        now = time.monotonic()
        with _lock:
            due = [
                slot
                for slot, guards in _guards.items()
                if slot not in _closing and must_end(slot) and any(guard.is_due(now) for guard in guards)
            ]
            _closing.update(due)
        for slot in due:
            try:
                threading.Thread(target=_close_all, args=(slot,), name="qworker-guard-close", daemon=True).start()
            except RuntimeError:  # too many threads just now: at the next look
                with _lock:
                    _closing.discard(slot)
        time.sleep(_LOOK_EVERY_S)


def _close_all(slot: context.Slot) -> None:
    try:
        now = time.monotonic()
        with _lock:
            due = [guard for guard in reversed(_guards.get(slot, ())) if guard.is_due(now)]
        for guard in due:
            guard.close()
    finally:
        with _lock:
            _closing.discard(slot)


def _forked() -> None:
    """A copy of this process that user code made has none of these threads, and is asked nothing."""
    global _lock, _some, _watcher
    _lock = threading.Lock()
    _some = threading.Event()  # the watcher may have held the lock in the other
    _watcher = None
    _guards.clear()
    _closing.clear()


os.register_at_fork(after_in_child=_forked)
context.on_end(_ended)
