"""Who waits for what: the running tasks of this worker that wait for others, and the ids of those.

    pool ──waiting, resumed──► Collector ──► Waits ◄── Lender        settled(id) ──► one less to wait for

No decisions, no clock. Owned by the event loop.
"""

from __future__ import annotations

from collections import Counter

from ..errors import ConfigError
from ..ids import split_id
from ..model import PoolKind
from .ledger import Held
from .state import State


class Waiter:
    """One running task that has waited for others."""

    __slots__ = ("awaited", "blocked", "held", "turn", "waiting")

    def __init__(self, held: Held) -> None:
        self.held = held
        self.waiting = False
        self.turn = 0  # which of its waits it is
        self.blocked = False  # it waits, and not just for the news that all has ended
        self.awaited: dict[str, None] = {}  # as it told last, without those that are known to have ended; in its order


class Waits:
    """All tasks that wait, and a way from an id to those that wait for it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiters: dict[int, Waiter] = {}
        self._by_id: dict[str, list[Waiter]] = {}
        self._blocked: Counter[PoolKind] = Counter()
        self.news = False  # somebody waits for something that nobody has looked for yet; the lender resets it

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, number: int) -> bool:
        return number in self._waiters

    def begin(self, held: Held, ids: list[str], *, more: bool = False) -> None:
        """A task waits for these (full ids) from now on; `more`: and for those that it told before."""
        waiter = self._waiters.get(held.number)
        if waiter is None:
            waiter = self._waiters[held.number] = Waiter(held)
        if not more:
            self._forget(waiter)
            waiter.awaited = {}
        for full_id in ids:
            if full_id not in waiter.awaited and _is_id(full_id):
                waiter.awaited[full_id] = None
                self._by_id.setdefault(full_id, []).append(waiter)
        waiter.waiting = True
        waiter.turn += 1
        self._note(waiter)
        self.news = True
        self._state.lend.set()

    def end(self, number: int) -> None:
        """It waits no longer, for now; what it told is kept, for it may wait for the rest of it soon."""
        waiter = self._waiters.get(number)
        if waiter is not None:
            waiter.waiting = False
            self._note(waiter)

    def gone(self, number: int) -> None:
        """It has ended."""
        waiter = self._waiters.pop(number, None)
        if waiter is not None:
            waiter.waiting = False
            self._note(waiter)
            self._forget(waiter)
            self._state.lend.set()

    def settled(self, full_id: str, *, ended: bool) -> None:
        """A task has its outcome (`ended`), or went back into its queue."""
        if ended:
            for waiter in self._by_id.pop(full_id, ()):
                waiter.awaited.pop(full_id, None)
                self._note(waiter)
        elif full_id in self._by_id:
            self.news = True
        self._state.lend.set()

    def blocked(self) -> list[Waiter]:
        """Those that wait now: the deepest first, the newest first among equals."""
        found = [waiter for waiter in self._waiters.values() if waiter.blocked]
        found.sort(key=lambda waiter: (-waiter.held.header.depth, -waiter.held.number))
        return found

    def count(self, kind: PoolKind) -> int:
        """How many tasks of a pool wait now."""
        return self._blocked[kind]

    def is_awaited(self, full_id: str) -> bool:
        """Does a task wait for this one now?"""
        return any(waiter.blocked for waiter in self._by_id.get(full_id, ()))

    def is_blocked(self, number: int) -> bool:
        """Does this one wait?"""
        waiter = self._waiters.get(number)
        return waiter is not None and waiter.blocked

    def knot(self) -> list[Waiter]:
        """Return those that wait for nothing but each other, or themselves: none can end while the others wait."""
        knot = {waiter.held.full_id: waiter for waiter in self._waiters.values() if waiter.blocked}
        free = [waiter for waiter in knot.values() if any(full_id not in knot for full_id in waiter.awaited)]
        while free:
            full_id = free.pop().held.full_id
            if knot.pop(full_id, None) is not None:
                free += [other for other in self._by_id.get(full_id, ()) if other.held.full_id in knot]
        return list(knot.values())

    def _note(self, waiter: Waiter) -> None:
        held = waiter.held
        held.waits_for = len(waiter.awaited) if waiter.waiting else 0
        blocked = held.waits_for > 0
        if blocked is not waiter.blocked:
            waiter.blocked = blocked
            self._blocked[held.kind] += 1 if blocked else -1

    def _forget(self, waiter: Waiter) -> None:
        for full_id in waiter.awaited:
            others = [other for other in self._by_id.get(full_id, ()) if other is not waiter]
            if others:
                self._by_id[full_id] = others
            else:
                self._by_id.pop(full_id, None)


def _is_id(text: str) -> bool:
    """User code shares the stream: what is no id must not become a key."""
    try:
        split_id(text)
    except ConfigError:
        return False
    return True
