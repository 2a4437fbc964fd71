"""The shared page of a child: what both sides read without asking each other.

    worker ──► start_until, stop number, reason          child ──► number, started, pulse, progress

Cells are aligned 64-bit words, written by a single store each, so that a reader sees an old or a new value and never
a mixture. A slot's `number` is the attempt that owns the slot: written before its body is decoded, cleared after its
outcome was sent. To stop an attempt is to write *its number*: a flag that comes late hits nobody.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from _thread import get_ident, get_native_id
from collections.abc import Callable, Sequence
from threading import local
from typing import Final

from .. import clock
from ..model import Reason
from . import frames

REASONS: Final[tuple[Reason, ...]] = ("timeout", "deadline", "stop", "drain", "fenced", "recycle")
FOREVER: Final = 2**63 - 1

START_UNTIL, _PULSE = 0, 1
_HEADER: Final = 8
_NUMBER, _STARTED, _STOP, _REASON, _PROGRESS = 0, 1, 2, 3, 4  # progress: a version, done, total, length of text
_SHIELD, _THREAD, _REFUSED, _LOOK = 8, 9, 10, 11
_CYCLE: Final = 1 << 63  # beside the number in _REFUSED
_LOOK_NOW: Final = 12
_TEXT: Final = 13
_PER_SLOT: Final = 25
_TEXT_MAX: Final = (_PER_SLOT - _TEXT) * 8
_here = local()  # each thread's native id, asked of the kernel once
thread_idents: Final[dict[int, int]] = {}  # of the threads that ran attempts here, by their native ids


class Page:
    """A child's page. The worker creates it; both sides keep it mapped until they close it."""

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._memory = mmap.mmap(fd, (_HEADER + slots * _PER_SLOT) * 8)
        self._bytes = memoryview(self._memory)
        self.cells = self._bytes.cast("Q")  # for those that look at it for each task

    @classmethod
    def create(cls, slots: int, start_until_ns: int = FOREVER) -> Page:
        """Make a fresh page for `slots` slots."""
        fd = os.memfd_create("qworker-page", os.MFD_CLOEXEC)
        os.ftruncate(fd, (_HEADER + slots * _PER_SLOT) * 8)
        page = cls(fd, slots)
        page.start_until_ns = start_until_ns
        return page

    def close(self) -> None:
        """Unmap and close."""
        self.cells.release()
        self._bytes.release()
        self._memory.close()
        os.close(self.fd)

    @property
    def start_until_ns(self) -> int:
        """The instant (`clock`) from which on no slot may start anything."""
        return self.cells[START_UNTIL]

    @start_until_ns.setter
    def start_until_ns(self, value: int) -> None:
        self.cells[START_UNTIL] = value

    @property
    def pulse_ns(self) -> int:
        """When the child's Python last ran, while it runs anything."""
        return self.cells[_PULSE]

    def beat(self) -> None:
        """Say that Python runs here now."""
        self.cells[_PULSE] = time.monotonic_ns()

    # ── one slot, as the worker sees it ──────────────────────────────────────────────────────────────────────────

    def number(self, slot: int) -> int:
        """The attempt that owns the slot; 0: none."""
        return self.cells[_HEADER + slot * _PER_SLOT + _NUMBER]

    def seen(self, slot: int) -> tuple[int, int]:
        """(number, started_ns) of one and the same attempt; started_ns 0: its body is being decoded."""
        base = _HEADER + slot * _PER_SLOT
        cells = self.cells
        while True:
            number = cells[base + _NUMBER]
            started = cells[base + _STARTED]
            # Numbers are never used twice, so an unchanged one means that `started` belongs to it.
            if cells[base + _NUMBER] == number:
                return number, started

    def numbers(self) -> list[int]:
        """The attempt that owns each slot; 0: none. A thousand slots cost what a few would cost one by one."""
        numbers: list[int] = self.cells[_HEADER + _NUMBER :: _PER_SLOT].tolist()
        return numbers

    def starts(self) -> list[int]:
        """The start of what is in each slot; to be believed only where its number is the same before and after."""
        starts: list[int] = self.cells[_HEADER + _STARTED :: _PER_SLOT].tolist()
        return starts

    def raise_flag(self, slot: int, number: int, reason: Reason) -> bool:
        """Ask attempt `number` to end; False when its flag was up. The reason is there before the flag is seen."""
        base = _HEADER + slot * _PER_SLOT
        self.cells[base + _REASON] = REASONS.index(reason)
        if self.cells[base + _STOP] == number:
            return False
        self.cells[base + _STOP] = number
        return True

    def shielded_until(self, slot: int, number: int) -> float:
        """The instant (monotonic) before which attempt `number` asks for no force; 0: it does not."""
        base = _HEADER + slot * _PER_SLOT
        until_ns = self.cells[base + _SHIELD]
        return until_ns / 1e9 if self.cells[base + _NUMBER] == number else 0.0

    def thread(self, slot: int) -> int:
        """The thread (its native id) that runs what is in the slot; 0: not told."""
        return self.cells[_HEADER + slot * _PER_SLOT + _THREAD]

    def want_stack(self, slot: int, number: int) -> None:
        """Have attempt `number` tell its stack, if it is a coroutine that can only do so itself."""
        self.cells[_HEADER + slot * _PER_SLOT + _LOOK] = number

    def look(self, slot: int, number: int) -> None:
        """Have the child's main thread write the stack of the thread that runs attempt `number`, at the next signal."""
        self.cells[_HEADER + slot * _PER_SLOT + _LOOK_NOW] = number

    def looked_for(self, slot: int, number: int) -> bool:
        """Has the child not yet taken the ask for the stack of attempt `number`?"""
        return self.cells[_HEADER + slot * _PER_SLOT + _LOOK_NOW] == number

    def take_looks(self) -> list[tuple[int, int, int]]:
        """(slot, number, thread) of every attempt whose stack is to be written. Once for each time that it was asked.

        For the child.
        """
        cells = self.cells
        found = []
        for slot, number in enumerate(cells[_HEADER + _LOOK_NOW :: _PER_SLOT].tolist()):
            if number:
                base = _HEADER + slot * _PER_SLOT
                cells[base + _LOOK_NOW] = 0
                if cells[base + _NUMBER] == number and cells[base + _THREAD]:
                    found.append((slot, number, cells[base + _THREAD]))
        return found

    def refuse_wait(self, slot: int, number: int, *, cycle: bool) -> None:
        """Tell attempt `number` that there is no place for what it waits for, or that this waits for it (`cycle`)."""
        self.cells[_HEADER + slot * _PER_SLOT + _REFUSED] = number | (_CYCLE if cycle else 0)

    def progress(self, slot: int, number: int) -> tuple[float, float | None, str] | None:
        """What attempt `number` last told of its progress."""
        base = _HEADER + slot * _PER_SLOT
        cells = self.cells
        for _ in range(3):
            version = cells[base + _PROGRESS]
            done, total = struct.unpack_from("dd", self._bytes, (base + _PROGRESS + 1) * 8)
            length = min(cells[base + _PROGRESS + 3], _TEXT_MAX)
            start = (base + _TEXT) * 8
            text = bytes(self._bytes[start : start + length]).decode(errors="ignore")  # it may end within a character
            if version % 2 == 0 and cells[base + _PROGRESS] == version and cells[base + _NUMBER] == number:
                return (done, None if math.isnan(total) else total, text) if version else None
        return None


