"""How the stack of an attempt comes out of its child: Python is asked first, faulthandler where that cannot answer.

    want(look) ──► LOOK_SIGNAL ──► the child's main thread (looks.py) ──────────────► stack pipe ──► look.stack
                   no answer, and in the middle of C code: STACK_SIGNAL ──► faulthandler ──► "

For the flight recorder (recorder.py), which says why it is done so. Owned by the pool, on the worker's event loop.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Final

from ..model import Sighting
from .linux import LOOK_SIGNAL, STACK_SIGNAL, Motion, motion_of
from .looks import BEGIN, END
from .page import Page
from .process import Process
from .stack_text import read_dump, task_part

if TYPE_CHECKING:
    from .kid import Kid

# a loop that has not answered after this stands still
_BLOCKED: Final = "  (its event loop did not answer: this is what its thread did)\n"
_TEXT_MAX: Final = 64 * 1024  # what a pipe holds; faulthandler writes at most 100 frames
# what a pipe holds; faulthandler writes at most 100 frames
# faulthandler writes nothing for who is signalled while another thread is in its handler: ask again, some times.
_AGAIN_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# When it is looked why a child's Python has not answered: its main thread may wait for the GIL, or for a processor.
_ASK_S: Final = (*(0.01,) * 10, *(0.02,) * 10, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIGNAL_EVERY: Final = 3  # of these; in between it has the time to wait for the GIL twice
# of these; in between it has the time to wait for the GIL twice
# A thread that has computed for so many hundredths of a second, though it was to give up the GIL, runs C code.
_IN_C_TICKS: Final = 2
# When the main thread has slept so often since it was asked, it has waited for the GIL for 5 ms, and then asked for it.
_PRESSED: Final = 2
# threads.py calls it so
_ANSWER: Final = re.compile(b"%b(\\d{1,20})\n([^%b%b]*)%b" % (BEGIN, BEGIN, END, END))


def is_in_c(before: Motion, now: Motion, *, pressed: bool) -> bool:
    """Was a thread in one and the same call of C code between these two looks at it?

    It was if it slept all the time; if it computed, only when it was `pressed` to give up the GIL and did not.
    """
    ran = pressed and now.ran_ticks - before.ran_ticks >= _IN_C_TICKS
    return now.sleeps == before.sleeps and (now.asleep or ran)


class Look:
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
        self._asked: dict[Look, asyncio.TimerHandle] = {}  # of the child's Python, which has not answered
        self._wanted: deque[Look] = deque()  # of faulthandler
        self._pending: Look | None = None  # whose thread was signalled
        self._again: asyncio.TimerHandle | None = None
        self._text = bytearray()
        self._reading = False

    def detach(self) -> int:
        """Return the child's end, which is the caller's from now on."""
        fd, self._theirs = self._theirs, -1
        return fd

    def want(self, look: Look) -> None:
        """Have the stack of a look taken, as soon as may be."""
        self._ask(look, 0)

    def give_up(self, look: Look) -> None:
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

    def _ask(self, look: Look, times: int) -> None:
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

    def _unanswered(self, look: Look, times: int) -> None:
        assert self.process is not None
        pid = self.process.pid
        now, main = motion_of(pid, self._page.thread(look.slot)), motion_of(pid, pid)
        self._drain()
        if look not in self._asked:
            return
        before = look.motion
        # An ask that was taken, and whose answer got lost, was taken by Python code: it is asked again.
        pending = self._page.looked_for(look.slot, look.number)
        if pending and now is not None and before is not None and is_in_c(before, now, pressed=look.pressed):
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

    def _answered(self, look: Look) -> None:
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

    def _signal(self, look: Look) -> bool:
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
            look.dumped(task_part(answer[2].decode("utf-8", "backslashreplace").split("\n")[:-1])[0])
            self._answered(look)
            if look in self._wanted:
                self._wanted.remove(look)
        return b""
