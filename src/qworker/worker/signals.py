"""What signals mean to a worker.

TERM, INT: drain; a second one asks what runs to stop; a third kills. TSTP: claim nothing more; CONT: claim again.
USR2: log the stacks of every child. Works as PID 1, where the kernel ignores signals without a handler.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from .state import Phase, State


class Signals:
    """Turns signals into events. Owned by the event loop."""

    def __init__(self, state: State, *, dump: Callable[[], None], changed: Callable[[], None]) -> None:
        self._state, self._dump, self._changed = state, dump, changed
        self.drain = asyncio.Event()
        self.stop = asyncio.Event()
        self.kill = asyncio.Event()
        self.last: signal.Signals | None = None
        self._seen = 0

    def install(self) -> None:
        """Take the handlers over from the interpreter."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end, number)
        loop.add_signal_handler(signal.SIGTSTP, self._on_quiet)
        loop.add_signal_handler(signal.SIGCONT, self._on_resume)
        loop.add_signal_handler(signal.SIGUSR2, self._dump)
        # nohup, and shells that let go of a background job, ignore it on our behalf: then it stays ignored.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._on_end, signal.SIGHUP)

    def _on_end(self, number: int) -> None:
        self._seen += 1
        self.last = signal.Signals(number)
        step = (self.drain, self.stop, self.kill)[min(self._seen, 3) - 1]
        notes = {
            1: f"finishing what runs, for at most {self._state.settings.drain_timeout_s:g} s; a second signal stops it",
            2: "asking what runs to stop; a third signal kills it",
            3: "killing what runs",
        }
        if self._seen <= 3:
            self._state.emit("worker.signal", signal=self.last.name, note=notes[self._seen])
        step.set()

    def _on_quiet(self) -> None:
        if self._state.phase is Phase.RUNNING:
            self._state.phase = Phase.QUIET
            self._state.emit("worker.quiet", note="claiming nothing more; SIGCONT resumes, SIGTERM ends")
            self._state.wake.set()
            self._changed()

    def _on_resume(self) -> None:
        if self._state.phase is Phase.QUIET:
            self._state.phase = Phase.RUNNING
            self._state.emit("worker.resumed", note="claiming again")
            self._state.wake.set()
            self._changed()
