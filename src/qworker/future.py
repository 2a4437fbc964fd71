"""`Future`: the handle of one task, a `concurrent.futures.Future` in all that the standard library asks of one.

    inbox, peek ─► settle(outcome) ─► waiters, `await`      at once, on the I/O thread
                                   └► done-callbacks        on the callbacks' thread
    result() ─► waits ─► verdict: decodes the value or rebuilds the exception, in the caller's thread

What the future knows by itself is what it was told (`done`, `cancelled`); what it asks the server for says so
(`running`, `cancel`, `stop`, `status`, and a `result` whose time is up). It is created by `App` and `Task`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from . import callbacks, codec, context, durations, lending, stopping, uninterrupted, unserved, verdict
from .errors import BrokerError, TaskError, WaitTimeout
from .lifecycle import HELD, State
from .loops import entrance
from .reports import Reports
from .status import Status, describe, describe_outcome, wait_timeout

if TYPE_CHECKING:
    import asyncio

    from .context import Run
    from .links import Channel, Link
    from .model import Outcome, Progress
    from .options import Duration
    from .views import Inspection, StopReceipt

__all__ = ["Future"]

R = TypeVar("R")


class _Condition(threading.Condition):
    """The standard library's, entered in C: its `__enter__` is Python, and Ctrl-C in it leaves the lock taken.

    The thread that settles would wait for that lock for ever, and with it everybody who awaits a result.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        super().__init__(self._mutex)

    @property
    def __enter__(self) -> Callable[[], bool]:
        return self._mutex.__enter__

    @property
    def __exit__(self) -> Callable[..., None]:
        return self._mutex.__exit__


# Stored with the standard library's state; what `exception()` returns is decoded when it is asked for.
_MADE_LATE: dict[str, Callable[[], Any]] = {
    "_condition": _Condition, "_waiters": list, "_done_callbacks": list,
}  # fmt: skip
_ENDED_BADLY = TaskError("see Future.exception()")


