"""The orders of a pool that are in no child, and which child they go to.

    put ──► back of the line ──► feed ──► children            taken back from a child ──► front of the line

Suspects (`Order.alone`) have a line of their own, because each needs a child that nobody else is in. So have lent
orders, for which there are children beside the places of the pool: they wait only while no child can be started.

What starts on permit (`Order.on_permit`) is given to no child ahead. It waits at the gate until a slot is free and the
worker, asked then, has recorded its start: what is in line when a worker is killed was not begun. Nobody passes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

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
        self._gate: deque[Entry] = deque()  # the first that needs a permit, and all behind it
        self._lines = (self._lent, self._suspects, self._orders, self._gate)
        # When the line was empty, or an order of this pool started or ended. Not when one went into a child: it may
        # come back from there again and again. Lent orders do not count: what stands here waits for the places.
        self.moved_at = 0.0
        self._next_deadline = NEVER  # of those in line; too early when its owner has left

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    def __bool__(self) -> bool:
        return bool(self._orders or self._gate or self._suspects or self._lent)

    @property
    def awaits_permit(self) -> bool:
        """Is it for the worker to say who may go on? Then no slot is to blame for whoever stands still."""
        return any(line and line[0].permit_wanted and line[0].forbidden for line in (self._gate, self._lent))

    def extend(self, entries: Sequence[Entry], now: float) -> None:
        """To the back."""
        if not self:
            self.moved_at = now
        for entry in entries:
            line = self._line_of(entry)
            if line is self._orders and (self._gate or entry.order.on_permit):
                line = self._gate
            line.append(entry)
            if entry.order.deadline_s is not None:
                self._next_deadline = min(self._next_deadline, entry.deadline)

    def give_back(self, entries: Sequence[Entry]) -> None:
        """To the front, in the order in which they were put."""
        for entry in reversed(entries):
            self._line_of(entry).appendleft(entry)
            self._next_deadline = min(self._next_deadline, entry.deadline)

    def take_overdue(self, now: float) -> list[Entry]:
        """Take out those whose deadline has passed."""
        if now < self._next_deadline:
            return []
        late = []
        self._next_deadline = NEVER
        for line in self._lines:
            waiting = list(line)
            line.clear()
            for entry in waiting:
                deadline = entry.deadline
                if now >= deadline:
                    late.append(entry)
                else:
                    line.append(entry)
                    self._next_deadline = min(self._next_deadline, deadline)
        return late

    def look_again(self) -> None:
        """The host may have slept, and deadlines be nearer than they were."""
        self._next_deadline = 0.0

    def remove(self, entry: Entry) -> None:
        """It waits no longer."""
        (self._gate if entry in self._gate else self._line_of(entry)).remove(entry)

    def clear(self) -> list[Entry]:
        """Empty the line; returns who was in it."""
        entries = [entry for line in self._lines for entry in line]
        for line in self._lines:
            line.clear()
        self._next_deadline = NEVER
        return entries

    def take_aged(self, put_before: float) -> list[Entry]:
        """Take out those at the front that came to this pool before that instant.

        They may have been in a child since: what counts is that no slot has started them.
        """
        aged = []
        for line in (self._suspects, self._orders, self._gate):
            while line and line[0].put_at <= put_before:
                aged.append(line.popleft())
        return aged

    def worn(self, given: int) -> bool:
        """Has a child had all the orders that it may have?"""
        return self._max_tasks is not None and given >= self._max_tasks

    def feed(self, active: int, now: float) -> list[int]:
        """Give to the children what they have room for; return whose start is to be permitted first.

        `active`: orders in children that count for this pool.
        """
        if not self:
            return []
        wanted = self._feed_lent(now)
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
        self._open_gate()
        given = len(kids)
        while self._orders and given:
            given = 0
            # Shared evenly: a long line must not end up in the first child that has room.
            share = max(1, len(self._orders) // len(kids))
            for kid in kids:
                most = share if self._max_tasks is None else min(share, self._max_tasks - kid.given)
                given += kid.fill(self._orders, most, AHEAD_S if kid.plan.slots == 1 else CROWD_AHEAD_S, now)
        if self._gate and not self._orders:
            idle = sum(max(0, kid.plan.slots - len(kid.entries)) for kid in kids)
            wanted += self._want(islice(self._gate, idle))
        return wanted

    def _open_gate(self) -> None:
        gate = self._gate
        while gate and not gate[0].forbidden:
            self._orders.append(gate.popleft())

    def _want(self, entries: Iterable[Entry]) -> list[int]:
        """Note that the worker is asked to permit these; return those that it was not asked yet."""
        new = [entry for entry in entries if entry.forbidden and not entry.permit_wanted]
        for entry in new:
            entry.permit_wanted = True
        return [entry.order.number for entry in new]

    def _feed_lent(self, now: float) -> list[int]:
        while self._lent:
            if self._lent[0].forbidden:
                return self._want(self._lent)
            kid = self._nursery.lent_place(now, alone=self._lent[0].order.alone, worn=self.worn)
            if kid is None:
                break
            kid.give([self._lent.popleft()], now)
        return []

    def _line_of(self, entry: Entry) -> deque[Entry]:
        if entry.lent:
            return self._lent
        return self._suspects if entry.order.alone else self._orders
