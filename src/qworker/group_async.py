"""`async with app.group()`: the block of a group in a coroutine, with the bookkeeping of `asyncio.TaskGroup`.

    a child fails, or somebody stops the group ─► heard(), on the loop ─► the body's asyncio task is cancelled, once
    left ─► Leaving.advance in a thread ◄─► pause: awaits the children ─► uncancel ─► what the block is left with

The server is asked in threads made for it: the loop's own executor may be full of what waits for this very group.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .group_exit import LOOK_S, Leaving

if TYPE_CHECKING:
    from .future import Future
    from .group import Group

__all__ = ["Scope", "in_thread"]

T = TypeVar("T")


class Scope:
    """One `async with` of a group. Owned by the coroutine that it is in; `_wake` may be called on any thread."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._loop = asyncio.get_running_loop()
        parent = asyncio.current_task()
        assert parent is not None, "a coroutine that runs belongs to a task"
        self._parent = parent
        self._cancelled_body = False  # by us: then it must be uncancelled
        self._leaving = False
        self._woken = asyncio.Event()

    async def enter(self) -> None:
        """Open the group."""
        group = self._group
        place = group.prepare()
        try:
            await in_thread(lambda: group.open(place))
        except asyncio.CancelledError:
            # It may be open by now, and nobody will be in its block.
            leaving = Leaving(group, asyncio.CancelledError())
            await self._settle(leaving)
            raise
        group.opened(place)
        group.watchers.append(self._wake)
        self._heard()  # what it is in may have been stopped meanwhile

    async def leave(self, leaving: Leaving, error: BaseException | None) -> bool:
        """Wait until the block may be left; raises what it is left with, as `asyncio.TaskGroup` does.

        True if what the body was left by is no error.
        """
        parent = self._parent
        self._leaving = True
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        cancelled = await self._settle(leaving) or cancelled
        if self._cancelled_body and parent.uncancel() == 0:
            cancelled = None  # it was nobody but the group
        interrupt = leaving.interrupt
        if interrupt is not None and not isinstance(interrupt, asyncio.CancelledError):
            if interrupt is error:
                return False  # it goes on by itself
            raise interrupt
        errors = leaving.errors()
        if cancelled is not None and not errors:
            raise cancelled
        if errors:
            if parent.cancelling():
                # Somebody else cancels it, too: our error comes first, and the cancellation at its next await.
                parent.uncancel()
                parent.cancel()
            raise leaving.joined(errors) from None
        return True

    async def _settle(self, leaving: Leaving) -> asyncio.CancelledError | None:
        """Wait for the whole tree; a cancellation stops the group, and is returned when that has ended."""
        late: asyncio.CancelledError | None = None
        while True:
            try:
                pending = await in_thread(leaving.advance)
                if pending is None:
                    return late
                await self._pause(pending)
            except asyncio.CancelledError as error:
                late = late or error
                leaving.interrupted(error)

    async def _pause(self, pending: Sequence[Future[Any]]) -> None:
        group = self._group
        self._woken.clear()
        if group.unsent or (pending and all(future.done() for future in pending)):
            return  # since it was looked at
        # The group wakes us for its own. A task awaits them itself: for as long as it does it lends its slot.
        own = set() if group.slot is not None and not group.stopped else set(group.pending)
        arrivals = [_arrival(future) for future in pending if future not in own]
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._woken.wait())]
        if arrivals:
            waits.append(asyncio.gather(*arrivals))
        try:
            await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._heard)
        except RuntimeError:
            pass  # the loop is closed: nobody is in the block any more

    def _heard(self) -> None:
        """All children have ended, or the group was stopped."""
        self._woken.set()
        group = self._group
        if self._leaving or self._cancelled_body or not group.stopped or group.stopped_by_owner:
            return
        self._cancelled_body = True
        self._parent.cancel()


async def _arrival(future: Future[Any]) -> None:
    try:
        await future
    except Exception:  # noqa: S110 - how it ended is looked at when the block is left
        pass


async def in_thread(fn: Callable[[], T]) -> T:
    """Call what blocks in a thread of its own. A cancellation is raised when it has come to its end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(value)

    def work() -> None:
        value: Any = None
        failure: BaseException | None = None
        try:
            value = context.run(fn)
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, value, failure)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    threading.Thread(target=work, name="qworker-group", daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not answer.done():
        try:
            await asyncio.shield(answer)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: S110 - the answer's own, which is raised below
            pass
    if cancelled is not None:
        answer.exception()  # looked at, so that it is not reported as never retrieved
        raise cancelled
    return answer.result()
