"""The slots of an async child: many coroutines on one event loop, in the main thread.

    stream ──► bodies, moves, flags             token pipe, while a slot is free ──► order ──► slot
    coroutine function ──► asyncio task ──► its helpers end ──┬──► outcome ──► the slot is free
    plain function ──► a thread of this child ────────────────┘
    FLAG ──► stack, task.cancel(reason), once   pulse: a timer, every 50 ms, while anything runs

Each attempt has a context of its own, so `current` follows whatever it starts. What it has started on the loop or with
`asyncio.to_thread`, and not awaited, is cancelled when it ends, as `asyncio.run` does, and awaited before its outcome
is told: nothing of it runs on unsaid. What shall outlive it is created with an empty `contextvars.Context()`.

A slot whose attempt was told as a survivor never takes another order: the worker opens a fresh one in its stead.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from .. import context
from ..shields import covers
from . import frames, last_words, punctual
from .inbox import Inbox
from .page import Page, SlotCells
from .slots import Opened, Runner, Told, raised, returned
from .stacks import coroutine_stack

_PULSE_S: Final = 0.05
# For what ends without a word: the time in which nothing may start, a shield.
_LOOK_EVERY_S: Final = 0.02
# Where so many waited is told when they are asked to end together: it takes time, and nobody reads more.
_TOLD_AT_ONCE: Final = 64
# Orders that are taken in one turn of the loop: what runs has its turns in between.
_AT_ONCE: Final = 32
_HELPER_THREADS_MAX: Final = 32


class Attempt:
    """What runs in one slot."""

    __slots__ = ("begun", "calls", "cells", "helpers", "task", "thrown")

    def __init__(self, cells: SlotCells | None) -> None:
        self.cells = cells  # None: a plain function, whose thread has them
        self.task: asyncio.Task[None] | None = None  # while its own code runs, as a coroutine
        self.helpers: set[asyncio.Task[Any]] = set()  # the tasks that it started, until they are done
        self.calls: set[Future[Any]] = set()  # its calls in helper threads, likewise
        self.begun = False  # its order is being run: from here on its end is told by whoever runs it
        self.thrown = False  # it has had its cancellation

    def tell(self) -> None:
        """Tell where it waits; when its own code has ended, where one of those waits that it started."""
        task = self.task or next(iter(self.helpers), None)
        if self.cells is not None and task is not None:
            self.cells.tell_stack(coroutine_stack(task))

    def cancel(self) -> None:
        """Throw asyncio's cancellation into it, if it was asked to end: once, for the second would hit its cleanup.

        Called again when the word of the ask comes to one that began with its flag raised.
        """
        cells = self.cells
        if self.task is None or cells is None or self.thrown or not cells.asked():
            return
        if covers(cells):
            # Nobody rings when it leaves its shield.
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self.cancel)
        else:
            self.thrown = True
            try:
                self.task.cancel(cells.reason())
            except Exception:
                # It goes to the future that is awaited, which may be users' code. Its siblings are not to die of that,
                # and for itself there is force.
                traceback.print_exc(file=sys.__stderr__)


class CoroutineLoop:
    """All slots of one async child. Everything but `_run_plain` runs in the loop's thread."""

    def __init__(
        self, slots: int, inbox: Inbox, runner: Runner, send: Callable[..., None], page: Page, stream_fd: int
    ) -> None:
        self._inbox = inbox
        self._runner = runner
        self._send = send
        self._page = page
        self._stream_fd = stream_fd
        self._free = list(range(slots))
        self._current: dict[int, int] = {}  # number -> slot, of what runs and is no survivor
        self._attempts: dict[int, Attempt] = {}  # by number: everything that runs, survivors included
        self._blank = contextvars.copy_context()  # what belongs to no attempt runs in this
        self._watching = False
        self._looking = False
        self._pulsing = False
        self._loop = punctual.new_loop()
        self._threads = ThreadPoolExecutor(page.slots, "qworker-slot")

    def serve(self) -> None:
        """Run orders until the worker closes the stream, which ends the process."""
        loop = self._loop
        asyncio.set_event_loop(loop)
        loop.set_task_factory(self._make_task)
        loop.set_default_executor(_HelperThreads(self))
        # A copy of this process must not go on with everybody's coroutines when the one that made it waits or ends.
        os.register_at_fork(after_in_child=lambda: loop.call_soon(os._exit, 0) and None)
        loop.add_reader(self._stream_fd, self._step, self._hear)
        self._watch()
        while True:
            try:
                loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                # asyncio lets these two through from a helper task. Whoever awaits it has been told, and the loop,
                # which others use as well, goes on; also when user code has stopped it.
                continue

    def attempt_of(self, run: context.Run | None) -> Attempt | None:
        """Return the attempt that a run is; None: none of this child, or one that has ended."""
        return None if run is None else self._attempts.get(getattr(run.slot, "number", 0))

    # ── the worker's words ───────────────────────────────────────────────────────────────────────────────────────

    def _step(self, step: Callable[..., None], *args: Any) -> None:
        """Do a step of our own. The loop would log its failure and go on without the order that it was about."""
        try:
            step(*args)
        except BaseException:
            last_words.end()

    def _hear(self) -> None:
        self._inbox.read(wait=False)
        self._heed()

    def _take(self) -> None:
        for _ in range(_AT_ONCE):
            order = self._inbox.take() if self._free else None
            if order is None:
                break
            self._begin(order, self._free.pop())
        self._heed()  # the bodies may have come with words about others

    def _heed(self) -> None:
        inbox = self._inbox
        while inbox.moves:
            number, fresh = inbox.moves.popleft()
            # One that has just ended told its outcome: it is no survivor, and keeps its slot.
            if self._current.pop(number, None) is not None and fresh is not None:
                self._free.append(fresh)
        left = _TOLD_AT_ONCE
        while inbox.flags:
            attempt = self._attempts.get(inbox.flags.popleft())
            if attempt is not None:
                if left:
                    left -= 1
                    attempt.tell()
                attempt.cancel()
        while inbox.looks:
            attempt = self._attempts.get(inbox.looks.popleft())
            if attempt is not None:
                attempt.tell()
        self._watch()

    def _watch(self) -> None:
        """Listen for tokens exactly while one may be taken."""
        wanted = bool(self._free) and self._inbox.may_start()
        if wanted is not self._watching:
            self._watching = wanted
            if wanted:
                self._loop.add_reader(self._inbox.token_fd, self._step, self._take)
            else:
                self._loop.remove_reader(self._inbox.token_fd)
        if self._free and not wanted and not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_EVERY_S, self._step, self._look_again)

    def _look_again(self) -> None:
        self._looking = False
        self._watch()

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, order: list[Any], slot: int) -> None:
        number = order[1]
        self._current[number] = slot
        # Before the number is in the page: nobody may take the silence of an idle child for a wedged one.
        self._page.beat()
        if not self._pulsing:
            self._pulsing = True
            self._loop.call_later(_PULSE_S, self._step, self._pulse)
        if self._runner.is_coroutine(order):
            attempt = self._attempts[number] = Attempt(self._runner.mark(order, slot))
            task = self._loop.create_task(self._run(order, attempt), name=order[2])
            task.add_done_callback(lambda _: self._step(self._look_after, attempt))
        else:
            self._attempts[number] = Attempt(None)
            self._threads.submit(self._run_plain, order, slot)

    async def _run(self, order: list[Any], attempt: Attempt) -> None:
        cells = attempt.cells
        assert cells is not None
        attempt.begun = True
        try:
            told = await self._attempt(order, attempt, cells)
            # A thousand that end in one turn of the loop take long, and no timer comes in between.
            self._page.beat()
            freed = self._tell(self._runner.outcome(cells, told), cells)
            self._loop.call_soon(self._step, self._ended, cells.number, freed, context=self._blank)
        except BaseException:
            # A fault of ours, or no memory left. An order without a word would be held for ever.
            last_words.end()

    async def _attempt(self, order: list[Any], attempt: Attempt, cells: SlotCells) -> Told:
        opened = self._runner.open(order, cells)
        if not isinstance(opened, Opened):
            return opened
        context.enter(opened.current)  # in the context of this asyncio task, which ends with it
        # A FLAG that came until now found no task to cancel: thrown into one that has not begun, the cancellation
        # would end it before this `try`.
        attempt.task = asyncio.current_task()
        cells.cancels = True
        attempt.cancel()
        try:
            if attempt.thrown:
                await asyncio.sleep(0)  # it comes here, and not in the shield that its code may begin with
            value = await opened.task.fn(*opened.args, **opened.kwargs)
        except BaseException as error:
            await _end_helpers(attempt)
            context.ended(opened.current)
            return raised(error, opened.header, cells, opened.ran_s())
        await _end_helpers(attempt)
        context.ended(opened.current)
        return returned(value, opened.header, opened.ran_s())

    def _look_after(self, attempt: Attempt) -> None:
        """Its asyncio task is over. Did it run? Before its first step it can be cancelled, by whoever cancels all."""
        if attempt.begun:
            return  # and so its end was told
        assert attempt.cells is not None
        told = frames.UNSTARTED, b"", None, True, None
        freed = self._tell(self._runner.outcome(attempt.cells, told), attempt.cells)
        self._ended(attempt.cells.number, freed)  # now: the order may come back, with this very number

    def _run_plain(self, order: list[Any], slot: int) -> None:
        """In a thread: the loop must not stand still for a plain function."""
        try:
            frame, cells = self._runner.run(order, slot, alone=False)
            freed = self._tell(frame, cells)
            self._loop.call_soon_threadsafe(self._step, self._ended, cells.number, freed, context=self._blank)
        except BaseException:
            last_words.end()

    def _tell(self, frame: tuple[bytes, ...], cells: SlotCells) -> int | None:
        """Tell the outcome. Returns the slot that is free by it; None: it was a survivor's."""
        # Of this and a MOVE, which makes it a survivor, exactly one finds the number.
        slot = self._current.pop(cells.number, None)
        if slot is None:
            # What a survivor came to is nobody's outcome any more; that it is gone is worth telling. Its slot is
            # cleared first: once that is told, it may be given to another attempt, whose number would go.
            cells.clear()
            self._send(frames.pack_frame(frames.GONE, cells.number), through=True)
        else:
            self._send(*frame, through=True)
            cells.clear()
        return slot

    def _ended(self, number: int, slot: int | None) -> None:
        del self._attempts[number]
        if slot is not None:
            self._free.append(slot)
            self._take()

    def _pulse(self) -> None:
        self._page.beat()
        self._pulsing = bool(self._attempts)
        if self._pulsing:
            self._loop.call_later(_PULSE_S, self._step, self._pulse)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Make an asyncio task, and note whose helper it is: that of the attempt in its context."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        given: contextvars.Context | None = options.get("context")
        attempt = self.attempt_of(context.running() if given is None else given.get(context.run_here))
        if attempt is not None:
            attempt.helpers.add(task)
            task.add_done_callback(attempt.helpers.discard)
        return task


