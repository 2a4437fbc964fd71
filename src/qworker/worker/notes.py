"""What running tasks tell of themselves: gathered here until a renewal has written it.

    pool ──cursor, progressed──► Collector ──► Notes.of(held) ──► gather() ──► renew ──► kept()

Only tasks that told something are in here, and only what changed is written: the others cost nothing. A cursor also
goes with every way back into the queue (outcomes.py), so what waits here is lost only with this worker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from .. import codec
from ..broker.values import Note
from ..errors import DecodeError
from ..model import PoolKind, Told
from ..pool.pool import Pool
from .ledger import Held

WATCHED_S = 5.0  # who watches says so each second


class _Notes:
    """Of one task: what is written, and where its progress is read."""

    __slots__ = ("client", "cursor", "held", "progress", "slot", "watched_until")

    def __init__(self, held: Held) -> None:
        self.held = held
        self.slot: int | None = None  # that shows its progress; None: it told none
        self.cursor = held.task.cursor  # as Redis has it
        self.progress = b""  # as Redis has it
        self.watched_until = 0.0  # monotonic: until then what it prints is told, too
        try:
            self.client = codec.client_of(held.task.blob)
        except DecodeError:
            self.client = codec.NOBODY


class Written(NamedTuple):
    """What one note is about, to be told back when Redis has it."""

    about: _Notes
    note: Note


class Notes:
    """What the tasks of one worker told, by number. Owned by the event loop."""

    def __init__(self) -> None:
        self._told: dict[int, _Notes] = {}

    def __len__(self) -> int:
        return len(self._told)

    def cursor(self, held: Held) -> None:
        """A task's `current.iterate` has come further."""
        self._of(held)

    def progressed(self, held: Held, slot: int) -> None:
        """A task tells its progress, in this slot of its pool."""
        self._of(held).slot = slot

    def watch(self, held: Held) -> bool:
        """Tell the last lines that a task prints, too, for some seconds. True: nobody was watching it before."""
        about, now = self._of(held), time.monotonic()
        is_new = about.watched_until <= now
        about.watched_until = now + WATCHED_S
        return is_new

    def gather(self, pools: Mapping[PoolKind, Pool]) -> dict[str, list[Written]]:
        """Return by queue what Redis does not have yet. Tasks that have ended are let go: their settle tells more."""
        gathered: dict[str, list[Written]] = {}
        for number, about in list(self._told.items()):
            held = about.held
            if held.ended:
                del self._told[number]
                continue
            cursor = b"" if held.cursor is None or held.cursor == about.cursor else held.cursor
            progress = self._progress(about, pools)
            if progress == about.progress:
                progress = b""
            if cursor or progress:
                note = Note(held.claim.id, held.task.id, about.client, cursor, progress)
                gathered.setdefault(held.claim.queue, []).append(Written(about, note))
        return gathered

    def kept(self, written: list[Written]) -> None:
        """Redis has these."""
        for about, note in written:
            if note.cursor:
                about.cursor = note.cursor
            if note.progress:
                about.progress = note.progress

    def _of(self, held: Held) -> _Notes:
        about = self._told.get(held.number)
        if about is None:
            about = self._told[held.number] = _Notes(held)
        return about

    def _progress(self, about: _Notes, pools: Mapping[PoolKind, Pool]) -> bytes:
        held, pool = about.held, pools[about.held.kind]
        shown = None if about.slot is None else pool.progress(held.number, about.slot)
        lines = pool.lines(held.number) if about.watched_until > time.monotonic() else ()
        if shown is None and not lines:
            return b""
        return codec.pack_told(Told(held.full_id, shown, lines))
