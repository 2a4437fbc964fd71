"""How much a worker claims: pure arithmetic, one object per pool.

    room = target - held        target: between the pool's slots and its limit

The target starts at twice the slots, doubles while the tasks of a whole window keep the slots busy for 20 ms at most
(short tasks: round trips are what costs), halves when a window took long, and falls to the slots when tasks had to be
given back unstarted (long
tasks: what is claimed ahead only waits here while another worker may be free; halving would claim most of them again at
once). At its floor a worker claims exactly what its free slots can start.
"""

from __future__ import annotations

QUICK_S = 0.020  # a window that keeps its slots busy for less than this was too small
SLOW_S = 0.5  # and one that takes longer than this was too large
CROWD = 8  # slots
LIMIT = 1024  # a claim's script stays well under 2 ms, and a dead worker leaves no more than this


class Room:
    """How many more tasks one pool may be given. Owned by the fetcher.

    `fixed` is `--window N`: then the target does not breathe, but the slots can always be filled.
    """

    def __init__(self, slots: int, *, fixed: int | None = None, limit: int = LIMIT) -> None:
        if slots < 1:
            raise ValueError(f"a pool has at least one slot, not {slots}")
        self.slots = slots
        self.floor = slots if fixed is None else min(slots, fixed)
        # Slots that started together end together: one burst must not empty the line before the next claim is here.
        # Of few slots a reserve would only mean to claim tasks one by one.
        self.reserve = slots // 2 if slots >= CROWD else 0
        self.limit = max(limit, slots) if fixed is None else fixed
        self.fixed = fixed is not None
        self.target = fixed if fixed is not None else min(2 * slots, self.limit)

    def room(self, held: int) -> int:
        """Return how many tasks may be claimed while `held` are claimed and not ended."""
        return max(0, self.target - held)

    def wanted(self, held: int) -> int:
        """Return how many tasks to claim now; 0 unless half a window is free, or the slots would soon run dry."""
        room = self.target - held
        return room if room > 0 and (room * 2 >= self.target or held <= self.floor + self.reserve) else 0

    def drained(self, size: int, took_s: float, ran_s: float) -> None:
        """Learn from a window of `size` tasks that all ended within `took_s` seconds of its claim, and ran for `ran_s`.

        What they ran themselves tells whether they are short. The time since the claim does not: on a crowded machine
        the worker and its children wait for processors, and that is when round trips cost most.
        """
        if self.fixed:
            return
        # A window smaller than half the target says nothing about a larger one: the queue ran dry.
        busy_s = ran_s / max(1, min(size, self.slots))
        if took_s >= SLOW_S:
            self.target = max(self.target // 2, self.floor)
        elif busy_s <= QUICK_S and size * 2 >= self.target:
            self.target = min(self.target * 2, self.limit)

    def recalled(self) -> None:
        """Learn that tasks had to be given back unstarted: the window was larger than the slots digest."""
        if not self.fixed:
            self.target = self.floor
