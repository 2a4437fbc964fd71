"""The flight recorder: where a task was when it was asked to end, and shortly before it is ended by force.

    flag raised ──► watch() ──► Sighting("asked": run time, progress, last lines) ─┐
    force is near ► watch() ──► Sighting("forced": …)                              ├──► Ending.flight
                      ├──► LOOK_SIGNAL ──► the child's main thread ──► stack pipe ─┤
                      │ no answer: STACK_SIGNAL ──► the thread in the slot ──► " ──┤
                      └──► the loop of a coroutine ──► STACK frame ──► told() ─────┘

The stack is taken by Python code (looks.py), which is safe at any moment. Where Python does not get to run, it is taken
from outside: a signal to the very thread that runs the task, whose handler (faulthandler's, in C) walks that thread's
own frames without the GIL. That can crash a child in the instant in which C code calls Python code. So it is sent to a
thread only that has been seen to be asleep, or to have computed without once giving up the GIL that another asked for:
it is in the middle of C code, and its frames are whole (docs/decisions/0010).

A coroutine that waits is on no thread. Its loop tells where it is: by itself before it throws the cancellation, and
when it is asked once more. If it does not answer, the stack of its thread says what the loop stands still for.

Nothing waits for a stack. It comes when the thread next gets a processor, and what has not come when the attempt ends
is left out; no kill is late because of it. Owned by the pool, on the worker's event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from ..model import Reason, Sighting
from .ladder import NEVER, Asked
from .stack_pipe import Look
from .stack_text import STACK_MAX

if TYPE_CHECKING:
    from .kid import Kid

# What interrupts a task for the worker's sake leaves no outcome behind that could tell of it.
_REASONS: Final[frozenset[Reason]] = frozenset({"timeout", "deadline", "stop"})
# So long before force the second look is taken: a third of what lies between, within these bounds. The thread has to
# get a processor meanwhile. When force comes sooner after the ask than twice the shortest, the first look says it all.
_LEAD_S: Final = (0.05, 0.4)
_LINES: Final = 10
_LINE_MAX: Final = 300  # characters
# Attempts that are looked at at once: when thousands are stopped together, nobody reads where each of them was.
_LOOKED_AT_MAX: Final = 500
_KEPT_MAX: Final = 4 * 1024 * 1024  # characters of all last lines together
# characters of all last lines together
_SILENT_S: Final = 0.02  # a loop that has not answered after this stands still


class Recorder:
    """What one pool has seen of attempts that were asked to end, and the last lines of all that run."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[str]] = {}
        self._kept = 0  # characters in them
        self._looks: dict[int, list[Look]] = {}

    def __len__(self) -> int:
        return len(self._lines) + len(self._looks)

    def line(self, number: int, text: str) -> None:
        """An attempt printed or logged a line."""
        lines = self._lines.get(number)
        if lines is None:
            lines = self._lines[number] = deque()
        if len(lines) == _LINES:
            self._kept -= len(lines.popleft())
        text = text if len(text) <= _LINE_MAX else text[: _LINE_MAX - 1] + "…"
        if self._kept + len(text) <= _KEPT_MAX:
            lines.append(text)
            self._kept += len(text)

    def lines(self, number: int) -> tuple[str, ...]:
        """Return the last lines that a running attempt printed or logged."""
        return tuple(self._lines.get(number, ()))

    def watch(self, kid: Kid, slot: int, number: int, asked: Asked, now: float) -> float:
        """Look at an attempt whose flag is raised, if it is time. Returns when to be called again (NEVER: no more)."""
        looks = self._looks.get(number)
        if looks is None:
            if asked.reason not in _REASONS or len(self._looks) >= _LOOKED_AT_MAX:
                return NEVER
            looks = self._looks[number] = []
            self._look("asked", kid, slot, number, now)
        patience_s = asked.force_at - looks[0].at
        shortest, longest = _LEAD_S
        if len(looks) > 1 or patience_s < 2 * shortest:
            return NEVER
        lead_s = min(max(patience_s / 3, shortest), longest)
        # A shield that is left before its time gives force that much more patience again; the patrol looks meanwhile.
        due = max(asked.force_at, min(kid.page.shielded_until(slot, number), asked.patience)) - lead_s
        if now < due:
            return due
        self._look("forced", kid, slot, number, now)
        return NEVER

    def foresee(self, kid: Kid, slot: int, number: int, grace_s: float, limit: float, now: float) -> float:
        """Look at an attempt in time that will be forced as soon as it is asked. Returns when to be called again."""
        shortest = _LEAD_S[0]
        if grace_s >= shortest or number in self._looks:
            return NEVER
        if now < limit - shortest:
            return limit - shortest
        if len(self._looks) < _LOOKED_AT_MAX:
            self._looks[number] = []
            self._look("asked", kid, slot, number, now)
        return NEVER

    def told(self, number: int, stack: str) -> None:
        """The loop of an attempt, a coroutine, told where it waits."""
        look = next((look for look in self._looks.get(number, ()) if not look.told), None)
        if look is not None:
            look.told = True
            look.stack = stack[:STACK_MAX]
            look.kid.stacks.give_up(look)

    def gone(self, number: int) -> tuple[Sighting, ...]:
        """Return what was seen of an attempt that has ended, and forget it."""
        lines = self._lines.pop(number, None)
        if lines is not None:
            self._kept -= sum(map(len, lines))
        return tuple(look.end() for look in self._looks.pop(number, ()))

    def _look(self, why: str, kid: Kid, slot: int, number: int, now: float) -> None:
        look = Look(why, kid, slot, number, self.lines(number), now)
        looks = self._looks[number]
        looks.append(look)
        if len(looks) > 1:
            kid.want_stack(slot, number)
        if kid.plan.loop and kid.page.thread(slot) == kid.pid:
            asyncio.get_running_loop().call_later(_SILENT_S, self._unanswered, look)
        else:
            kid.stacks.want(look)

    def _unanswered(self, look: Look) -> None:
        if not look.told and look in self._looks.get(look.number, ()):
            look.blocked = True
            look.kid.stacks.want(look)
