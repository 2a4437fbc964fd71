"""What an executor has submitted and not got back; it outlives the executor, and ends what belongs to it.

    Executor ──sending()──► await_(futures) ──► pending ──► (a future ends) ──► dropped
    shut_down, abandon (nobody holds the executor), the interpreter's exit ──► finish: wait for all, end the own worker
    own worker died ──► break_ ──► every pending future raises BrokenExecutor

As with the standard library's executors, the interpreter waits for pending work before it exits.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import callbacks, uninterrupted
from .errors import BrokerError, PoolExhausted, QWorkerError, SubmitUnknown, WaitCycle

if TYPE_CHECKING:
    from .app import App
    from .future import Future
    from .own_worker import OwnWorker

__all__ = ["Outstanding", "cancel_all"]

# A server that dies with its worker is noticed by whoever uses it a moment before the worker's end is told.
_BREAK_WITHIN_S = 1.0


class Outstanding:
    """The pending futures of one executor, and its end. Any thread may call anything."""

    def __init__(self, app: App, own: OwnWorker | None, *, own_app: bool) -> None:
        self.app = app
        self._own = own
        self._own_app = own_app
        # Reentrant: the garbage collector may call `abandon` in the very thread that holds it.
        self._changed = threading.Condition(threading.RLock())
        self._sends = 0  # under way
        self._pending: set[Future[Any]] = set()
        self._broken = ""
        self._shut_down = False
        self._finishing = False
        self._finished = False
        _all.add(self)

    @contextlib.contextmanager
    def sending(self) -> Iterator[App]:
        """Be open for as long as the block submits.

        Raises:
            RuntimeError: nothing is taken any more.
            concurrent.futures.BrokenExecutor: its own worker has ended.
        """
        with self._changed:
            self._refuse()
            self._sends += 1
        try:
            if self._own is not None:
                self._own.wait_ready()
                self._refuse_broken()
            yield self.app
        except (BrokerError, SubmitUnknown):
            if self._own is not None:
                with self._changed:
                    self._changed.wait_for(lambda: self._broken, _BREAK_WITHIN_S)
                self._refuse_broken()
            raise
        finally:
            with self._changed:
                self._sends -= 1
                self._changed.notify_all()

    def await_(self, futures: Iterable[Future[Any]]) -> None:
        """Count these as pending until they end."""
        for future in futures:
            with self._changed:
                self._pending.add(future)
                broken = self._broken
            if broken:
                future.fail(concurrent.futures.BrokenExecutor(broken))
            # Not a done-callback: those cost a change of threads, and a slow one of the user's would hold up ours.
            if not future.add_waker(functools.partial(self._drop, future)):
                self._drop(future)

    def shut_down(self, *, wait: bool, cancel: bool) -> None:
        """Take nothing more; see `Executor.shutdown`."""
        with self._changed:
            self._shut_down = True
            pending = list(self._pending)
        if cancel:
            cancel_all(self.app, pending)
        if wait:
            self.finish()
        else:
            self._finish_later()

    def abandon(self) -> None:
        """Nobody can submit any more: the executor was collected."""
        with self._changed:
            self._shut_down = True
            if self._finished:
                return
        self._finish_later()

    def interrupt(self) -> None:
        """Ctrl-C: what an own worker runs is asked to end, as the processes of a pool hear Ctrl-C themselves.

        Nothing happens where the worker is others'.
        """
        if self._own is None:
            return
        with self._changed:
            self._shut_down = True
            if self._finished or self._broken:
                return
        why = "the Executor was ended by Ctrl-C, and its own worker with it"
        uninterrupted.call(functools.partial(self._fail_all, why))
        self.finish()

    def finish(self) -> None:
        """Wait until nothing is pending, then end what belongs to this executor."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or not self._finishing)
            if self._finished:
                return
            self._finishing = True
        try:
            self._wait_for_all()
            callbacks.drain()  # a future that has ended has queued its own by then
            if self._own_app:
                self.app.close()  # before its server ends
            if self._own is not None:
                self._own.end()
            _all.discard(self)
            self._finished = True
        finally:  # also when Ctrl-C cut it short: the next one begins anew
            with self._changed:
                self._finishing = False
                self._changed.notify_all()

    def break_(self, why: str) -> None:
        """The own worker has ended before its time: so have all futures."""
        self._fail_all(f"the Executor's own worker is gone: {why}; what was submitted to it is lost")
        self.app.close()  # its server has gone, too: nobody is to look for it

    def leave_parent(self) -> None:
        """In a forked child: what was submitted is awaited by the parent, whose worker it is."""
        self._changed = threading.Condition(threading.RLock())
        self._sends, self._pending, self._own, self._finishing = 0, set(), None, False

    def _refuse(self) -> None:
        self._refuse_broken()
        if _exit.begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _refuse_broken(self) -> None:
        if self._broken:
            raise concurrent.futures.BrokenExecutor(self._broken) from None

    def _fail_all(self, why: str) -> None:
        with self._changed:
            self._broken = why
            pending = list(self._pending)
            self._changed.notify_all()
        for future in pending:
            future.fail(concurrent.futures.BrokenExecutor(why))

    def _drop(self, future: Future[Any]) -> None:
        with self._changed:
            self._pending.discard(future)

    def _wait_for_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._sends)
                if not self._pending:
                    return
                future = next(iter(self._pending))
            try:
                future.wait()
            except (PoolExhausted, WaitCycle):
                raise  # in a task: it goes on beside what it was to wait for, and has to know
            except (RuntimeError, QWorkerError):
                pass  # its app was closed, or its server cannot be reached: nobody will hear of it
            self._drop(future)

    def _finish_later(self) -> None:
        thread = threading.Thread(target=self.finish, name="qworker-executor", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            pass  # the interpreter is about to end, and waits for this by itself


def cancel_all(app: App, futures: Iterable[Future[Any]]) -> None:
    """Cancel those of the futures that no worker holds, in as few round trips as it takes."""
    ids = [future.id for future in futures if not future.done()]
    if ids and not app.inline:
        try:
            app.client().cancel_many(ids)
        except QWorkerError:
            pass  # they run, as those that a worker holds do


class _Exit:
    """The interpreter's exit: before its threads are joined, and so before apps let go of their connections."""

    def __init__(self) -> None:
        self.begun = False

    def wait(self) -> None:
        self.begun = True
        for one in list(_all):
            if _ended_by_ctrl_c():
                one.interrupt()
            one.finish()


def _ended_by_ctrl_c() -> bool:
    # In an interactive session it tells of the last error, which may be an old one.
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")


_all: set[Outstanding] = set()
_exit = _Exit()


def _renew_after_fork() -> None:
    for one in _all:
        one.leave_parent()


os.register_at_fork(after_in_child=_renew_after_fork)
threading._register_atexit(_exit.wait)  # type: ignore[attr-defined] # where the standard library's executors wait