class SlotCells:
    """One attempt in its slot, as the child that runs it sees it. Also what `current` reads: see `context.Slot`.

    Made anew for each attempt: a helper thread that outlives its task keeps asking about its own attempt.
    """

    __slots__ = ("__weakref__", "_base", "_bytes", "_cells", "_send", "_told", "cancels", "number")

    def __init__(self, page: Page, slot: int, number: int, send: Callable[[bytes], None]) -> None:
        """Mark the slot as attempt `number`'s: from here on a death of this child is that attempt's.

        `send` sends a frame to the worker.
        """
        self.number = number
        self.cancels = False  # its loop cancels it when it is asked to end: nothing else need be raised
        self._send = send
        self._told = False  # whether the worker knows that this attempt tells its progress
        self._bytes = page._bytes
        self._cells = cells = page.cells
        self._base = base = _HEADER + slot * _PER_SLOT
        cells[base + _STARTED] = 0
        cells[base + _PROGRESS] = 0
        cells[base + _SHIELD] = 0
        cells[base + _THREAD] = 0
        cells[base + _NUMBER] = number

    def start(self) -> int:
        """Start the run clock; returns its nanoseconds."""
        now = self._cells[self._base + _STARTED] = time.monotonic_ns()
        return now

    def clear(self) -> None:
        """The slot is nobody's."""
        self._cells[self._base + _NUMBER] = 0

    def over(self) -> bool:
        """Has the attempt ended, so that its slot may be another's?"""
        return self._cells[self._base + _NUMBER] != self.number

    def asked(self) -> bool:
        """Has the attempt that owns this slot been asked to end? No system call."""
        return self._cells[self._base + _STOP] == self.number

    def reason(self) -> str:
        """Why it was asked; empty when it was not."""
        return REASONS[self._cells[self._base + _REASON]] if self.asked() else ""

    def stack_wanted(self) -> bool:
        """Does the worker want to know where this attempt waits? True once for each time that it does."""
        if self._cells[self._base + _LOOK] != self.number:
            return False
        self._cells[self._base + _LOOK] = 0
        return True

    def tell_stack(self, text: str) -> None:
        """Tell the worker where this attempt waits."""
        self._send(frames.pack_frame(frames.STACK, self.number, text))

    def lease_uncertain(self) -> bool:
        """Has this worker been unable to renew for so long that it would start nothing new?"""
        return clock.now_ns() >= self._cells[START_UNTIL]

    def run_here(self) -> None:
        """Tell which thread runs the attempt: this one."""
        try:
            thread = _here.id
        except AttributeError:
            thread = _here.id = get_native_id()
            thread_idents[thread] = get_ident()
        self._cells[self._base + _THREAD] = thread

    def lend(self, ids: Sequence[str], *, more: bool = False) -> None:
        """Tell the worker that this attempt waits for these tasks."""
        if not self.over():
            self._cells[self._base + _REFUSED] = 0
        self._send(frames.pack_frame(frames.WAITING, self.number, list(ids), more))

    def resume(self) -> None:
        """Tell the worker that it waits no longer."""
        self._send(frames.pack_frame(frames.RESUMED, self.number))

    def refused(self) -> str:
        """Return why the worker refuses what this attempt waits for; empty: it does not."""
        cell = self._cells[self._base + _REFUSED]
        if cell & ~_CYCLE != self.number:
            return ""
        return "cycle" if cell & _CYCLE else "place"

    def shield(self, until: float) -> None:
        """Ask for no force before that instant (monotonic); 0: the shield is over."""
        if not self.over():  # a helper thread that outlived its task asks nothing for the next one
            self._cells[self._base + _SHIELD] = int(until * 1e9)

    def save(self, cursor: bytes) -> None:
        """Give the worker the cursor of `current.iterate`, to be kept."""
        self._send(frames.pack_frame(frames.CURSOR, self.number, cursor))

    def group(self, id: str, opened: bool) -> None:  # noqa: A002 - the public word
        """Tell the worker of a group that this attempt opened or left."""
        self._send(frames.pack_frame(frames.GROUP, self.number, id, opened))

    def progress(self, done: float, total: float | None, text: str) -> None:
        """Tell how far the attempt is: a few stores into shared memory, as often as one likes."""
        # First whatever may fail: nothing is to be left half written.
        numbers = float(done), math.nan if total is None else float(total)
        data = text.encode("utf-8", "backslashreplace")[:_TEXT_MAX]
        if self.over():
            return  # a helper thread that outlived its task tells nothing of the next one
        base = self._base
        cells = self._cells
        version = cells[base + _PROGRESS] | 1  # odd: being written
        cells[base + _PROGRESS] = version
        struct.pack_into("dd", self._bytes, (base + _PROGRESS + 1) * 8, *numbers)
        cells[base + _PROGRESS + 3] = len(data)
        start = (base + _TEXT) * 8
        self._bytes[start : start + len(data)] = data
        cells[base + _PROGRESS] = version + 1
        if not self._told:
            # Once per attempt: so the worker reads the cells of those that tell something, and of no others.
            self._told = True
            self._send(frames.pack_frame(frames.PROGRESS, self.number, (base - _HEADER) // _PER_SLOT))

    def wait_asked(self, timeout_s: float) -> bool:
        """Wait until asked, looking every 10 ms: nobody can be woken through shared memory by a plain store."""
        ends = time.monotonic() + timeout_s
        while not self.asked():
            left = ends - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, 0.01))
        return True