class Future(concurrent.futures.Future[R]):
    """The result of a task that runs elsewhere.

    `id` is the task's id, `queue:local`; `name` its name, empty when only the id is known. It works with
    `concurrent.futures.wait` and `as_completed`, with `asyncio.wrap_future`, and `await fut`. Giving up the wait, by
    timeout or by cancelling what awaits it, leaves the task alone; but what `asyncio.wrap_future` returns passes a
    cancel on, as it does for every future.
    """

    # Of a future that nothing has happened to yet. The first three are the standard library's.
    _state: str = "PENDING"
    _result: R | None = None
    _exception: BaseException | None = None
    _outcome: Outcome | None = None
    _missing: Exception | None = None
    _decoded: tuple[Any, Exception | None] | None = None
    _wakers: tuple[Callable[[], None], ...] = ()
    _reports: Reports | None = None
    run: Run | None = None  # the task that made it: its waits are that task's, on threads that know of none

    def __init__(self, id: str, *, name: str = "", link: Link | None = None) -> None:  # noqa: A002
        self.id = id
        self.name = name
        self._link = link
        if context.in_child():
            self._waiters: list[Any] = _Waiters(self, watch=False)
            self.run = lending.run_that_lends()

    def __getattr__(self, name: str) -> Any:
        """Make the lock and the lists of the standard library's future when they are first asked for.

        Its `__init__` would: 1.5 µs and 1 KB for each future of a bulk submit, awaited or not.
        """
        make = _MADE_LATE.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return self.__dict__.setdefault(name, make())  # one operation: of two threads, both get the first one's

    # What the standard library's future has, meaning the same.

    def result(self, timeout: float | None = None, then: Literal["stop"] | None = None) -> R:
        """Return what the task returned, or raise what it raised, as soon as it has ended.

        With `then="stop"` a task that has not ended within `timeout` seconds is not left alone: it is stopped, as by
        `stop()`, and the error's text and `receipt` tell what came of that.

        Raises:
            WaitTimeout: it had not ended within `timeout` seconds; the text says what it is doing. It goes on, unless
                `then="stop"`.
            TaskFailed, TaskTimedOut, TaskCancelled, TaskCrashed, TaskExpired: it ended without a value.
            ResultExpired, TaskNotFound: there is no outcome to be had.
            BrokerUnavailable: the server could not be reached for the first question.
        """
        self._wait(timeout, then)
        value, error = self._decode()
        if error is None:
            return value  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            del self, error  # break the cycle of the exception, its traceback and this frame

    def exception(self, timeout: float | None = None, then: Literal["stop"] | None = None) -> Exception | None:
        """Return what `result` would raise of the task, None if the task succeeded.

        Raises:
            WaitTimeout: as `result`.
            TaskCancelled: it was cancelled; raised, not returned, as in the standard library.
        """
        self._wait(timeout, then)
        error = self._decode()[1]
        if error is not None and self.cancelled():
            raise error
        return error

    def cancel(self) -> bool:
        """Cancel the task if it has not started. True if it will never run; a running task is left alone: see `stop`.

        Asks the server, once.
        """
        if not self.done():
            answer = self.client().stop(self.id, cancel_only=True, grace_ms=None)
            if answer.outcome is not None:
                self.learn(codec.unpack_outcome(answer.outcome))
        return self._outcome is not None and stopping.never_started(self._outcome)

    def running(self) -> bool:
        """Whether a worker holds the task, so that `cancel` would be refused. Asks the server, once."""
        return not self.done() and self.status().state in HELD

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[R]], object]) -> None:
        """Call `fn(future)` when the task has ended, on a thread of its own kind: it may block, wait and submit.

        It is called even if nobody holds the future. If the task has ended already, it is called here, at once.
        """
        super().add_done_callback(fn)
        if not self.done():
            self.client().keep(self)

    # What is qworker's own.

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the task has ended, at most so many seconds. True if it has, whichever way."""
        if not self.done():
            try:
                ends = None if timeout is None else time.monotonic() + timeout
            except TypeError:
                durations.check_wait(timeout)  # not before: many thousand results are waited for
                raise
            client = self.client()
            client.watch(self)
            run = lending.run_that_lends() or self.run
            if run is not None:
                self._wait_in_task(run, client, timeout)
            else:
                client.hear(self, timeout)
                with self._condition:
                    self._condition.wait_for(
                        lambda: self.done() or client.closed,
                        None if ends is None else max(0.0, ends - time.monotonic()),
                    )
            self._refuse_closed(client)
        return self.done()

    def stop(self, wait: Duration = 2.0, grace: Duration | None = None) -> StopReceipt:
        """End the task wherever it is, wait at most so long for it, and tell truthfully what came of it.

        A queued task never starts. A running one is asked to end, and after its grace (`grace` if given) ended by
        force. The receipt is true in a boolean sense exactly when the task's code is known not to run.
        """
        return stopping.stop(self, wait, grace)

    def status(self) -> Status:
        """Ask the server what the task is doing. Without asking, once it has ended."""
        outcome = self._outcome
        if outcome is not None:
            return describe_outcome(outcome, name=self.name)
        return self._found(self.client().inspect(self.id))

    def progress(self) -> Progress | None:
        """Return how far the task said that it is (`current.progress`), a second ago at most; None: nothing is known.

        What this app submitted is told to it, so nothing is asked once the first word has come; else the server is
        asked.
        """
        if self._reports is not None and self._reports.last is not None:
            return self._reports.last
        return None if self.done() else self.status().progress

    def add_progress_callback(self, fn: Callable[[Progress], object]) -> None:
        """Call `fn(progress)` whenever the task's progress has changed, about once a second, on the callbacks' thread.

        It is called even if nobody holds the future, and with the newest progress only. A task that ends within its
        first second may end untold.
        """
        reports = self._reports = self._reports or Reports()
        reports.add(fn)
        if not self.done():
            self.client().follow(self)

    @property
    def outcome(self) -> Outcome | None:
        """The outcome as it was recorded, None until it is known here."""
        return self._outcome

    def __await__(self) -> Generator[Any, None, R]:
        """Wait without blocking the loop. Raises what `result` raises; a remote cancel is TaskCancelled."""
        return self._arrive().__await__()

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        if self._outcome is not None:
            return f"<Future {self.id}{name} {self._outcome.state}>"
        return f"<Future {self.id}{name} {'missing' if self._missing else 'not known to have ended'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a future cannot be sent anywhere; send its id, {self.id!r}, and use app.future(id) there")

    @property
    def shown(self) -> str:
        """The task as messages call it."""
        return f"task {self.id} ({self.name})" if self.name else f"task {self.id}"

    def client(self) -> Channel:
        """Return the client that awaits this future."""
        if self._link is None:
            raise RuntimeError(f"{self!r} has no app: only App and Task make futures")
        return self._link.client()

    # For the client: all of these may be called from any thread.

    def settle(self, outcome: Outcome) -> None:
        """Take the outcome. The first one counts: a push and a peek may bring the same one."""
        with self._condition:
            self._take(outcome)
        self._wake()

    def settle_alone(self, outcome: Outcome) -> bool:
        """As `settle`, in the main thread, where Ctrl-C may end it at any line: `settle` does the rest again, then.

        False, and nothing is done, if again would not do: a callback, and what `wait` and `as_completed` put on a
        future, must be told once, neither never nor twice.
        """
        with self._condition:
            made = self.__dict__
            if made.get("_waiters") or made.get("_done_callbacks"):
                return False
            self._take(outcome)
        self._wake()
        return True

    def learn(self, outcome: Outcome) -> None:
        """Take an outcome that was asked for, in a thread of the user's."""
        if not (uninterrupted.may_be_interrupted() and self.settle_alone(outcome)):
            uninterrupted.call(functools.partial(self.settle, outcome))

    def give_up(self, *, submitted_here: bool) -> None:
        """There is neither a task nor an outcome of this id."""
        make = verdict.result_expired if submitted_here else verdict.not_found
        self.fail(make(self.id, shown=self.shown))

    def fail(self, error: Exception) -> None:
        """There will be no outcome, for this reason. Nothing happens if there is one."""
        with self._condition:
            if not self.done():
                self._missing = error
                self.set_exception(error)
        self._wake()

    def tell(self, progress: Progress) -> None:
        """Take what the task told of its progress."""
        self._reports = self._reports or Reports()
        self._reports.tell(progress)

    def run_callbacks(self) -> None:
        """Call the done-callbacks; the callbacks' thread does."""
        super()._invoke_callbacks()  # type: ignore[misc]

    def wake_waiters(self) -> None:
        """The client is closed: whoever waits is to look again."""
        with self._condition:
            self._condition.notify_all()
            if not self._waiters:
                self.watch_when_awaited()  # by the next client, which knows nothing of it yet
        self._wake()

    def add_waker(self, wake: Callable[[], None], client: Channel | None = None) -> bool:
        """Have `wake` called, on whatever thread, when it is done, or the client closed. False: that is so already."""
        with self._condition:
            # Settling takes the same lock before it wakes, so either it sees this waker or we see that it is done.
            waits = not self.done() and not (client is not None and client.closed)
            if waits:
                self._wakers += (wake,)
        return waits

    def remove_waker(self, wake: Callable[[], None]) -> None:
        """Call it no more."""
        with self._condition:
            self._wakers = tuple([one for one in self._wakers if one is not wake])

    def watch_when_awaited(self) -> None:
        """Nobody watches this one yet: see to it as soon as `concurrent.futures.wait` or `as_completed` takes it."""
        self._waiters = _Waiters(self, watch=True)

    def forget_parent(self) -> None:
        """After a fork, in the child: another thread may have held the lock, and callbacks belong to the parent."""
        self._condition = _Condition()
        self._done_callbacks: list[Any] = []
        self._reports = self.run = None
        self._wakers = ()
        self.watch_when_awaited()

    # Inside.

    def _take(self, outcome: Outcome) -> None:
        """With the lock held; again, if `settle_alone` was ended in the middle."""
        if self.done():
            self._condition.notify_all()
        else:
            self._outcome = outcome
            if outcome.state is State.CANCELLED:
                super().cancel()
            elif outcome.state is State.SUCCEEDED:
                self.set_result(None)  # type: ignore[arg-type] # decoded when it is asked for
            else:
                self.set_exception(_ENDED_BADLY)
        if self._state == "CANCELLED":
            self.set_running_or_notify_cancel()  # its second half: tells `wait` and `as_completed`

    def _invoke_callbacks(self) -> None:
        # The standard library calls this in the thread that settles: here the I/O thread, which must never block.
        if self._done_callbacks:
            callbacks.run(self)

    def _wait(self, timeout: float | None, then: Literal["stop"] | None = None) -> None:
        if then not in (None, "stop"):
            raise ValueError(f"then={then!r}: expected None or 'stop'")
        began = time.monotonic()
        try:
            if unserved.wait(self, timeout):
                return
        except TypeError:
            durations.check_wait(timeout)
            raise
        late = self._find_late(began)
        if late is not None:
            raise late if then is None else stopping.stop_late(self, late)

    def _find_late(self, began: float) -> WaitTimeout | None:
        # The push may be late or lost: ask before saying that it has not ended.
        try:
            status = self._found(self.client().inspect(self.id, timeout_s=1.0))
        except BrokerError as error:
            return self._late(None, began, trouble=f"what it is doing is not known, because {error}")
        return None if self.done() else self._late(status, began)

    def _late(self, status: Status | None, began: float, *, trouble: str = "") -> WaitTimeout:
        return wait_timeout(status, shown=self.shown, waited_s=time.monotonic() - began, trouble=trouble)

    def _found(self, inspection: Inspection) -> Status:
        if inspection.outcome is not None:
            self.learn(codec.unpack_outcome(inspection.outcome))
        return describe(self.id, inspection, name=self.name)

    def _decode(self) -> tuple[Any, Exception | None]:
        # Two threads may both decode; both results are right, and one of them stays.
        if self._decoded is None:
            if self._outcome is None:
                assert self._missing is not None
                self._decoded = (None, self._missing)
            else:
                error = verdict.error_of(self._outcome, shown=self.shown)
                value = None if error is not None else verdict.value_of(self._outcome, shown=self.shown)
                self._decoded = (value, error)
        return self._decoded

    def _wait_in_task(self, run: Run, client: Channel, timeout: float | None) -> None:
        """Wait as a task does: its slot is lent meanwhile, and it can be asked to end."""
        with (
            lending.Wait(run, (self.id,), self._notify, timed=timeout is not None) as wait,
            self._condition,
        ):
            self._condition.wait_for(
                lambda: self.done() or client.closed or wait.disturbed(),
                None if timeout is None else max(0.0, timeout),
            )
        if not self.done():
            wait.check(self.shown)

    def _notify(self) -> None:
        with self._condition:
            self._condition.notify_all()

    async def _arrive(self) -> R:
        import asyncio  # a child that runs no coroutine never loads it

        if self._link is not None and not self._link.connected:
            await asyncio.to_thread(self.client)
        if not self.done():
            client = self.client()
            client.watch(self)
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            wake = functools.partial(entrance(loop).let_in, waiter)
            if self.add_waker(wake, client):
                run = lending.run_that_lends() or self.run
                try:
                    if run is None:
                        await waiter
                    else:
                        with lending.Wait(run, (self.id,), wake, interruptible=False) as wait:
                            await waiter
                        if not self.done():
                            wait.check(self.shown)
                finally:
                    self.remove_waker(wake)
            self._refuse_closed(client)
        return self.result()

    def _refuse_closed(self, client: Channel) -> None:
        if not self.done() and client.closed:
            raise RuntimeError(f"the app was closed while {self.shown} was awaited; the task itself is left alone")

    def _wake(self) -> None:
        wakers = self._wakers
        for wake in wakers:
            wake()
        if wakers:
            with self._condition:  # only now: see `settle_alone`
                self._wakers = tuple([wake for wake in self._wakers if wake not in wakers])


class _Waiters(list[Any]):
    """What the standard library's `wait` and `as_completed` append themselves to, on a future of ours.

    `watch`: nobody watches it yet. In a task they get an event that lends its slot while they block on it.
    """

    def __init__(self, future: Future[Any], *, watch: bool) -> None:
        super().__init__()
        self._future = weakref.ref(future)
        self._watch = watch

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        future = self._future()
        if future is None:
            return
        if self._watch:
            future.client().watch(future)
        run = lending.run_that_lends() or future.run
        if run is not None:
            # Nobody has waited or set it yet: the futures are locked while the waiter is handed to them.
            if not isinstance(waiter.event, lending.TaskEvent):
                waiter.event = lending.TaskEvent(run)
            waiter.event.add(future)
