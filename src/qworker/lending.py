"""What a task does while it waits for other tasks: it lends its slot, and heeds who asks it to end.

    Future.wait, await, wait(), as_completed() ──► Wait ──► slot.lend(ids) … slot.resume()
                       watcher thread ── asked? refused? ──► wake() ──► TaskInterrupt, PoolExhausted, WaitCycle

Used by futures, in a task only: in a plain call, a producer or an inline app nothing here runs. Nobody can be woken
through shared memory, so one thread per process looks for all waits of it, every 20 ms while there are any.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from . import context
from .errors import PoolExhausted, WaitCycle
from .shields import interruption, must_end

if TYPE_CHECKING:
    from .context import Run, Slot

__all__ = ["TaskEvent", "Wait", "run_that_lends", "unbroken"]

_LOOK_EVERY_S: Final = 0.02
_IDLE_LOOKS: Final = 50  # a thread that has nothing to look after ends after so many
_TOLD_AT_ONCE: Final = 10_000  # ids: a frame has an end; more are told as these are done

_unbroken: ContextVar[bool] = ContextVar("qworker.unbroken", default=False)


def run_that_lends() -> Run | None:
    """Return the run that waits when this code waits; None: it has no slot to lend."""
    run = context.running()
    return None if run is None or isinstance(run.slot, context.Nowhere) else run


@contextmanager
def unbroken() -> Iterator[None]:
    """Let waits in this block go on although the task is asked to end: who cleans up has to see the end of others."""
    token = _unbroken.set(True)
    try:
        yield
    finally:
        _unbroken.reset(token)


class _Waits:
    """All waits of one attempt: the worker hears of them as of one."""

    __slots__ = ("_active", "_last", "_lock", "_told")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: set[Wait] = set()
        self._told: set[str] = set()  # what the worker takes it to wait for, while it waits
        self._last: Sequence[str] = ()  # of the wait that told that, when it was alone

    def add(self, slot: Slot, wait: Wait) -> None:
        with self._lock:
            alone = not self._active
            self._active.add(wait)
            if not alone and len(self._told) < _TOLD_AT_ONCE:
                # One of many, as under asyncio.gather: what each adds is told, not all of them each time.
                fresh = [id_ for id_ in wait.ids if id_ not in self._told][:_TOLD_AT_ONCE]
                if fresh:
                    self._told.update(fresh)
                    slot.lend(fresh, more=True)
            elif alone and wait.ids is self._last:
                slot.lend((), more=True)  # a loop over as_completed waits a thousand times for the same thousand
            else:
                ids = dict.fromkeys(id_ for one in (wait, *self._active) for id_ in one.ids)
                self._last = wait.ids if alone else ()
                self._told = set(itertools.islice(ids, _TOLD_AT_ONCE))
                slot.lend(tuple(itertools.islice(ids, _TOLD_AT_ONCE)), more=False)

    def remove(self, slot: Slot, wait: Wait) -> None:
        with self._lock:
            self._active.remove(wait)
            if not self._active:
                slot.resume()  # until then it is taken to wait for what it waited for lately, which does no harm


class Wait:
    """One wait of a task, as a context manager around what blocks.

    `wake` is called, from another thread and perhaps more than once, when it must not go on: `woken` is True then, and
    `check` says why. A wait that is not `interruptible` goes on when the task is asked to end (asyncio's own
    cancellation ends an `await`), but not without a place for what it waits for. One that is `timed` comes to its end
    even if what it waits for waits for it.

    Raises:
        WaitCycle: the task would wait for itself.
    """

    __slots__ = ("_waits", "ids", "interruptible", "run", "timed", "wake", "woken")

    def __init__(
        self,
        run: Run,
        ids: Sequence[str],
        wake: Callable[[], None],
        *,
        interruptible: bool = True,
        timed: bool = False,
    ) -> None:
        self.run = run
        self.ids = ids
        self.wake = wake
        self.woken = False
        self.interruptible = interruptible and not _unbroken.get()
        self.timed = timed
        if len(ids) == 1 and ids[0] == run.id and not timed:
            raise WaitCycle(
                f"task {run.id} ({run.name}) cannot wait for itself: it could never end; "
                "return from the task, and let who submitted it wait"
            )
        with _lock:
            waits = _by_slot.get(run.slot)
            if waits is None:
                waits = _by_slot[run.slot] = _Waits()
        self._waits = waits

    def __enter__(self) -> Wait:
        self._waits.add(self.run.slot, self)
        _watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _watched.discard(self)
        self._waits.remove(self.run.slot, self)

    def disturbed(self) -> bool:
        """Must it end before what it waits for has?"""
        return (self.interruptible and must_end(self.run.slot)) or bool(self._refused())

    def _refused(self) -> str:
        refused = self.run.slot.refused()
        return "" if refused == "cycle" and self.timed else refused

    def check(self, shown: str) -> None:
        """Say why it must not go on, if it must not.

        Raises:
            TaskInterrupt: the task was asked to end.
            PoolExhausted: its worker has no place in which what it waits for could run.
            WaitCycle: what it waits for waits for it.
        """
        slot = self.run.slot
        if self.interruptible and must_end(slot):
            raise interruption(slot)
        refused = self._refused()
        if refused == "cycle":
            raise WaitCycle(
                f"task {self.run.id} ({self.run.name}) cannot wait for {shown}: that waits, perhaps through others, "
                "for this task, so none of them could ever end; wait in one direction only"
            )
        if refused:
            raise PoolExhausted(
                f"task {self.run.id} ({self.run.name}) cannot wait for {shown}: its worker would have to run it, and "
                "all of its slots and of the places that it may lend (--max-lent) are taken by tasks that wait, too; "
                "give the worker a larger --max-lent, start another worker, or nest less deeply"
            )


class TaskEvent(threading.Event):
    """What `concurrent.futures.wait` and `as_completed` block on, in a task: the wait of a task."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._pending: list[weakref.ref[Any]] = []
        self._ids: list[str] = []
        self._waits = 0  # since the ids were listed

    def add(self, future: Any) -> None:
        """One more future is waited for."""
        self._pending.append(weakref.ref(future))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, by a future.

        Raises:
            TaskInterrupt, PoolExhausted: as `Future.result` in a task.
        """
        if self.is_set():
            return True
        if self._waits * 2 >= min(len(self._ids), _TOLD_AT_ONCE):
            # Listed anew only when about half of them may be done, so that a thousand waits do not list a thousand.
            held = [ref() for ref in self._pending]
            futures = [future for future in held if future is not None and not future.done()]
            self._pending = [weakref.ref(future) for future in futures]
            self._ids = [future.id for future in futures]
            self._waits = 0
            del held, futures
        self._waits += 1
        with Wait(self._run, self._ids, self.set, timed=timeout is not None) as wait:
            ended = super().wait(timeout)
        if wait.woken:
            wait.check(f"{len(self._ids)} tasks" if len(self._ids) != 1 else f"task {self._ids[0]}")
        return ended


# ── the watcher ──────────────────────────────────────────────────────────────────────────────────────────────────

_lock = threading.Lock()  # guards what follows; never held while foreign code runs
_by_slot: weakref.WeakKeyDictionary[Slot, _Waits] = weakref.WeakKeyDictionary()
_watched: set[Wait] = set()
_watching = False


def _watch(wait: Wait) -> None:
    global _watching
    with _lock:
        _watched.add(wait)
        start = not _watching
        _watching = True
    if start:
        threading.Thread(target=_look_after, name="qworker-waits", daemon=True).start()


def _look_after() -> None:
    global _watching
    idle = 0
    pause = threading.Event()
    while True:
        with _lock:
            waits = list(_watched)
            idle = 0 if waits else idle + 1
            if idle > _IDLE_LOOKS:
                _watching = False
                return
        for wait in waits:
            if wait.disturbed():
                wait.woken = True
                wait.wake()
        del waits
        pause.wait(_LOOK_EVERY_S)


def _forget_parent() -> None:
    """After a fork, in the child: its threads are gone, and the task is its parent's."""
    global _lock, _by_slot, _watched, _watching
    _lock, _by_slot, _watched, _watching = threading.Lock(), weakref.WeakKeyDictionary(), set(), False


os.register_at_fork(after_in_child=_forget_parent)
