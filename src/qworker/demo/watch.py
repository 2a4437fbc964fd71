"""Look after the tasks that have to be ended: when they are told to be over, and when they really are gone.

    Story ─► Watch.look, often ─┬─ its outcome is here ──────────────────────► told
                                └─ nothing of it is there any more, in /proc ─► gone

An outcome is what the queue says. That the code is gone is seen: the process that the task wrote down is not there, nor
the one that it had started, nor its thread; or, where its process goes on to the next task, it wrote down its end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..durations import text
from ..future import Future
from ..lifecycle import How
from ..model import Outcome
from ..views import StopReceipt
from . import processes
from .facts import Forced, Survived
from .notes import Notes
from .screen import Dark

__all__ = ["Hung", "Watch"]

_ENDS = {
    How.KILLED: ("killed", "gone"),
    How.LEFT_RUNNING: ("survivor", "left"),
    How.NOTICED: ("noticed", "ended"),
}


@dataclass(slots=True)
class Hung:
    """A task that has to be ended, and what was seen of its end."""

    future: Future[Any]
    what: str
    pool: str
    order: str  # its limit and its grace
    told_s: float | None = None  # from when on its outcome may have been here
    gone_s: float | None = None  # when nothing of it was there any more

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, if it has."""
        return self.future.outcome

    @property
    def how(self) -> How | None:
        """In which way it ended, if it has."""
        return None if self.future.outcome is None else self.future.outcome.how

    @property
    def lingered_s(self) -> float | None:
        """How long its code was there after its outcome, at most; None while it is."""
        return None if self.told_s is None or self.gone_s is None else self.gone_s - self.told_s


class Watch:
    """All of them. Owned by the main thread."""

    def __init__(self, notes: Notes, screen: Dark) -> None:
        self._notes, self._screen = notes, screen
        self._hung: list[Hung] = []
        self._looked_s = time.monotonic()

    def add(self, hung: Hung) -> None:
        """Look after this one, too."""
        self._hung.append(hung)

    def look(self) -> None:
        """See what became of them."""
        now = time.monotonic()
        for hung in self._hung:
            if hung.told_s is None and hung.future.done():
                # It came after the last look. So what is said to be gone within some time was gone at the latest then.
                hung.told_s = self._looked_s
                self._tell(hung)
            if hung.told_s is not None and hung.gone_s is None and not self._is_there(hung):
                hung.gone_s = now
                if hung.how is How.LEFT_RUNNING:
                    within = text(hung.lingered_s or 0.0)
                    self._screen.event("gone", f"that thread, within {within}: its child was recycled")
        self._looked_s = now

    def all_told(self) -> bool:
        """Whether each has an outcome."""
        return all(hung.told_s is not None for hung in self._hung)

    def all_gone(self) -> bool:
        """Whether each is gone."""
        return all(hung.gone_s is not None for hung in self._hung)

    def doubt(self, hung: Hung, receipt: StopReceipt) -> str:
        """Compare the receipt of a stop with what can be seen; return what is wrong with it, '' for nothing."""
        if receipt.still_running is not False:
            return f"its receipt says still_running={receipt.still_running}: {receipt.note}"
        if self._is_there(hung):
            return "its receipt says that its code does not run any more, and it is still there"
        return ""

    def forced(self) -> list[Forced]:
        """Return what was seen of each end."""
        return [
            Forced(
                what=hung.what,
                pool=hung.pool,
                order=hung.order,
                how=hung.outcome.how,
                asked_after_s=hung.outcome.asked_after_s,
                took_s=hung.outcome.took_s,
                gone_after_s=hung.lingered_s,
            )
            for hung in self._hung
            if hung.outcome is not None
        ]

    def survived(self) -> list[Survived]:
        """Return those that ran on after their outcome."""
        return [Survived(hung.what, hung.lingered_s) for hung in self._hung if hung.how is How.LEFT_RUNNING]

    def _tell(self, hung: Hung) -> None:
        outcome = hung.outcome
        if outcome is None:
            return
        word, end = _ENDS.get(outcome.how, (outcome.how.value, "ended"))
        asked = "" if outcome.asked_after_s is None else f" asked at {text(outcome.asked_after_s)},"
        took = "" if outcome.took_s is None else f" after {text(outcome.took_s)}"
        self._screen.event(word, f"{hung.what}:{asked} {end}{took}")

    def _is_there(self, hung: Hung) -> bool:
        """Whether anything of a task still runs."""
        self._notes.read()
        written = self._notes.of(hung.future.id)
        if hung.how is How.NOTICED:
            return not any(note.what == "end" for note in written)
        in_thread = hung.how is How.LEFT_RUNNING
        return any(
            processes.is_running(note.pid, note.thread if in_thread else None)
            or (note.other != 0 and processes.is_running(note.other))
            for note in written
        )
