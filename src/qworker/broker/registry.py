"""Which futures are awaited, by id; held weakly, so that a future nobody holds costs nothing.

    submit, watch ─► add ─► _entries ─► entries ─► settle ─► leave
    callbacks     ─► keep     │
                              └─► round, hurried, expiring: what the I/O thread should ask the server about

Any thread may call anything here. The lock is never held while foreign code runs: dead references are put aside by the
garbage collector (which may run anywhere, with the lock held) and swept later.
"""

from __future__ import annotations

import heapq
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Protocol

from ..model import Outcome, Progress

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
ROUND_SIZE = 4096
_SWEEP_AT = 256


class Awaited(Protocol):
    """A future, as far as the client knows it."""

    id: str

    def done(self) -> bool: ...
    def settle(self, outcome: Outcome) -> None: ...
    def settle_alone(self, outcome: Outcome) -> bool: ...
    def learn(self, outcome: Outcome) -> None: ...
    def give_up(self, *, submitted_here: bool) -> None: ...
    def tell(self, progress: Progress) -> None: ...
    def wake_waiters(self) -> None: ...
    def add_waker(self, wake: Callable[[], None], /) -> bool: ...
    def remove_waker(self, wake: Callable[[], None], /) -> None: ...
    def forget_parent(self) -> None: ...


class _Entry(weakref.ref[Awaited]):
    """A weak reference to one future, and what is known of it."""

    __slots__ = ("id", "kept", "own", "sent")

    id: str
    own: bool  # submitted here, so its outcome is pushed to this client
    sent: float  # which question was the latest when it was known to be queued: an older one proves nothing
    kept: Awaited | None


def _entry(future: Awaited, put_aside: Callable[[Any], None], own: bool) -> _Entry:
    entry = _Entry(future, put_aside)
    entry.id = future.id
    entry.own = own
    entry.sent = inf  # its submit is under way: a peek would find nothing, and prove nothing
    entry.kept = None
    return entry