class _HelperThreads(ThreadPoolExecutor):
    """The loop's default executor, of `asyncio.to_thread` and `run_in_executor`: notes whose calls run in it."""

    def __init__(self, slots: CoroutineLoop) -> None:
        super().__init__(_HELPER_THREADS_MAX, "qworker-helper")
        self._slots = slots

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = super().submit(fn, *args, **kwargs)
        attempt = self._slots.attempt_of(context.running())
        if attempt is not None:
            attempt.calls.add(call)
            call.add_done_callback(attempt.calls.discard)
        return call


async def _end_helpers(attempt: Attempt) -> None:
    """End what an attempt started and did not await. What ignores that keeps the attempt running: then it says so."""
    attempt.task = None  # its own code has ended: nothing is to be thrown into this
    told: set[asyncio.Task[Any]] = set()
    while attempt.helpers or attempt.calls:
        for helper in attempt.helpers - told:
            helper.cancel("its task has ended")
        told |= attempt.helpers
        ends: list[asyncio.Future[Any]] = list(attempt.helpers)
        for call in list(attempt.calls):  # at once: they go from the set in threads of their own
            call.cancel()
            ends.append(_end_of(call))
        try:
            if ends:
                await asyncio.wait(ends)
        except asyncio.CancelledError:
            continue  # it was thrown when its own code had ended without waiting once more


def _end_of(call: Future[Any]) -> asyncio.Future[None]:
    """Return a future that is done when a call is: asyncio's own says so as soon as it is cancelled."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    call.add_done_callback(lambda _: loop.call_soon_threadsafe(end.set_result, None))
    return end
