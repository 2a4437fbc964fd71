"""What a slot does: one order after the other, each to exactly one outcome.

    order ──► mark the slot ──► decode ──► start the clock ──► user code ──► outcome ──► clear the slot

The sequence is what the kill protocol stands on. The number is in the page before the body is decoded, so a body that
kills its decoder is blamed on its task. The outcome is in the stream before the number is cleared, so at any moment
an attempt is in the page, or its outcome in the stream, or both.
"""

from __future__ import annotations

import contextvars
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from .. import clock, codec, context, faultpoints
from ..allowed import Allowed, NotRunnable
from ..errors import DecodeError, NotEncodable, Retry, TaskInterrupt, TaskTooLarge, ValueNotSent
from ..model import Header, PoolNeed
from . import frames, interrupts
from .inbox import Inbox
from .output import Output
from .page import Page, SlotCells


class RunnableTask(Protocol):
    """What a child needs of a task of the app."""

    @property
    def fn(self) -> Callable[..., Any]: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def need(self) -> PoolNeed: ...


BLOB: Final = 3  # where an order has its task's bytes
Told = tuple[int, bytes, float | None, bool, float | None]  # kind, payload, ran_s, retryable, delay_s


class Opened(NamedTuple):
    """An order that is ready to run: its clock goes."""

    header: Header
    task: RunnableTask
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    current: context.Run
    started_ns: int

    def ran_s(self) -> float:
        """How long it has run."""
        return (time.monotonic_ns() - self.started_ns) / 1e9


class Runner:
    """Runs orders in this process."""

    def __init__(
        self, find: Callable[[str], RunnableTask | None], page: Page, output: Output, send: Callable[..., None]
    ) -> None:
        self._find = find
        self._page = page
        self._output = output
        self._send = send
        self.forked = False  # this process is a copy that user code made of the child

    def run(self, order: list[Any], slot: int, *, alone: bool) -> tuple[tuple[bytes, ...], SlotCells]:
        """Run one order in `slot`; returns the frame of its outcome in pieces, and the cells to clear once it was sent.

        `alone`: no other slot runs here, so that helper threads may take the slot's task for theirs.
        """
        cells = self.mark(order, slot)
        return self.outcome(cells, self._attempt(order, cells, alone)), cells

    def mark(self, order: list[Any], slot: int) -> SlotCells:
        """Make the slot the order's: from here on a death of this child is its own."""
        return SlotCells(self._page, slot, order[1], self._send)

    @faultpoints.before("child.after_fn")
    def outcome(self, cells: SlotCells, told: Told) -> tuple[bytes, ...]:
        """Return the frame of an attempt's outcome, in pieces."""
        if self.forked:
            os._exit(0)  # the copy's copy of this attempt is over; only the child itself has something to tell
        self._output.finish(cells.number)
        return frames.pack_outcome(cells.number, told)

    def is_coroutine(self, order: list[Any]) -> bool:
        """Is it a coroutine function of the app that the order calls? Whatever cannot be read is none."""
        try:
            task = self._find(codec.read_header(order[BLOB]).name)
        except DecodeError:
            return False
        # To know it of an allowed function means to import it, which takes a time of its own.
        return task is not None and not isinstance(task, Allowed) and task.is_async

    @faultpoints.after("child.before_fn")
    def open(self, order: list[Any], cells: SlotCells) -> Opened | Told:
        """Make an order ready and start its clock; a tuple of another kind is what became of it instead."""
        _, _, id_, blob, cursor, deadline_s, handed, run, attempt, fence, retries, timeout_s = order
        deadline = None
        if deadline_s is not None:
            left_s = handed + deadline_s - clock.now()
            if left_s <= 0:
                return frames.UNSTARTED, b"", None, False, None  # it waited too long in this worker, or slept
            deadline = time.monotonic() + left_s
        if cells.lease_uncertain():
            # Since its token was taken: it waited for its thread or for a turn of the loop, and this process stood.
            return frames.UNSTARTED, b"", None, True, None
        try:
            header = codec.read_header(blob)
            args, kwargs = codec.unpack_body(codec.body_of(blob))
            task = self._find(header.name)
            if task is None:
                raise LookupError(f"no task is called {header.name!r} here: the children of this worker know others")
        except Exception as error:
            return frames.REFUSED, _describe(error), None, False, None
        # Nobody else needs it now, and a task that waits for hours should not hold its packed arguments twice.
        order[BLOB] = b""
        cells.run_here()
        started_ns = cells.start()
        ends = _earlier(None if timeout_s is None else started_ns / 1e9 + timeout_s, deadline)
        current = context.Run(
            id_, header.name, run, attempt, fence, retries, cells, ends, deadline, header.groups, header.depth, cursor
        )
        return Opened(header, task, args, kwargs, current, started_ns)

    def _attempt(self, order: list[Any], cells: SlotCells, alone: bool) -> Told:
        opened = self.open(order, cells)
        if not isinstance(opened, Opened):
            return opened
        header, task, args, kwargs, current, started_ns = opened
        token = context.enter(current)
        if alone:
            context.set_fallback(current)
        try:
            # What it sets there (decimal's precision is there, too) is not the next task's in this slot.
            own = contextvars.copy_context()
            if alone and header.interrupt and not task.is_async:
                value = own.run(interrupts.interruptible, task.fn, args, kwargs, cells)
            else:
                value = own.run(_call, task, args, kwargs, cells)
            ran_s = (time.monotonic_ns() - started_ns) / 1e9
        except NotRunnable as error:
            return frames.REFUSED, _describe(LookupError(str(error))), None, False, None
        except BaseException as error:
            return raised(error, header, cells, opened.ran_s())
        finally:
            if alone:
                context.set_fallback(None)
            context.leave(token)
        return returned(value, header, ran_s)