class Registry:
    """The awaited futures of one client."""

    def __init__(self) -> None:
        # A signal's handler may come in the middle of any of this, and wait, submit or close.
        self._lock = threading.RLock()
        self._questions = 0
        self._entries: dict[str, tuple[_Entry, ...]] = {}  # another one with each change: see `leave`
        self._dead: deque[_Entry] = deque()
        self._hurried: dict[str, tuple[float, float]] = {}  # id -> (when to ask next, the pause after that)
        self._asking: list[tuple[float, str]] = []  # a heap of the same; an entry with another time than there is old
        self._deadlines: list[tuple[float, str]] = []
        self._round: list[str] = []

    def leave_parent(self) -> list[Awaited]:
        """In a forked child, where a thread that is not here may have held the lock: all awaited futures."""
        self._lock = threading.RLock()
        return self.all()

    def __len__(self) -> int:
        with self._lock:
            self._sweep()
            return len(self._entries)

    def add(self, futures: Iterable[Awaited], *, own: bool) -> list[_Entry]:
        """Await these. For own ones `confirm`, of what this returns, or `drop` must follow."""
        put_aside = self._dead.append
        fresh = [_entry(future, put_aside, own) for future in futures]
        with self._lock:
            for entry in fresh:
                if not own:
                    entry.sent = self._questions
                known = self._entries.get(entry.id)
                self._entries[entry.id] = (entry,) if known is None else (*known, entry)
            # Afterwards: what is swept before it is entered would stay for ever.
            if len(self._dead) > _SWEEP_AT:
                self._sweep()
        return fresh

    def confirm(self, entries: Iterable[_Entry]) -> None:
        """They are queued: from now on a peek that finds nothing means that they are gone."""
        questions = self._questions
        for entry in entries:
            entry.sent = questions

    def drop(self, futures: Sequence[Awaited]) -> None:
        """Await them no longer: they were not queued."""
        with self._lock:
            for future in futures:
                left = [entry for entry in self._entries.get(future.id, ()) if entry() is not future]
                self._replace(future.id, left)

    def knows(self, future: Awaited) -> bool:
        """Whether this future is awaited."""
        with self._lock:
            return any(entry() is future for entry in self._entries.get(future.id, ()))

    def keep(self, future: Awaited) -> bool:
        """Hold a future until its task has ended. False if it is not awaited."""
        with self._lock:
            for entry in self._entries.get(future.id, ()):
                if entry() is future:
                    entry.kept = future
                    return True
        return False

    def entries(self, id: str) -> tuple[_Entry, ...]:  # noqa: A002 - the public word
        """Return what is awaited of an id: each, called, gives its future, or None when nobody holds it any more."""
        return self._entries.get(id, ())

    def leave(self, id: str, settled: tuple[_Entry, ...]) -> None:  # noqa: A002 - the public word
        """Await these of an id no longer. Only when they are settled: if Ctrl-C comes before, that is still to do."""
        with self._lock:
            known = self._entries.get(id, ())
            if known is not settled:  # as nearly never: somebody else has come, or gone
                self._replace(id, [entry for entry in known if entry not in settled])
            elif known:
                del self._entries[id]
                if self._hurried:
                    self._hurried.pop(id, None)

    def asking(self) -> int:
        """A question is about to be sent; returns its number."""
        self._questions += 1  # by the I/O thread only
        return self._questions

    def take_sent(self, id: str, asked: int) -> list[tuple[Awaited, bool]]:  # noqa: A002 - the public word
        """Await those no longer that were known to be queued when question `asked` was sent: it has not found them.

        Returns them, each with whether it was submitted here. Of those whose submit was under way then, or came after
        it, not being found says nothing.
        """
        with self._lock:
            entries = self._entries.get(id, ())
            self._replace(id, [entry for entry in entries if entry.sent >= asked])
        return [(future, entry.own) for entry in entries if entry.sent < asked and (future := entry()) is not None]

    def futures(self, id: str) -> list[Awaited]:  # noqa: A002 - the public word
        """Return the futures of an id that somebody holds, and go on awaiting them."""
        with self._lock:
            entries = list(self._entries.get(id, ()))
        return [future for entry in entries if (future := entry()) is not None]

    def is_pushed(self, future: Awaited) -> bool:
        """Whether what is told of an awaited future's task is pushed to this client: it was submitted here."""
        with self._lock:
            return any(entry.own for entry in self._entries.get(future.id, ()))

    def all(self) -> list[Awaited]:
        """Return all awaited futures that somebody holds."""
        with self._lock:
            entries = [entry for known in self._entries.values() for entry in known]
        return [future for entry in entries if (future := entry()) is not None]

    # What to ask about

    def hurry(self, ids: Iterable[str]) -> None:
        """Ask about these at once, and again in growing intervals: no push is to be expected for them."""
        now = time.monotonic()
        with self._lock:
            for id in ids:  # noqa: A001 - the public word
                self._hurried[id] = (now, FIRST_PAUSE_S)
                heapq.heappush(self._asking, (now, id))

    def hurried(self, now: float) -> list[str]:
        """Return the hurried ids that are due, and set when they are due again."""
        with self._lock:
            if not self._asking or self._asking[0][0] > now:
                return []
            self._sweep()
            # Thousands of handles share a second or more, so that they are no load.
            longest = LONGEST_PAUSE_S + len(self._hurried) / ROUND_SIZE
            due = []
            while self._asking and self._asking[0][0] <= now:
                when, id = heapq.heappop(self._asking)  # noqa: A001 - the public word
                planned, pause = self._hurried.get(id, (None, 0.0))
                if planned == when:
                    due.append(id)
                    self._hurried[id] = (now + pause, min(pause * 1.5, longest))
                    heapq.heappush(self._asking, (now + pause, id))
            return due

    def next_hurried(self) -> float:
        """Return when the next hurried id is due; infinity for none."""
        with self._lock:
            return self._asking[0][0] if self._asking else float("inf")

    def next_round(self, *, everything: bool = False) -> list[str]:
        """Return the next awaited ids in turn, a bounded number: each comes up again after all the others."""
        with self._lock:
            self._sweep()
            if everything or not self._round:
                self._round = [id for id, known in self._entries.items() if any(entry.sent < inf for entry in known)]  # noqa: A001
            size = len(self._round) if everything else ROUND_SIZE
            chosen, self._round = self._round[:size], self._round[size:]
            return [id for id in chosen if id in self._entries]  # noqa: A001

    def set_deadline(self, id: str, when: float) -> None:  # noqa: A002 - the public word
        """Have `past_deadline` return the id from then on, if it is still awaited."""
        with self._lock:
            heapq.heappush(self._deadlines, (when, id))
            if len(self._deadlines) > 2 * len(self._entries) + _SWEEP_AT:  # most of them nobody awaits any more
                self._sweep()
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self._entries]
                heapq.heapify(self._deadlines)

    def past_deadline(self, now: float) -> list[str]:
        """Return the awaited ids whose deadlines have passed; each only once."""
        found = []
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                id = heapq.heappop(self._deadlines)[1]  # noqa: A001 - the public word
                if id in self._entries:
                    found.append(id)
        return found

    def next_deadline(self) -> float:
        """Return when the next deadline passes; infinity for none."""
        with self._lock:
            return self._deadlines[0][0] if self._deadlines else float("inf")

    # With the lock held

    def _sweep(self) -> None:
        while self._dead:
            dead = self._dead.popleft()
            known = self._entries.get(dead.id)
            if known is not None:
                self._replace(dead.id, [entry for entry in known if entry is not dead])

    def _replace(self, id: str, left: Sequence[_Entry]) -> None:  # noqa: A002 - the public word
        if left:
            self._entries[id] = tuple(left)
        else:
            self._entries.pop(id, None)
            self._hurried.pop(id, None)
