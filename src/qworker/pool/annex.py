"""Lent orders: those that run beside the slots of a pool, each in the place of a task that waits.

    lend(orders) ─────────────────────┐
    advance(number) ── from the line ─┴──► the lent line ──► children beside the places (nursery.lent_place)

A task that waits for others keeps its slot and needs no processor; a lent order uses that instead. Lent orders count
neither as busy slots nor as a line that does not move. Crashes, limits and survivors are theirs as anybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..model import Order
from .kid import Entry, Role

if TYPE_CHECKING:
    from .pool import Pool


class Annex:
    """The lent orders of one pool, owned by it. How many there may be, the worker decides."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def lend(self, orders: Sequence[Order]) -> None:
        """Run these at once, beside the slots. Each ends as any order that was put."""
        pool, now = self._pool, self._pool.now()
        entries = [Entry(order, pool.pace.expected_s(order.name), now) for order in orders]
        for entry in entries:
            entry.lent = True
        pool.enter(entries, now)

    def advance(self, number: int) -> bool:
        """Run an unstarted order of the pool as a lent one. False: it has started, or is lent, or is not here."""
        pool = self._pool
        entry = pool.entries.get(number)
        if entry is None or entry.lent:
            return False
        if entry.kid is not None:
            pool.take_back(entry.kid)  # who reads the token owns the task: is it still in the pipe?
            if entry.kid is not None:
                return False
        pool.line.remove(entry)
        entry.lent = True
        pool.enter([entry], pool.now())
        return True

    def all_wait(self, waiting: Callable[[int], bool]) -> bool:
        """Is every slot of the pool, and every lent place, taken by a task that waits?"""
        pool = self._pool
        if pool.capacity < pool.slots or any(kid.role is Role.STARTING for kid in pool.nursery.kids):
            return False  # another child is on its way
        running = [entry for _, entry, _, _ in pool.marks()]
        lent = sum(entry.lent for entry in running)
        if len(running) - lent < pool.slots or lent < sum(entry.lent for entry in pool.entries.values()):
            return False
        return all(waiting(entry.order.number) for entry in running)

    def refuse_wait(self, number: int, *, cycle: bool = False) -> None:
        """Tell a running task that there is no place for what it waits for, or that this waits for it (`cycle`)."""
        entry = self._pool.entries.get(number)
        if entry is None or entry.kid is None:
            return
        slot = entry.kid.slot_of(number)
        if slot is not None:
            entry.kid.page.refuse_wait(slot, number, cycle=cycle)
