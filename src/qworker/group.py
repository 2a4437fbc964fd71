"""`Group`: tasks that end together, as `asyncio.TaskGroup` has it, wherever they run.

    with app.group(timeout=60) as g:       opened on the server (group_open.lua), leased to this process
        g.submit(task, …)                  listed in the group, then queued; so is all that the task itself submits
        …
    left ─► Leaving (group_exit.py): waits for the whole tree; one ExceptionGroup for all that failed

A child that ends is accounted for where it is heard of: one failure too many, and the group is stopped, which is one
write on the server; workers and whoever waits find it there. Nothing here talks to workers.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from . import context, durations, ids
from .errors import BadOption, BrokerError, ConfigError, GroupStopped, NotReplicated, Refused, SubmitUnknown
from .group_exit import Leaving
from .lifecycle import State
from .place import Place, here
from .task import call_of

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from .future import Future
    from .group_async import Scope
    from .group_server import Opener
    from .model import Draft
    from .options import Duration
    from .task import BoundTask, Call
    from .views import StopReceipt

__all__ = ["Group"]

P = ParamSpec("P")
R = TypeVar("R")

OnOwnerLoss = Literal["cancel", "detach"]


class Group:
    """Tasks that end together. Made by `App.group`, and used once, by `with` or `async with`.

    The block ends when every task of the tree has ended (what the group's tasks submit belongs to the tree, unless it
    is submitted with `detached=True`), or is listed in `survivors`. `id` names the group for `App.stop(group=…)`,
    `qworker stop --group` and `qworker show`. Yours are `submit`, `asubmit`, `submit_many`, `stop`, `astop`,
    `remaining`, `futures`, `receipts`, `survivors`, `stopped` and `why`; the other methods are qworker's own.
    """

    def __init__(
        self,
        app: Opener,
        *,
        timeout: Duration | None = None,
        max_failures: int = 0,
        on_owner_loss: OnOwnerLoss = "cancel",
        name: str = "",
    ) -> None:
        if isinstance(max_failures, bool) or not isinstance(max_failures, int) or max_failures < 0:
            raise BadOption(f"max_failures={max_failures!r}: expected a whole number of at least 0")
        if on_owner_loss not in ("cancel", "detach"):
            raise BadOption(f"on_owner_loss={on_owner_loss!r}: expected one of cancel, detach")
        self.id = f"g-{ids.new_local_id()}"
        self.name = name
        self.max_failures = max_failures
        self.app = app
        if not isinstance(name, str):
            raise BadOption(f"name={name!r}: expected text")
        try:
            self._timeout_s = None if timeout is None else durations.seconds(timeout)
        except ConfigError as error:
            raise BadOption(f"timeout: {error}") from None
        if self._timeout_s == 0:
            raise BadOption(f"timeout={timeout!r}: no group can end in no time; None means no limit")
        self._on_owner_loss = on_owner_loss
        self._pid = os.getpid()
        self._outer: Group | None = None  # the innermost of this app around it
        self._around: Group | None = None  # the innermost of any app
        self._place: Place | None = None  # of its children, while it is open
        self._run: context.Run | None = None  # the task that opened it
        self._left = False
        self._leaving: Leaving | None = None
        self._scope: Scope | None = None  # of `async with`
        # Under the lock: submitters and those who hear of an end meet here, a signal's handler among them.
        self._lock = threading.RLock()
        self._futures: list[Future[Any]] = []
        self._failed: list[Future[Any]] = []  # in the order in which they were heard to have failed
        self._pending: set[Future[Any]] = set()
        self.stop_reason: str | None = None  # why it was stopped from here; None: it was not
        self.stopped_by_owner = False  # by `stop`: then that is no error
        self.stop_grace_ms: int | None = None
        self.told_reason: str | None = None  # why somebody else stopped it
        self.unsent = False  # the server has not confirmed the stop yet
        self.watchers: list[Callable[[], None]] = []  # called, on any thread, when a child ends or the group is stopped

    # Submitting

    @overload
    def submit(self, target: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def submit(self, target: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...
    @overload
    def submit(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    def submit(self, target: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task in the group: `g.submit(task, …)`, `g.submit(task.options(…), …)`, by function or by name.

        One with an id of its own that has ended is the same task, and does not run again: if an earlier group, as of a
        failed attempt of the same parent, cancelled it, it stays cancelled.

        Raises:
            GroupStopped: the group was stopped, its block was left, or its time is up; nothing was queued.
            Refused, SubmitUnknown, BrokerUnavailable: as `Task.submit`.
        """
        return self._send([self._draft(self.app.named(target), args, kwargs)])[0]

    def submit_many(self, calls: Iterable[Call[R]]) -> list[Future[R]]:
        """Queue calls of any tasks (`task.call(…)`) in the group, some hundred per round trip; see `submit`."""
        place = self._open_place()
        return self._send([call_of(one).draft(place=place) for one in calls])

    @overload
    async def asubmit(self, target: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    async def asubmit(self, target: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...
    @overload
    async def asubmit(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    async def asubmit(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    async def asubmit(self, target: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """`submit` without blocking the event loop."""
        future = await self.app.asend(self._draft(self.app.named(target), args, kwargs))
        self._adopt([future])
        return future

    # Looking and stopping

    @property
    def futures(self) -> tuple[Future[Any], ...]:
        """The futures of what was submitted into it here, in that order."""
        with self._lock:
            return tuple(self._futures)

    @property
    def stopped(self) -> bool:
        """Whether it, or a group around it, is known here to be stopped: nothing of it starts any more."""
        own = self.stop_reason is not None or self.told_reason is not None
        return own or (self._outer is not None and self._outer.stopped)

    @property
    def receipts(self) -> tuple[StopReceipt, ...]:
        """What became of each task, once the block is left: of `futures` in their order, then what else survived."""
        return self._leaving.receipts if self._leaving is not None else ()

    @property
    def survivors(self) -> tuple[StopReceipt, ...]:
        """Those of `receipts` whose code still runs, or of which nobody can tell."""
        return tuple(receipt for receipt in self.receipts if receipt.still_running is not False)

    def remaining(self) -> float | None:
        """Return the seconds until its time is up, at least 0; None: it has no limit, nor has what is above it."""
        ends = None if self._place is None else self._place.ends
        return None if ends is None else max(0.0, ends - time.monotonic())

    def stop(self, grace: Duration | None = None) -> None:
        """Stop the group: what is queued never starts, what runs is asked to end, and forced after its grace.

        `grace` is given to all tasks in place of their own. One round trip, however many tasks there are; the block
        waits for their ends. Leaving the block after that is no error, also not by the GroupStopped of a submit.
        """
        self.stopped_by_owner = True
        self.halt("stopped by its owner", None if grace is None else durations.milliseconds(grace))
        if self.unsent:
            self.send_stop()

    async def astop(self, grace: Duration | None = None) -> None:
        """`stop` without blocking the event loop."""
        from .group_async import in_thread

        await in_thread(lambda: self.stop(grace))

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        state = "not entered" if self._place is None else "stopped" if self.stopped else "open"
        state = "left" if self._left else state
        return f"<Group {self.id}{name}, {len(self._futures)} tasks, {state}>"

    # The block

    def __enter__(self) -> Self:
        place = self.prepare()
        self.open(place)
        self.opened(place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._pid != os.getpid():
            return False  # a copy of the process leaves its copy of the block: the group is the parent's
        leaving = Leaving(self, error)
        try:
            return leaving.run()
        finally:
            self._leave(leaving)

    async def __aenter__(self) -> Self:
        from .group_async import Scope  # a process that runs no coroutine never loads asyncio

        self._scope = Scope(self)
        await self._scope.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        scope = self._scope
        assert scope is not None, "it was entered"
        leaving = Leaving(self, error)
        try:
            return await scope.leave(leaving, error)
        finally:
            self._leave(leaving)

    # Inside; `group_exit` and `group_async` call these, too

    @property
    def children(self) -> list[Future[Any]]:
        """A copy of the list of its futures."""
        with self._lock:
            return list(self._futures)

    @property
    def failures(self) -> list[Future[Any]]:
        """The futures whose tasks are known to have failed, in the order in which that was heard."""
        with self._lock:
            return list(self._failed)

    @property
    def pending(self) -> list[Future[Any]]:
        """A copy of the set of its futures that are not known to be done."""
        with self._lock:
            return list(self._pending)

    @property
    def path(self) -> tuple[str, ...]:
        """The groups above it, the outermost first."""
        return self._place.groups[:-1] if self._place is not None else ()

    @property
    def slot(self) -> context.Slot | None:
        """The slot of the task that opened it; None: no task did."""
        return self._run.slot if self._run is not None else None

    @property
    def why(self) -> str:
        """Why it, or a group around it, was stopped."""
        own = self.stop_reason or self.told_reason
        return own or (self._outer.why if self._outer is not None else "")

    @property
    def stopped_id(self) -> str:
        """Which group it was that was stopped: this one, or one around it."""
        own = self.stop_reason is not None or self.told_reason is not None or self._left
        return self.id if own or self._outer is None else self._outer.stopped_id

    def halt(self, reason: str, grace_ms: int | None = None) -> None:
        """Note that it is to be stopped; `send_stop` tells the server."""
        with self._lock:
            if self.stop_reason is None and self.told_reason is None:
                self.stop_reason, self.unsent = reason, True
            if grace_ms is not None and grace_ms != self.stop_grace_ms:
                self.stop_grace_ms, self.unsent = grace_ms, True
        self._wake()

    def send_stop(self) -> None:
        """Tell the server that it is stopped: one write, however large it is."""
        self.app.groups().stop(self.id, grace_ms=self.stop_grace_ms, reason=self.stop_reason or "stopped")
        self.unsent = False

    def told(self, state: str, reason: str) -> None:
        """Take note of where it stands on the server; the client's I/O thread calls this."""
        if state == "stopped" and self.stop_reason is None and self.told_reason is None:
            self.told_reason = reason or "stopped"
            self._wake()

    def prepare(self) -> Place:
        """Return the place that its children will have; in the context of whoever enters the block."""
        if self._place is not None or self._left:
            raise RuntimeError(f"{self!r} cannot be entered twice: a group is one block")
        self._around = outer = _innermost.get()
        while outer is not None and (outer.app is not self.app or outer._left):
            outer = outer._around
        self._outer = outer
        self._run = context.running()
        above = self._outer._place if self._outer is not None else here(self.app)
        ends = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        place = (above or Place()).below(self.id, ends)
        left_s = None if place.ends is None else place.ends - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise GroupStopped(f"cannot open group {self.id}: the time of what it is in is up", group=place.by)
        if self._run is not None:
            # Before it is opened: a task that dies in between has told its worker of a group that is not there, which
            # is harmless; the other way round nobody would know of it until its lease lapses.
            self._run.slot.group(self.id, True)
        return place

    def open(self, place: Place) -> None:
        """Open it on the server."""
        left_s = None if place.ends is None else place.ends - time.monotonic()
        self.app.groups().open(
            self,
            path=place.groups[:-1],
            name=self.name,
            opener=self._run.id if self._run is not None else f"process {os.getpid()}",
            on_loss=self._on_owner_loss,
            timeout_ms=0 if left_s is None else max(1, int(left_s * 1000)),
        )

    def opened(self, place: Place) -> None:
        """It is open: tasks may be submitted."""
        self._place = place
        _innermost.set(self)

    def _leave(self, leaving: Leaving) -> None:
        self._left = True
        self._leaving = leaving
        _innermost.set(self._around)
        if self._run is not None and leaving.closed:
            self._run.slot.group(self.id, False)  # else its worker ends it, together with the task

    def _open_place(self) -> Place:
        place = self._place
        if place is None:
            raise RuntimeError(f"{self!r} takes tasks inside of its block only: with app.group() as g: g.submit(…)")
        if self._left or self.stopped:
            why = "its block was left" if self._left else f"it was stopped ({self.why})"
            raise GroupStopped(f"cannot submit into group {self.id}: {why}; nothing was queued", group=self.stopped_id)
        return place

    def _draft(self, task: BoundTask[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Draft:
        return task.draft(args, kwargs, self._open_place())

    def _send(self, drafts: list[Draft]) -> list[Future[Any]]:
        try:
            futures = self.app.send(drafts)
        except (Refused, SubmitUnknown, NotReplicated) as error:
            self._adopt(error.accepted)
            raise
        self._adopt(futures)
        return futures

    def _adopt(self, futures: Iterable[Future[Any]]) -> None:
        fresh = list(futures)
        with self._lock:
            self._futures += fresh
            self._pending.update(fresh)
        for future in fresh:
            # Not a done-callback: a slow one of the user's would hold up the stop of its siblings.
            if not future.add_waker(functools.partial(self._ended, future)):
                self._ended(future)

    def _ended(self, future: Future[Any]) -> None:
        if future.done() and self._count(future):
            # Whoever heard of it may be the thread that hears of everything: it waits for no server.
            thread = threading.Thread(target=self._try_stop, name="qworker-group-stop", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                pass  # no more threads: the block says it when it is left

    def account(self, future: Future[Any]) -> None:
        """Count a child that has ended, by who waits for it. The first one counts."""
        if self._count(future):
            self._try_stop()

    def _try_stop(self) -> None:
        try:
            self.send_stop()
        except (BrokerError, RuntimeError):
            pass  # it stays unsent, and the block says it again when it is left

    def _count(self, future: Future[Any]) -> bool:
        """Say whether that was one failure too many."""
        outcome = future.outcome
        # Cancelled is not failed: the group's own stop does that to the siblings of a child that failed.
        failed = outcome is None or outcome.state not in (State.SUCCEEDED, State.CANCELLED)
        with self._lock:
            if future not in self._pending:
                return False
            self._pending.discard(future)
            last = not self._pending
            if failed:
                self._failed.append(future)
            over = len(self._failed) > self.max_failures and self.stop_reason is None
        if over:
            self.halt(f"{future.shown} failed")
        elif last:
            self._wake()
        return over

    def _wake(self) -> None:
        for watcher in list(self.watchers):
            watcher()


# Groups opened inside of a group's block are below it. Tasks are only in a group by its own `submit`.
_innermost: ContextVar[Group | None] = ContextVar("qworker.group", default=None)
