"""The thread that runs done-callbacks: never the I/O thread, so that a callback may block, submit or wait.

    Future settles ─► run(future) ─► SimpleQueue ─► thread "qworker-callbacks" ─► future.run_callbacks()

One for the whole process, started by the first callback. A daemon: at exit what is still queued is dropped, as the
tasks themselves are left in Redis; but an Executor that is shut down waits for it, as for its tasks.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
from typing import Protocol

__all__ = ["drain", "run"]

_EXIT_WAIT_S = 0.05
_LOOK_EVERY_S = 0.5


class HasCallbacks(Protocol):
    def run_callbacks(self) -> None: ...


class _Mark:
    """Stands in the queue behind what was queued before."""

    def __init__(self) -> None:
        self.reached = threading.Event()

    def run_callbacks(self) -> None:
        self.reached.set()


class _Thread:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[HasCallbacks | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False

    def run(self, future: HasCallbacks) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._work, name="qworker-callbacks", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:
                        return  # the interpreter is about to end: no new threads, and so no callbacks
                    self._thread = thread
        self._queue.put(future)

    def drain(self) -> None:
        """Wait until all that is queued now has run. Nothing happens on this very thread, below a callback."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        mark = _Mark()
        self._queue.put(mark)
        while not mark.reached.wait(_LOOK_EVERY_S) and thread.is_alive():
            pass

    def end(self) -> None:
        """Stop after the callback that runs now; it is given a moment, no more."""
        self._ended = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._queue.put(None)
            self._thread.join(_EXIT_WAIT_S)

    def _work(self) -> None:
        while (future := self._queue.get()) is not None and not self._ended:
            try:
                future.run_callbacks()
            except BaseException:
                # A SystemExit, or what tells a task to end: the rest of this future's go with it, but not all others'.
                logging.getLogger("qworker.client").exception("a done-callback of %r ended by this; going on", future)
            del future  # do not keep the last one alive while waiting for the next


_thread = _Thread()


def run(future: HasCallbacks) -> None:
    """Have the future's callbacks called, soon, on the callbacks' thread."""
    _thread.run(future)


def drain() -> None:
    """Wait until the callbacks of all futures that have ended by now have been called."""
    _thread.drain()


def _renew_after_fork() -> None:
    # The child has neither the thread nor a claim on what was queued: those callbacks run in the parent.
    global _thread
    _thread = _Thread()


os.register_at_fork(after_in_child=_renew_after_fork)
atexit.register(lambda: _thread.end())
