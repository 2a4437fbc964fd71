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
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from ..model import Reason, Sighting
from .ladder import NEVER, Asked
from .linux import LOOK_SIGNAL, STACK_SIGNAL, Motion, motion_of
from .looks import BEGIN, END
from .page import Page
from .process import Process

if TYPE_CHECKING:
    from .kid import Kid

# What interrupts a task for the worker's sake leaves no outcome behind that could tell of it.
_REASONS: Final[frozenset[Reason]] = frozenset({"timeout", "deadline", "stop"})
# So long before force the second look is taken: a third of what lies between, within these bounds. The thread has to
# get a processor meanwhile. When force comes sooner after the ask than twice the shortest, the first look says it all.
_LEAD_S: Final = (0.05, 0.4)
_LINES: Final = 10
_LINE_MAX: Final = 300  # characters
_STACK_MAX: Final = 8 * 1024
# Attempts that are looked at at once: when thousands are stopped together, nobody reads where each of them was.
_LOOKED_AT_MAX: Final = 500
_KEPT_MAX: Final = 4 * 1024 * 1024  # characters of all last lines together
_SILENT_S: Final = 0.02  # a loop that has not answered after this stands still
_BLOCKED: Final = "  (its event loop did not answer: this is what its thread did)\n"
_TEXT_MAX: Final = 64 * 1024  # what a pipe holds; faulthandler writes at most 100 frames
# faulthandler writes nothing for who is signalled while another thread is in its handler: ask again, some times.
_AGAIN_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# When it is looked why a child's Python has not answered: its main thread may wait for the GIL, or for a processor.
_ASK_S: Final = (*(0.01,) * 10, *(0.02,) * 10, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIGNAL_EVERY: Final = 3  # of these; in between it has the time to wait for the GIL twice
# A thread that has computed for so many hundredths of a second, though it was to give up the GIL, runs C code.
_IN_C_TICKS: Final = 2
# When the main thread has slept so often since it was asked, it has waited for the GIL for 5 ms, and then asked for it.
_PRESSED: Final = 2

_HEAD: Final = b"Stack (most recent call first):\n"
_DEEPER: Final = "  ..."  # faulthandler's word for the frames beyond a hundred
# The outermost frame of a slot's thread and of a child's main thread: with it a dump is whole.
_OUTERMOST: Final = (" in _bootstrap", " in _run_module_as_main")
# Below the task's code there are these modules of this package, and what they call to get to it.
_OURS: Final = re.compile(
    r'  File ".*[/\\]qworker[/\\]pool[/\\]'
    r'(?:(?:child|coroutines|loop|slots|threads)\.py", line |interrupts\.py", line \d+ in interruptible)'
)
_LOOKS: Final = re.compile(r'  File ".*[/\\]qworker[/\\]pool[/\\]looks\.py", line ')
_SLOT: Final = re.compile(r" in slot_(\d+)$")  # threads.py calls it so
_ANSWER: Final = re.compile(b"%b(\\d+)\n([^%b%b]*)%b" % (BEGIN, BEGIN, END, END))


class Dump(NamedTuple):
    """What faulthandler wrote of one thread."""

    stack: str  # the task's part, innermost frame first
    whole: bool  # all has come
    slot: int | None  # whose thread wrote it; None: it does not say


def read_dump(text: bytes | bytearray) -> Dump:
    """Read the last dump in `text`. It is cut at qworker's own frames below the task, and at 8 KiB.

    A line that has not come whole is left out.
    """
    _, head, dump = text.rpartition(_HEAD)
    lines = dump.decode("utf-8", "backslashreplace").split("\n")[:-1] if head else []
    stack, slot = _cut(lines)
    whole = bool(lines) and dump.endswith(b"\n") and (lines[-1] == _DEEPER or lines[-1].endswith(_OUTERMOST))
    return Dump(stack, whole, slot)


def _cut(lines: list[str]) -> tuple[str, int | None]:
    """Return the task's part of a stack, and the slot whose thread it is of."""
    kept: list[str] = []
    size = 0
    slot: int | None = None
    cut = False
    for line in lines:
        if _LOOKS.match(line):
            kept.clear()  # it was answering an earlier ask
            size = 0
        elif _OURS.match(line):
            cut = True
            if (found := _SLOT.search(line)) is not None:
                slot = int(found[1])
        elif not cut:
            size += len(line) + 1
            cut = line == _DEEPER or size > _STACK_MAX - len(_DEEPER)
            kept.append(_DEEPER if cut else line)
    return "\n".join(kept), slot


def _is_in_c(before: Motion, now: Motion, *, pressed: bool) -> bool:
    """Was a thread in one and the same call of C code between these two looks at it?

    It was if it slept all the time; if it computed, only when it was `pressed` to give up the GIL and did not.
    """
    ran = pressed and now.ran_ticks - before.ran_ticks >= _IN_C_TICKS
    return now.sleeps == before.sleeps and (now.asleep or ran)


class _Look:
    """One sighting in the making: all but its stack is known at once."""

    __slots__ = (
        "at", "blocked", "kid", "lines", "main", "motion", "number", "pressed", "progress", "ran_s", "slot", "stack",
        "told", "why",
    )  # fmt: skip

    def __init__(self, why: str, kid: Kid, slot: int, number: int, lines: tuple[str, ...], now: float) -> None:
        _, started_ns = kid.page.seen(slot)
        self.why = why
        self.at = now
        self.slot = slot
        self.number = number
        self.ran_s = max(0.0, now - started_ns / 1e9) if started_ns else 0.0
        self.progress = kid.page.progress(slot, number)
        self.lines = lines
        self.stack = ""
        self.told = False  # by its loop, which knows better than any thread
        self.blocked = False  # its loop did not
        self.motion: Motion | None = None  # of its thread, since it was asked and last woke
        self.main: Motion | None = None  # of the main thread, when that was asked
        self.pressed = False  # its thread is to give up the GIL, so that the main thread can answer
        self.kid = kid

    def dumped(self, stack: str) -> None:
        """Its thread's stack was written."""
        if not self.told:
            self.stack = _BLOCKED + stack if self.blocked and stack else stack

    def end(self) -> Sighting:
        """The attempt ends: this is what was seen."""
        self.kid.stacks.give_up(self)
        return Sighting(self.why, self.ran_s, self.stack, self.progress, self.lines)


class Stacks:
    """The pipe through which one child writes stacks: Python's answers, and faulthandler's, one thread at a time."""

    def __init__(self, page: Page) -> None:
        self.process: Process | None = None
        self._page = page
        self._read, self._theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # a dump that finds it full is cut short
        self._asked: dict[_Look, asyncio.TimerHandle] = {}  # of the child's Python, which has not answered
        self._wanted: deque[_Look] = deque()  # of faulthandler
        self._pending: _Look | None = None  # whose thread was signalled
        self._again: asyncio.TimerHandle | None = None
        self._text = bytearray()
        self._reading = False

    def detach(self) -> int:
        """Return the child's end, which is the caller's from now on."""
        fd, self._theirs = self._theirs, -1
        return fd

    def want(self, look: _Look) -> None:
        """Have the stack of a look taken, as soon as may be."""
        self._ask(look, 0)

    def give_up(self, look: _Look) -> None:
        """Its attempt ends: what has been written of its stack must do."""
        if look in self._asked:
            self._drain()
            self._answered(look)
        elif look in self._wanted:
            self._wanted.remove(look)
        elif look is self._pending:
            self._receive()
            if look is self._pending:
                dump = read_dump(self._text)
                look.dumped(dump.stack if dump.slot in (None, look.slot) else "")
                self._settle()
            self._next()

    def close(self) -> None:
        """The child is gone."""
        for look in list(self._asked):
            self._answered(look)
        self._wanted.clear()
        self._settle()
        if self._theirs >= 0:
            os.close(self._theirs)
        os.close(self._read)

    def _ask(self, look: _Look, times: int) -> None:
        """Have Python answer.

        The main thread is asked again, for it may have gone to sleep just as the signal came. Where it runs the task
        itself, only when its answer found the pipe full: a signal wakes who sleeps, and its sleep tells enough.
        """
        thread = self._page.thread(look.slot)
        if self.process is None or not thread or self._page.number(look.slot) != look.number:
            self._answered(look)  # not begun, or over: there is nothing to see
            return
        if look.motion is None:
            look.motion = motion_of(self.process.pid, thread)
            look.pressed = thread == self.process.pid
        again = not look.pressed and times % _SIGNAL_EVERY == 0
        if again or not self._page.looked_for(look.slot, look.number):
            self._page.look(look.slot, look.number)
            look.main = motion_of(self.process.pid, self.process.pid)
            self.process.signal_thread(self.process.pid, LOOK_SIGNAL)
        later = asyncio.get_running_loop().call_later(_ASK_S[times], self._unanswered, look, times + 1)
        self._asked[look] = later
        self._watch()

    def _unanswered(self, look: _Look, times: int) -> None:
        assert self.process is not None
        pid = self.process.pid
        now, main = motion_of(pid, self._page.thread(look.slot)), motion_of(pid, pid)
        self._drain()
        if look not in self._asked:
            return
        before = look.motion
        # An ask that was taken, and whose answer got lost, was taken by Python code: it is asked again.
        pending = self._page.looked_for(look.slot, look.number)
        if pending and now is not None and before is not None and _is_in_c(before, now, pressed=look.pressed):
            self._answered(look)
            self._wanted.append(look)
            self._next()
        elif times == len(_ASK_S):
            self._answered(look)
        else:
            if before is None or now is None or now.sleeps != before.sleeps or not look.pressed:
                look.motion = now
            if main is not None and look.main is not None and main.sleeps - look.main.sleeps >= _PRESSED:
                look.pressed = True
            self._ask(look, times)

    def _answered(self, look: _Look) -> None:
        if (later := self._asked.pop(look, None)) is not None:
            later.cancel()
        self._watch()

    def _watch(self) -> None:
        """Read the pipe while somebody writes there."""
        wanted = bool(self._asked) or self._pending is not None
        if wanted is not self._reading:
            self._reading = wanted
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(self._read, self._readable)
            else:
                loop.remove_reader(self._read)

    def _next(self) -> None:
        while self._pending is None and self._wanted:
            look = self._wanted.popleft()
            self._drain()  # whatever else was written there
            self._text.clear()
            if self._signal(look):
                self._pending = look
                self._again = asyncio.get_running_loop().call_later(_AGAIN_S[0], self._ask_again, 1)
                self._watch()

    def _signal(self, look: _Look) -> bool:
        thread = self._page.thread(look.slot)
        if self.process is None or not thread or self._page.number(look.slot) != look.number:
            return False  # not begun, or over: there is nothing to see
        return self.process.signal_thread(thread, STACK_SIGNAL)

    def _ask_again(self, times: int) -> None:
        """Nothing came: its thread has not had a processor, or was signalled while another one was writing."""
        assert self._pending is not None
        if times == len(_AGAIN_S) or (not self._text and not self._signal(self._pending)):
            self._settle()
            self._next()
        else:
            self._again = asyncio.get_running_loop().call_later(_AGAIN_S[times], self._ask_again, times + 1)

    def _readable(self) -> None:
        self._receive()
        self._next()

    def _receive(self) -> None:
        """Take what has come; the look that it was for may be complete by it."""
        over = self._drain()
        if self._pending is None:
            if over:
                for look in list(self._asked):
                    self._answered(look)
            return
        dump = read_dump(self._text)
        if dump.whole and dump.slot not in (None, self._pending.slot):
            self._text.clear()  # it came too late for its own look
        elif dump.whole or over:
            self._pending.dumped(dump.stack)
            self._settle()

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending = None
            assert self._again is not None
            self._again.cancel()
            self._watch()
        self._text.clear()

    def _drain(self) -> bool:
        """Read what is there; True when no more will come: the child is gone, or talks nonsense."""
        while len(self._text) < _TEXT_MAX:
            try:
                data = os.read(self._read, _TEXT_MAX)
            except BlockingIOError:
                return False
            if not data:
                return True
            self._text += data
            self._text[:] = _ANSWER.sub(self._take, bytes(self._text))
        return True

    def _take(self, answer: re.Match[bytes]) -> bytes:
        """Take an answer of Python's out of what was written."""
        number = int(answer[1])
        look = next((look for look in (*self._asked, *self._wanted) if look.number == number), None)
        if look is not None:
            look.dumped(_cut(answer[2].decode("utf-8", "backslashreplace").split("\n")[:-1])[0])
            self._answered(look)
            if look in self._wanted:
                self._wanted.remove(look)
        return b""


class Recorder:
    """What one pool has seen of attempts that were asked to end, and the last lines of all that run."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[str]] = {}
        self._kept = 0  # characters in them
        self._looks: dict[int, list[_Look]] = {}

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
            look.stack = stack[:_STACK_MAX]
            look.kid.stacks.give_up(look)

    def gone(self, number: int) -> tuple[Sighting, ...]:
        """Return what was seen of an attempt that has ended, and forget it."""
        lines = self._lines.pop(number, None)
        if lines is not None:
            self._kept -= sum(map(len, lines))
        return tuple(look.end() for look in self._looks.pop(number, ()))

    def _look(self, why: str, kid: Kid, slot: int, number: int, now: float) -> None:
        look = _Look(why, kid, slot, number, self.lines(number), now)
        looks = self._looks[number]
        looks.append(look)
        if len(looks) > 1:
            kid.want_stack(slot, number)
        if kid.plan.loop and kid.page.thread(slot) == kid.pid:
            asyncio.get_running_loop().call_later(_SILENT_S, self._unanswered, look)
        else:
            kid.stacks.want(look)

    def _unanswered(self, look: _Look) -> None:
        if not look.told and look in self._looks.get(look.number, ()):
            look.blocked = True
            look.kid.stacks.want(look)
