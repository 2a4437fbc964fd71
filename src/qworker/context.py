"""Which task this code belongs to: the run that its child entered.

    child: enter(run) ──► the task's code: current.check() ──► run.slot (shared memory) ◄── worker: asked to end
           leave(token)

Found through a context variable, so it follows coroutines and `contextvars.copy_context()`. A thread that a task
starts does not inherit it: in a child with one slot it belongs to that slot's task, elsewhere the thread must be given
`current.bind(fn)`. What tasks see of it is `current`, in current_task.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = [
    "PLAIN",
    "Nowhere",
    "Run",
    "Slot",
    "ended",
    "enter",
    "find",
    "in_child",
    "leave",
    "on_end",
    "run_here",
    "running",
    "set_fallback",
]


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

    def refused(self) -> str:
        """Say why its worker refuses its wait: `place` (it has none to lend), `cycle`; reads memory."""

    def shield(self, until: float) -> None:
        """Ask that no force is used before that instant (monotonic clock); 0: the shield is over."""

    def save(self, cursor: bytes) -> None:
        """Keep where `current.iterate` has come to, for the next attempt."""

    def group(self, id: str, opened: bool) -> None:  # noqa: A002 - the public word
        """Say that the task opened a group, or that its block was left: one that is left open ends with the task."""


@dataclass(slots=True, eq=False)
class Run:
    """One attempt at a task, as its own code sees it. Nothing of it changes; to freeze it would double its cost."""

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
    loops: list[Any] = field(default_factory=list, repr=False)  # its `iterate`s, see iterate.py


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

    def refused(self) -> str:
        return ""

    def shield(self, until: float) -> None:
        pass

    def save(self, cursor: bytes) -> None:
        pass

    def group(self, id: str, opened: bool) -> None:  # noqa: A002
        pass


PLAIN = Run(id="", name="", run=1, attempt=1, fence=0, retries=0, slot=Nowhere())
run_here: ContextVar[Run | None] = ContextVar("qworker.current", default=None)
_fallback: Run | None = None  # what threads without a context belong to, in a child with one slot
_in_child = False
_on_end: Callable[[Run], None] | None = None


def enter(run: Run) -> Token[Run | None]:
    """Make `run` the current one of this thread or coroutine. Called by the child before a task's code."""
    global _in_child
    # What runs inline runs in a process of the user's own, where a call outside of tasks is a plain one.
    if not _in_child and not isinstance(run.slot, Nowhere):
        _in_child = True
    return run_here.set(run)


def leave(token: Token[Run | None]) -> None:
    """Undo `enter`, with what it returned, in the same context."""
    run = run_here.get()
    run_here.reset(token)
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
    return run_here.get() or _fallback


def find() -> Run:
    """Return the run that this code belongs to; PLAIN in a plain call.

    Raises:
        RuntimeError: this thread belongs to no task, in a child where several run.
    """
    run = run_here.get() or _fallback
    if run is not None:
        return run
    if _in_child:
        raise RuntimeError(
            "`current` was used in a thread that belongs to no task: start it with target=current.bind(function), "
            "called in the task itself, or run the task in a process slot"
        )
    return PLAIN
