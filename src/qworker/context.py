"""`current`: what a task can know of itself, and how it notices that it was asked to end.

    child: enter(run) ──► the task's code: current.check() ──► run.slot (shared memory) ◄── worker: asked to end
           leave(token)

Found through a context variable, so it follows coroutines and `contextvars.copy_context()`. A thread that a task
starts does not inherit it: in a child with one slot `current` falls back to that slot's task, elsewhere the thread
must be given `current.bind(fn)`. In a plain call, outside any worker, everything here is inert.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from .shields import Shield, interruption, must_end

if TYPE_CHECKING:
    from .guards import Guard

__all__ = ["Run", "Slot", "TaskLog", "current", "enter", "in_child", "leave", "running", "set_fallback"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_SHIELDED_LOOK_S = 0.01


class Slot(Protocol):
    """The place in which a task runs, as far as the task may see it. Bound to one attempt, never to its successor."""

    def asked(self) -> bool:
        """Say whether the task was asked to end; reads memory, makes no system call."""

    def reason(self) -> str:
        """Return why it was asked: one of `model.Reason`."""

    def lease_uncertain(self) -> bool:
        """Say whether the worker could not renew its lease lately."""

    def progress(self, done: float, total: float | None, text: str) -> None:
        """Show how far the task is."""

    def wait_asked(self, timeout_s: float) -> bool:
        """Wait until the task is asked to end (True) or the time is up (False)."""

    def lend(self, ids: Sequence[str], *, more: bool = False) -> None:
        """Say that the task waits for these tasks (full ids) from now on, so that one of them may run meanwhile.

        `more`: for those, too, that it told before.
        """

    def resume(self) -> None:
        """Say that it waits no longer."""

    def exhausted(self) -> bool:
        """Say whether its worker has no place to lend for what it waits for now; reads memory."""

    def shield(self, until: float) -> None:
        """Ask that no force is used before that instant (monotonic clock); 0: the shield is over."""

    def save(self, cursor: bytes) -> None:
        """Keep where `current.iterate` has come to, for the next attempt."""

    def group(self, id: str, opened: bool) -> None:  # noqa: A002 - the public word
        """Say that the task opened a group, or that its block was left: one that is left open ends with the task."""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at a task, as its own code sees it."""

    id: str
    name: str
    run: int
    attempt: int
    fence: int
    retries: int
    slot: Slot
    ends: float | None = None  # monotonic clock: when its timeout or deadline asks it to end; None: never
    deadline: float | None = None  # monotonic clock: the deadline alone, which binds what it submits, too
    groups: tuple[str, ...] = ()  # the groups that it belongs to, the outermost first
    depth: int = 0  # how many tasks are above it
    cursor: bytes | None = None  # where an earlier attempt's `iterate` had come to
    loops: list[Any] = field(default_factory=list, repr=False, compare=False)  # its `iterate`s, see iterate.py


