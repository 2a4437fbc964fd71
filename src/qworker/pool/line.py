"""The orders of a pool that are in no child, and which child they go to.

    put ──► back of the line ──► feed ──► children            taken back from a child ──► front of the line

Suspects (`Order.alone`) have a line of their own, because each needs a child that nobody else is in. So have lent
orders, for which there are children beside the places of the pool: they wait only while no child can be started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .kid import Entry
from .ladder import NEVER
from .nursery import Nursery
from .pace import AHEAD_S, CROWD_AHEAD_S


class Line:
    """Who waits. Owned by one pool."""

    def __init__(self, nursery: Nursery, max_tasks_per_child: int | None) -> None:
        self._nursery = nursery
        self._max_tasks = max_tasks_per_child
        self._orders: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()
        self._lent: deque[Entry] = deque()
        # When the line was empty, or an order of this pool started or ended. Not when one went into a child: it may
        # come back from there again and again. Lent orders do not count: what stands here waits for the places.
        self.moved_at = 0.0
        self._next_deadline = NEVER  # of those in line; too early when its owner has left

    def __len__(self) -> int:
        return len(self._orders) + len(self._suspects) + len(self._lent)

    def extend(self, entries: Sequence[Entry], now: float) -> None:
        """To the back."""
        if not self:
            self.moved_at = now
        for entry in entries:
            self._queue_of(entry).append(entry)
            if entry.order.deadline_s is not None:
                self._next_deadline = min(self._next_deadline, entry.deadline)

    def give_back(self, entries: Sequence[Entry]) -> None:
        """To the front, in the order in which they were put."""
        for entry in reversed(entries):
            self._queue_of(entry).appendleft(entry)
            self._next_deadline = min(self._next_deadline, entry.deadline)

    def take_overdue(self, now: float) -> list[Entry]:
        """Take out those whose deadline has passed."""
        if now < self._next_deadline:
            return []
        entries = self.clear()
        self.give_back([entry for entry in entries if not entry.overdue(now)])
        return [entry for entry in entries if entry.overdue(now)]

    def look_again(self) -> None:
        """The host may have slept, and deadlines be nearer than they were."""
        self._next_deadline = 0.0

    def remove(self, entry: Entry) -> None:
        """It waits no longer."""
        self._queue_of(entry).remove(entry)

    def clear(self) -> list[Entry]:
        """Empty the line; returns who was in it."""
        entries = [*self._lent, *self._suspects, *self._orders]
        self._lent.clear()
        self._suspects.clear()
        self._orders.clear()
        self._next_deadline = NEVER
        return entries

    def take_aged(self, put_before: float) -> list[Entry]:
        """Take out those at the front that came to this pool before that instant.

        They may have been in a child since: what counts is that no slot has started them.
        """
        aged = []
        for line in (self._suspects, self._orders):
            while line and line[0].put_at <= put_before:
                aged.append(line.popleft())
        return aged

    def worn(self, given: int) -> bool:
        """Has a child had all the orders that it may have?"""
        return self._max_tasks is not None and given >= self._max_tasks

    def feed(self, active: int, now: float) -> None:
        """Give to the children what they have room for. `active`: orders in children that count for this pool."""
        if not self:
            return
        self._feed_lent(now)
        kids = [kid for kid in self._nursery.serving() if not (kid.alone or kid.lent or self.worn(kid.given))]
        kids.sort(key=lambda kid: len(kid.entries) / kid.plan.slots)
        while self._suspects:
            if self._nursery.threads:
                kid = self._nursery.open_alone(now) if active < self._nursery.slots else None
                if kid is None:
                    break
                active += 1
            elif kids and kids[0].idle:
                kid = kids.pop(0)
                kid.alone = True
            else:
                # The next one that is done is kept for the suspect, or short tasks would fill it for ever.
                del kids[:1]
                break
            kid.give([self._suspects.popleft()], now)
        given = len(kids)
        while self._orders and given:
            given = 0
            # Shared evenly: a long line must not end up in the first child that has room.
            share = max(1, len(self._orders) // len(kids))
            for kid in kids:
                most = share if self._max_tasks is None else min(share, self._max_tasks - kid.given)
                given += kid.fill(self._orders, most, AHEAD_S if kid.plan.slots == 1 else CROWD_AHEAD_S, now)

    def _feed_lent(self, now: float) -> None:
        while self._lent:
            kid = self._nursery.lent_place(now, alone=self._lent[0].order.alone, worn=self.worn)
            if kid is None:
                break
            kid.give([self._lent.popleft()], now)

    def _queue_of(self, entry: Entry) -> deque[Entry]:
        if entry.lent:
            return self._lent
        return self._suspects if entry.order.alone else self._orders