class ProcessLoop:
    """The one slot of a process child: its main thread."""

    def __init__(self, inbox: Inbox, runner: Runner, send: Callable[..., None], stream_fd: int) -> None:
        self._inbox = inbox
        self._runner = runner
        self._send = send
        self._poll = select.poll()
        self._poll.register(stream_fd, select.POLLIN)

    def serve(self) -> None:
        """Run orders until the worker closes the stream, which ends the process."""
        take, run, send = self._inbox.take, self._runner.run, self._send
        while True:
            order = take()
            if order is None:
                self._inbox.wait(self._poll)
                continue
            frame, cells = run(order, 0, alone=True)
            send(*frame, through=True)
            cells.clear()


def _call(task: RunnableTask, args: tuple[Any, ...], kwargs: dict[str, Any], cells: SlotCells) -> Any:
    if not task.is_async:
        return task.fn(*args, **kwargs)
    from .coroutines import run_coroutine  # brings in asyncio, which most children never need

    return run_coroutine(task.fn(*args, **kwargs), cells)


def returned(value: Any, header: Header, ran_s: float) -> Told:
    """What became of an attempt that returned."""
    try:
        return frames.RETURNED, codec.pack_value(value), ran_s, True, None
    except Exception as error:
        return frames.REFUSED, _describe(_unfit(header.name, error)), ran_s, False, None


def raised(error: BaseException, header: Header, cells: SlotCells, ran_s: float) -> Told:
    """What became of an attempt that raised."""
    info = codec.describe_error(error)
    try:
        payload = codec.pack_error(info)
    except Exception as fault:  # a class of user code that answers otherwise each time it is asked
        payload = _describe(fault)
    if isinstance(error, Retry):
        return frames.RETRY, payload, ran_s, True, _delay(error.delay)
    if cells.asked():
        if isinstance(error, TaskInterrupt) and not interrupts.threw(error):
            return frames.INTERRUPTED, payload, ran_s, True, None
        if isinstance(error, TaskInterrupt) or _is_cancellation(error):
            return frames.THROWN, payload, ran_s, True, None
    names = header.retry_for
    retryable = names is None or info.kind in names or any(base in names for base in info.bases)
    return frames.RAISED, payload, ran_s, retryable, None


def _delay(value: object) -> float | None:
    """Return the delay of a Retry; what is no duration counts as none given, and the task's backoff decides."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(min(value, frames.LONGEST_S))
    return None


def _is_cancellation(error: BaseException) -> bool:
    asyncio_errors = sys.modules.get("asyncio.exceptions")
    return asyncio_errors is not None and isinstance(error, asyncio_errors.CancelledError)


def _unfit(name: str, error: Exception) -> Exception:
    """Say which task's value it was; keep what the codec says of the value. The task ran: so it is no `Refused`."""
    fault = str(error) if isinstance(error, NotEncodable | TaskTooLarge) else f"{type(error).__name__}: {error}"
    return ValueNotSent(f"{name} returned a value that cannot be sent: {fault}")


def _describe(error: BaseException) -> bytes:
    return codec.pack_error(codec.describe_error(error))


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