class Nowhere:
    """The slot of a plain call, and of an inline app: nobody can ask it to end."""

    def asked(self) -> bool:
        return False

    def reason(self) -> str:
        return ""

    def lease_uncertain(self) -> bool:
        return False

    def progress(self, done: float, total: float | None, text: str) -> None:
        pass

    def wait_asked(self, timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False

    def lend(self, ids: Sequence[str], *, more: bool = False) -> None:
        pass

    def resume(self) -> None:
        pass

    def exhausted(self) -> bool:
        return False

    def shield(self, until: float) -> None:
        pass

    def save(self, cursor: bytes) -> None:
        pass

    def group(self, id: str, opened: bool) -> None:  # noqa: A002
        pass


_PLAIN = Run(id="", name="", run=1, attempt=1, fence=0, retries=0, slot=Nowhere())
_run: ContextVar[Run | None] = ContextVar("qworker.current", default=None)
_fallback: Run | None = None  # what threads without a context belong to, in a child with one slot
_in_child = False
_on_end: Callable[[Run], None] | None = None


def enter(run: Run) -> Token[Run | None]:
    """Make `run` the current one of this thread or coroutine. Called by the child before a task's code."""
    global _in_child
    # What runs inline runs in a process of the user's own, where a call outside of tasks is a plain one.
    _in_child = _in_child or not isinstance(run.slot, Nowhere)
    return _run.set(run)


def leave(token: Token[Run | None]) -> None:
    """Undo `enter`, with what it returned, in the same context."""
    run = _run.get()
    _run.reset(token)
    if run is not None:
        ended(run)


def ended(run: Run) -> None:
    """Its code has ended, and with it whatever was to last as long. `leave` calls this."""
    for loop in run.loops:
        loop.end()
    if _on_end is not None:
        _on_end(run)


def on_end(act: Callable[[Run], None]) -> None:
    """Have the end of each run told from now on: `guards` does, once there is one."""
    global _on_end
    _on_end = act


def set_fallback(run: Run | None) -> None:
    """Name the run that all threads of this process belong to; None when it has ended. For children with one slot."""
    global _fallback, _in_child
    _in_child = True
    _fallback = run


def in_child() -> bool:
    """Say whether tasks run in this process."""
    return _in_child


def running() -> Run | None:
    """Return the run that this code belongs to; None: a plain call, or a thread that belongs to no task."""
    return _run.get() or _fallback


def _find() -> Run:
    run = _run.get() or _fallback
    if run is not None:
        return run
    if _in_child:
        raise RuntimeError(
            "`current` was used in a thread that belongs to no task: start it with target=current.bind(function), "
            "called in the task itself, or run the task in a process slot"
        )
    return _PLAIN


class TaskLog:
    """Log lines with fields, through the standard `logging` logger `qworker.task`.

    In a worker they become `task.output` events that carry the task's id.
    """

    def debug(self, text: str, **fields: object) -> None:
        """Log at level debug."""
        self._log(10, text, fields)

    def info(self, text: str, **fields: object) -> None:
        """Log at level info."""
        self._log(20, text, fields)

    def warning(self, text: str, **fields: object) -> None:
        """Log at level warning."""
        self._log(30, text, fields)

    def error(self, text: str, **fields: object) -> None:
        """Log at level error."""
        self._log(40, text, fields)

    def _log(self, level: int, text: str, fields: dict[str, object]) -> None:
        import logging  # a child that logs nothing does not pay for it

        logging.getLogger("qworker.task").log(level, "%s", text, extra={"fields": fields}, stacklevel=3)


class Current:
    """The task that this code runs in. There is one object of this class: `qworker.current`."""

    log = TaskLog()

    @property
    def id(self) -> str:
        """Its full id; empty in a plain call."""
        return _find().id

    @property
    def name(self) -> str:
        """Its task's name; empty in a plain call."""
        return _find().name

    @property
    def run(self) -> int:
        """Which life of its id this is: 1, and one more for each `retry` from the dead set."""
        return _find().run

    @property
    def attempt(self) -> int:
        """Which attempt of its run this is, from 1."""
        return _find().attempt

    @property
    def retries(self) -> int:
        """How many attempts it may have beyond the first."""
        return _find().retries

    @property
    def fence(self) -> int:
        """An integer that only ever grows in its queue: let your database refuse a write with a smaller one."""
        return _find().fence

    @property
    def asked(self) -> bool:
        """Whether it was asked to end. Reads shared memory: cheap enough for an inner loop."""
        return _find().slot.asked()

    @property
    def reason(self) -> str | None:
        """Why it was asked to end (`timeout`, `deadline`, `stop`, `drain`, `fenced`, `recycle`); None: it was not."""
        slot = _find().slot
        return slot.reason() if slot.asked() else None

    @property
    def lease_uncertain(self) -> bool:
        """Whether its worker cannot reach Redis just now, so that another worker may come to run it, too."""
        return _find().slot.lease_uncertain()

    def remaining(self) -> float | None:
        """Return the seconds until its timeout or deadline asks it to end, at least 0; None: there is no limit."""
        ends = _find().ends
        return None if ends is None else max(0.0, ends - time.monotonic())

    def check(self) -> None:
        """Raise TaskInterrupt if it was asked to end."""
        slot = _find().slot
        if slot.asked() and must_end(slot):  # nearly always the first says no, and that is all that a loop pays
            raise interruption(slot)

    def sleep(self, seconds: float) -> None:
        """Sleep like `time.sleep`, but raise TaskInterrupt as soon as it is asked to end.

        In a coroutine, `await asyncio.sleep(…)` instead: the ask to end cancels that, and others run meanwhile.
        """
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        slot = _find().slot
        ends = time.monotonic() + seconds
        left = seconds
        while not must_end(slot):
            if left <= 0:
                return
            if slot.wait_asked(left):
                # Asked, and perhaps under a shield: then nobody can be waited for but the clock.
                time.sleep(min(_SHIELDED_LOOK_S, max(0.0, ends - time.monotonic())))
            left = ends - time.monotonic()
        raise interruption(slot)

    def shield(self, seconds: float) -> Shield:
        """Return a block, `with current.shield(5):`, in which nothing ends the task: for what must not be cut in two.

        In it `check()`, `sleep()`, guards, `interrupt=True` and asyncio's cancellation of this task do nothing, and its
        end by force waits: until the block is left, at most `seconds` from its beginning, and at most 60 s after the
        grace whatever the task does. Leaving it raises TaskInterrupt if the task was asked to end meanwhile; in an
        `async def` task the next `await` raises asyncio's CancelledError. The outcome tells how long force waited
        (`Outcome.shielded_s`). Inside another shield it changes nothing: the outermost decides.

        A draining worker waits no longer than it would anyway (5 s after it asked), one that lost its lease not at all.
        `asked` still tells the truth in it. In a thread slot a neighbour that holds the GIL can cut it short.

        Raises:
            ValueError: `seconds` is not more than 0 and at most 60.
        """
        return Shield(_find().slot, seconds)

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Show how far it is: `Future.progress()`, `status()` and `qworker watch` tell it, a second later at most.

        `done` of `total` (None: nobody knows of how many) in whatever unit, and a `text` of at most 96 bytes. A few
        stores into shared memory: as often as one likes.
        """
        _find().slot.progress(done, total, text)

    def iterate(self, items: Iterable[T], key: Callable[[T], object] | None = None) -> Iterator[T]:
        """Go through `items` so that the next attempt, if there is one, goes on after the last completed item.

            for row in current.iterate(rows, key=lambda row: row.id): ...

        Where it is (the index of the last completed item, or its `key`: at most 4 KiB) is saved at most every 50 ms,
        and whenever the loop is left; a worker passes it on each second, and when the task goes back into its queue. So
        a task that was interrupted by a drain, or lost with its process or its worker, goes on there, and uses up none
        of its `retries` by that; an attempt after a failure or a timeout goes on there, too. The item that was being
        worked on is done again, and after a death those of the last 50 ms (of a worker: of the last second). The next
        attempt must be given the same items in the same order; those that are done are passed over unseen.

        Before each item it raises TaskInterrupt if the task was asked to end, as `check` does. Several loops, one after
        the other, are remembered as one way. In a plain call it only goes through the items.

        Raises:
            CursorLost: the completed item is not among the items any more.
            NotEncodable: a key cannot be sent, or is larger than 4 KiB.
            RuntimeError: another `iterate` of this task is not over.
        """
        run = _find()
        if run is _PLAIN:
            return iter(items)
        from .iterate import iterate  # most tasks do without

        return iterate(run, items, key)

    def guard(self, thing: T) -> Guard[T]:
        """Have `thing` closed from outside when the task is asked to end, so that a call blocked in it returns at once.

            with current.guard(socket.create_connection(address)) as sock:
                data = sock.recv(4096)          # a stop, a timeout, a drain: it returns or raises within some 10 ms

        `thing` is a function without arguments, or something with a known end: a socket (shut down and closed); a
        process, as of `subprocess.Popen` (TERM to the group that it leads, else to itself; KILL half a second later); a
        `requests.Session` or `httpx.Client` (what this thread is blocked in is cut off; closed); a DB-API connection
        (`interrupt` of sqlite3, `cancel` of psycopg and others, again after 50 ms, 100 ms, … 1 s until the guard is
        left; else closed); anything with `close()` or `aclose()`. In a coroutine its loop closes it.

        It holds until the `with` block is left; without one, until `release()` or the end of the task. A block whose
        guard was closed raises TaskInterrupt when it is left without an exception: what was cut off may look complete.
        (Without a block, call `check()` before you believe it.) Whatever exception the closing leads to, the task then
        counts as ended by itself after it was asked. Errors of closers are logged. A task that was asked before, too,
        gets its new guards closed: clean up outside of guards, or in a `shield`, under which nothing is closed.

        Raises:
            TypeError: it is nothing that can be called or closed.
        """
        from .guards import Guard  # a child that guards nothing does not pay for it

        return Guard(_find(), thing)

    def bind(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn` so that `current` is this task in it, whatever thread it runs in."""
        run = _find()
        if run is _PLAIN:
            return fn

        @wraps(fn)
        def bound(*args: P.args, **kwargs: P.kwargs) -> R:
            token = _run.set(run)
            try:
                return fn(*args, **kwargs)
            finally:
                _run.reset(token)

        return bound


current = Current()
