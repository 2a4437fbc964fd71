"""In the child in which `assert_stops` runs a task: stand still at one checkpoint until the task has been asked to end.

    current.check(), .sleep(), .asked, a guard's look ─► SlotCells.asked ─► the n-th: CURSOR frame "here I am" ─► waits
                                                                                 the flag is up ─► goes on, and sees it

Imported by the fork server beside the user's app. Which checkpoint is meant stands in a file, read at the first of each
attempt: a child serves many.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from ..app import App
from ..pool.page import SlotCells

__all__ = ["FILE", "MARK", "app"]

FILE = "QWORKER_TESTING_CHECKPOINT"  # the variable that names the file
MARK = b"\xc1qworker.testing "  # no packed cursor begins so
_ASKED_WITHIN_S = 5.0
_OURS = os.sep + "qworker" + os.sep

app = App()


class _Probe:
    """Counts the checkpoints of one attempt at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal may ask in the middle of an answer
        self._number = 0
        self._passed = 0
        self._stop_at = 0
        self._left_at = 0.0  # when the last checkpoint was left
        self._asked = SlotCells.asked
        self._wait = SlotCells.wait_asked
        self._inside = threading.local()

    def install(self) -> None:
        probe = self

        def asked(cells: SlotCells) -> bool:
            probe.pass_by(cells)
            return probe._asked(cells)

        def wait_asked(cells: SlotCells, timeout_s: float) -> bool:
            # One checkpoint, however often it looks.
            probe.pass_by(cells)
            probe._inside.waits = True
            try:
                return probe._wait(cells, timeout_s)
            finally:
                probe._inside.waits = False
                probe._left_at = time.monotonic()

        SlotCells.asked = asked  # type: ignore[method-assign,assignment]
        SlotCells.wait_asked = wait_asked  # type: ignore[method-assign,assignment]

    def pass_by(self, cells: SlotCells) -> None:
        if getattr(self._inside, "waits", False):
            return
        now = time.monotonic()
        with self._lock:
            if cells.number != self._number:
                self._number, self._passed, self._left_at = cells.number, 0, now
                self._stop_at = int(Path(os.environ[FILE]).read_text())
            self._passed += 1
            unheard_s, self._left_at = now - self._left_at, now
            if self._passed != self._stop_at:
                return
        cells.save(MARK + f"{unheard_s:.3f} {_caller()}".encode())
        ends = time.monotonic() + _ASKED_WITHIN_S
        while not self._asked(cells) and time.monotonic() < ends:
            time.sleep(0.0005)


def _caller() -> str:
    """Return the innermost line of code that is not qworker's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _OURS in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@app.on_child_start
def _install() -> None:
    if FILE in os.environ:
        _Probe().install()
        _name_threads()


def _name_threads() -> None:
    """Have threads bear their names where a leak is looked for, in /proc; Python does that from 3.14 on."""
    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def named(thread: threading.Thread) -> None:
        with contextlib.suppress(OSError):
            Path("/proc/thread-self/comm").write_bytes(thread.name.encode()[:15])
        begin(thread)

    threading.Thread._bootstrap_inner = named  # type: ignore[attr-defined]
