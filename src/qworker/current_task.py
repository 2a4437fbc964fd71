"""`current`: what a task can know of itself, and how it notices that it was asked to end.

    current.check() ──► context.find() ──► run.slot: asked? ──► TaskInterrupt, unless a shield holds it back

In a plain call, outside any worker, everything here is inert. Which task a thread or a coroutine belongs to is known in
context.py; what is more than a look has a module of its own (guards.py, shields.py, iterate.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .context import PLAIN, find, run_here
from .shields import Shield, interruption, must_end

if TYPE_CHECKING:
    from .guards import Guard

__all__ = ["Current", "TaskLog", "current"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_SHIELDED_LOOK_S = 0.01


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
        return find().id

    @property
    def name(self) -> str:
        """Its task's name; empty in a plain call."""
        return find().name

    @property
    def run(self) -> int:
        """Which life of its id this is: 1, and one more for each `retry` from the dead set."""
        return find().run

    @property
    def attempt(self) -> int:
        """Which attempt of its run this is, from 1."""
        return find().attempt

    @property
    def retries(self) -> int:
        """How many attempts it may have beyond the first."""
        return find().retries

    @property
    def fence(self) -> int:
        """An integer that only ever grows in its queue: let your database refuse a write with a smaller one."""
        return find().fence

    @property
    def asked(self) -> bool:
        """Whether it was asked to end. Reads shared memory: cheap enough for an inner loop."""
        return find().slot.asked()

    @property
    def reason(self) -> str | None:
        """Why it was asked to end (`timeout`, `deadline`, `stop`, `drain`, `fenced`, `recycle`); None: it was not."""
        slot = find().slot
        return slot.reason() if slot.asked() else None

    @property
    def lease_uncertain(self) -> bool:
        """Whether its worker cannot reach Redis just now, so that another worker may come to run it, too."""
        return find().slot.lease_uncertain()

    def remaining(self) -> float | None:
        """Return the seconds until its timeout or deadline asks it to end, at least 0; None: there is no limit."""
        ends = find().ends
        return None if ends is None else max(0.0, ends - time.monotonic())

    def check(self) -> None:
        """Raise TaskInterrupt if it was asked to end."""
        slot = find().slot
        if slot.asked() and must_end(slot):  # nearly always the first says no, and that is all that a loop pays
            raise interruption(slot)

    def sleep(self, seconds: float) -> None:
        """Sleep like `time.sleep`, but raise TaskInterrupt as soon as it is asked to end.

        In a coroutine, `await asyncio.sleep(…)` instead: the ask to end cancels that, and others run meanwhile.
        """
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        slot = find().slot
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
        return Shield(find().slot, seconds)

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Show how far it is: `Future.progress()`, `status()` and `qworker watch` tell it, a second later at most.

        `done` of `total` (None: nobody knows of how many) in whatever unit, and a `text` of at most 96 bytes. A few
        stores into shared memory: as often as one likes.
        """
        find().slot.progress(done, total, text)

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
        run = find()
        if run is PLAIN:
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

        return Guard(find(), thing)

    def bind(self, fn: Callable[P, R]) -> Callable[P, R]:
        """Return `fn` so that `current` is this task in it, whatever thread it runs in."""
        run = find()
        if run is PLAIN:
            return fn

        @wraps(fn)
        def bound(*args: P.args, **kwargs: P.kwargs) -> R:
            token = run_here.set(run)
            try:
                return fn(*args, **kwargs)
            finally:
                run_here.reset(token)

        return bound


current = Current()
