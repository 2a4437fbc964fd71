"""How the block of a group is left: wait for the whole tree, stop what must end, then say what went wrong.

    advance ─► all children done? ─► others in the tree? ─► close (group_close.lua) ─► None: left
       ▲            │ no                  │ yes: wait for those, too
       └── pause ◄──┴─────────────────────┘        stopped: what is queued is cancelled from here, without any worker

`advance` blocks for a few round trips at most, `pause` waits; `with` calls both in its thread, `async with` has its own
pause. A server that does not answer is asked again until it does: nobody knows of any end without it.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import stopping
from .errors import BrokerError, GroupStopped, PoolExhausted, ServerFull, TaskCancelled, WaitCycle
from .lifecycle import State
from .shields import interruption
from .status import Status
from .views import Closed

if TYPE_CHECKING:
    from .future import Future
    from .group import Group
    from .views import StopReceipt

__all__ = ["Leaving"]

LOOK_S = 2.0  # how often it looks for what no push tells
SWEEP_S = 2.0
SILENT_S = 3.0  # how long a worker's lease must have been over before a stopped task on it is given up
_LOOKED_AT = 64  # tasks whose workers are looked at in one round
_ASKED_WITHIN_S = 2.0  # a stop of a group reaches what runs within a second
_TOLD = 100  # survivors that a closed group remembers


class Leaving:
    """The end of one block. Owned by the thread or coroutine that leaves it."""

    def __init__(self, group: Group, error: BaseException | None) -> None:
        self._group = group
        self._error = error
        self.interrupt = error if error is not None and not isinstance(error, Exception) else None
        self._began = time.monotonic()
        self._woken = threading.Event()
        self._others: dict[str, Future[Any]] = {}  # of the tree, submitted by its tasks
        self._unheard: set[str] = set()  # those of them that are not known to have ended
        self._survived: dict[str, Future[Any]] = {}  # of the others: those whose code runs on
        self._silent: dict[str, Status] = {}  # given up: stopped, and on a worker that is silent
        self._seen = 0  # members of the group that are known to have ended
        self._swept = 0.0
        self._sweeps = 0
        self.closed = False
        self._end_of = Closed("")  # what the server said when the group was closed
        group.watchers.append(self._woken.set)
        if error is not None:
            group.halt(f"its block was left by {type(error).__name__}")

    def run(self) -> bool:
        """Wait until the block may be left, and raise what it is left with. True if the body's error is no error.

        An interrupt that comes meanwhile stops the group and is raised when the tree has ended; a second one at once.
        """
        while True:
            try:
                while (pending := self.advance()) is not None:
                    self._pause(pending)
                break
            except (PoolExhausted, WaitCycle) as error:
                # What it waits for cannot come to its end: what is queued of it is cancelled, and the block says why.
                self._error = self._error or error
                self._group.halt(f"its worker refused to wait for it: {error}")
            except Exception:
                raise
            except BaseException as interrupt:
                if self.interrupt is not None:
                    raise
                self.interrupted(interrupt)
        if self.interrupt is not None:
            if self.interrupt is self._error:
                return False  # it goes on by itself
            raise self.interrupt
        errors = self.errors()
        if errors:
            raise self.joined(errors) from None
        return True

    def interrupted(self, interrupt: BaseException) -> None:
        """Have the group stopped because whoever waits for its end is told to end."""
        self.interrupt = interrupt
        self._group.halt(f"its block was left by {type(interrupt).__name__}")

    def advance(self) -> list[Future[Any]] | None:
        """Do what can be done now. Returns the futures that are still to be waited for; None: the block may be left."""
        group = self._group
        self._woken.clear()
        pending: list[Future[Any]] = []
        try:
            if group.unsent:
                group.send_stop()
            pending = self._pending()
            if pending and group.stopped:
                self._end(pending)
                pending = self._pending()
            if not pending:
                pending = self._close()
        except (BrokerError, ServerFull):
            return pending
        return None if self.closed else pending

    def _pending(self) -> list[Future[Any]]:
        group = self._group
        found: list[Future[Any]] = []
        for future in group.pending:
            if future.done():
                group.account(future)
            elif future.id not in self._silent:
                found.append(future)
        found += [one for one in self._others.values() if not one.done() and one.id not in self._silent]
        for future in found:
            future.client().watch(
                future
            )  # it may be another client than before; and none watches what others submitted
        return found

    def _pause(self, pending: Sequence[Future[Any]]) -> None:
        if self._group.stopped or not pending:
            # What runs of it was asked to end and nothing more starts, so there is nothing to lend a slot for; and a
            # task that was itself asked to end must be able to wait here, where every other wait of it would raise.
            self._woken.wait(min(LOOK_S, 0.05 * 2**self._sweeps))
            self._sweeps = min(self._sweeps + 1, 6)
        else:
            concurrent.futures.wait(pending, LOOK_S, concurrent.futures.FIRST_EXCEPTION)

    def _end(self, pending: Sequence[Future[Any]]) -> None:
        """Cancel what no worker has; later, stop by name what still has not ended, and give up what nobody can end."""
        now = time.monotonic()
        if self._swept and now < self._swept + SWEEP_S:
            return
        again, self._swept = bool(self._swept), now
        server = self._group.app.groups()
        server.sweep([future.id for future in pending], force=again, grace_ms=self._group.stop_grace_ms)
        if not again:
            return
        for future in pending[:_LOOKED_AT]:
            status = future.status()
            if status.lease_left is not None and status.lease_left < -SILENT_S:
                self._silent[future.id] = status

    def _close(self) -> list[Future[Any]]:
        """Close the group, unless it turns out to have members that have not ended: return those."""
        group, server = self._group, self._group.app.groups()
        own = {future.id for future in group.children}
        while True:
            # Groups below it are members, too: what they hold is looked at once, and then this is asked again, at once.
            seen = -1 if self._silent else max(self._seen, len(own))
            lasting = [receipt.id for receipt in self.survivors][:_TOLD]
            closed = server.close(group.id, seen=seen, survivors=lasting, path=group.path)
            if closed.state != "more":
                self.closed, self._end_of = True, closed
                self._heed(closed)
                return []
            known = own | self._others.keys() | self._survived.keys()
            others = [task for task in self._tree(group.id) if task not in known]
            for task, alive in server.look(others):
                future = group.app.future(task)
                if alive:
                    self._await_other(future)
                else:
                    future.status()  # nobody waits for it, and its receipt tells how it ended
                    self._survived[task] = future
            self._seen = closed.size
            if pending := self._pending():
                return pending

    def _await_other(self, future: Future[Any]) -> None:
        self._others[future.id] = future
        self._unheard.add(future.id)
        future.add_done_callback(self._heard_other)

    def _heard_other(self, future: Any) -> None:
        """One of the others has ended; like the group itself, it wakes who waits here for the last of them only."""
        self._unheard.discard(future.id)
        if not self._unheard:
            self._woken.set()

    def _heed(self, closed: Closed) -> None:
        """A task whose own group was stopped is about to be asked to end, if it was not yet: it ends here, as asked."""
        slot = self._group.slot
        if slot is not None and closed.above and self.interrupt is None and slot.wait_asked(_ASKED_WITHIN_S):
            self.interrupt = interruption(slot)

    def _tree(self, top: str) -> Iterator[str]:
        """Return all tasks in a group and in those below it. Groups that were left have waited for theirs."""
        server = self._group.app.groups()
        below, met = [top], {top}
        while below:
            view = server.show(below.pop())
            yield from view.survivors
            if view.closed_ms is not None and view.id != top:
                continue
            for member in view.members:
                if ":" in member:
                    yield member
                elif member not in met:
                    met.add(member)
                    below.append(member)

    # What came of it

    @cached_property
    def receipts(self) -> tuple[StopReceipt, ...]:
        """What became of each child, then of whatever else of the tree has not ended cleanly."""
        return (*map(self._receipt, self._group.children), *self._rest())

    @property
    def survivors(self) -> tuple[StopReceipt, ...]:
        """Of what has ended badly: the code that still runs, or of which nobody can tell."""
        lasting = [
            future
            for future in self._group.children
            if future.id in self._silent or (future.outcome is not None and future.outcome.still_running)
        ]
        return (*map(self._receipt, lasting), *self._rest())

    def _rest(self) -> Iterator[StopReceipt]:
        yield from map(self._receipt, self._survived.values())
        for future in self._others.values():
            if future.id in self._silent or (future.outcome is not None and future.outcome.still_running):
                yield self._receipt(future)

    def _receipt(self, future: Future[Any]) -> StopReceipt:
        return stopping.receipt_of(
            future,
            self._silent.get(future.id),
            self._began,
            asked=self._group.stopped or self._end_of.state == "stopped",
        )

    def joined(self, errors: list[Exception]) -> ExceptionGroup[Exception]:
        """Return the one error that the block raises."""
        group = self._group
        called = f"group {group.id}" + (f" ({group.name})" if group.name else "")
        return ExceptionGroup(f"unhandled errors in {called}", errors)

    def errors(self) -> list[Exception]:
        """Return the errors of the children and of the body; siblings that were cancelled for them have none."""
        group, body = self._group, self._error
        failures = group.failures
        errors: list[Exception] = []
        if len(failures) > group.max_failures or body is not None:
            errors = [error for future in failures if (error := _error_of(future)) is not None]
        own = not errors and self._was_stopped_by_others()
        if isinstance(body, Exception):
            # After `stop` the body may run into it, in a block inside of this one, too: that is how it ends.
            rest = self._without_echo(body) if errors or group.stopped_by_owner else body
            if rest is not None and not any(rest is error for error in errors):
                errors.append(rest)
                own = own and not isinstance(body, GroupStopped)
        if own:
            why = self._end_of.reason or group.why
            stopped = group.id if self._end_of.state == "stopped" else self._end_of.above
            errors.insert(0, GroupStopped(f"group {stopped} was stopped" + (f": {why}" if why else ""), group=stopped))
        return errors

    def _was_stopped_by_others(self) -> bool:
        """Whether somebody else, or a group around it, stopped it, and something did not come to its end for that."""
        group = self._group
        if group.stop_reason is not None or not (self._end_of.state == "stopped" or self._end_of.above):
            return False
        if self._error is not None:
            return True
        return any(one.outcome is not None and one.outcome.state is State.CANCELLED for one in group.children)

    def _without_echo(self, error: Exception) -> Exception | None:
        """Return an error of the body without what only repeats that the group was stopped."""
        mine = {self._group.stopped_id, self._group.id}
        children = {future.id for future in self._group.children}

        def is_echo(one: BaseException) -> bool:
            if isinstance(one, GroupStopped):
                return one.group in mine
            return isinstance(one, TaskCancelled) and one.id in children

        if isinstance(error, ExceptionGroup):
            return error.split(lambda one: not isinstance(one, ExceptionGroup) and is_echo(one))[1]
        return None if is_echo(error) else error


def _error_of(future: Future[Any]) -> Exception | None:
    error = future.exception(0)
    if error is not None:
        note = f"raised by {future.shown}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    return error
