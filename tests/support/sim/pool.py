"""A pool whose children run in virtual time: the face of qworker's Pool, over played children.

    SimPool (the worker's side, on its node) ── orders ──► Child (a process of its own) ── lines ──► execution log
                                             ◄── endings ──┘

What the pool decides it asks the product's own ladder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qworker.lifecycle import State
from qworker.model import Ending, EndingKind, Order, PoolKind, Progress, Reason, Survivor
from qworker.pool.facts import Events, RunningTask
from qworker.pool.ladder import NEVER, Ladder, Seen

from .children import Child, Run
from .times import Node

AHEAD = 2  # orders that a child gets beyond its slots
PIPE_S = 0.0003  # from a child to its worker, or back
BORN_S = 0.005  # how long a child takes to start
LOOK_S = 0.02
STALLED_S = 0.75  # an order that nothing has started for so long goes back


class SimPool:
    """What a crew takes for a Pool. Its methods run on the worker's node."""

    def __init__(
        self, kind: PoolKind, slots: int, events: Events, world: Any, node: Node, new_pid: Callable[[], int]
    ) -> None:
        self.kind, self.slots, self.events, self.world, self.node = kind, slots, events, world, node
        self.new_pid = new_pid
        self.start_until = float("inf")
        self.children: list[Child] = []
        self.annex = _Annex(self)
        self._orders: dict[int, tuple[Order, float]] = {}  # all that have not ended, and when they were put
        self._line: list[Order] = []
        self._permits: dict[int, bool] = {}  # of what starts on permit and has been asked for: is it granted?
        self._seen: dict[int, tuple[Child, Run]] = {}
        self._ladder = Ladder()
        self._survivors: dict[int, tuple[Order, float]] = {}
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    # ── the face ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        for _ in range(self.slots if self.kind == "process" else 1):
            self._open(1 if self.kind == "process" else self.slots)
        await asyncio.sleep(2 * BORN_S)

    @property
    def capacity(self) -> int:
        return sum(child.slots for child in self._serving())

    @property
    def free(self) -> int:
        return max(0, self.capacity - len(self._orders))

    @property
    def unstarted(self) -> int:
        return len(self._orders) - sum(1 for _ in self._running())

    def put(self, orders: Sequence[Order]) -> None:
        now = self.node.time()
        self._orders.update((order.number, (order, now)) for order in orders)
        self._line += orders
        if self._closing:
            self._return(self._line, "the pool is closing")
        else:
            self._feed()
            self._wake(now + LOOK_S)

    def permit(self, numbers: Iterable[int]) -> None:
        self._permits.update((number, True) for number in numbers if number in self._orders)
        self._feed()

    def ask(self, number: int, reason: Reason, grace_s: float | None = None) -> bool:
        known = self._orders.get(number)
        if known is None:
            return False
        order = known[0]
        self._take_back()
        for child in self.children:
            if order in child.orders:  # of one that is alone: it ends without it
                child.orders.remove(order)
                self._line.append(order)
                self._part(child)
        if order in self._line:
            self._line.remove(order)
            self._end(number, "unstarted", asked=reason, detail=f"asked to end: {reason}")
            self._feed()
            return True
        now = self.node.time()
        self._ladder.ask(now, number, reason, order.grace_s if grace_s is None else grace_s)
        self._flag(number, reason)
        self._feed()
        self._scan()
        return True

    def recall(self) -> list[int]:
        self._take_back()
        recalled, self._line = [order.number for order in self._line], []
        for number in recalled:
            del self._orders[number]
            self._permits.pop(number, None)
            self._ladder.gone(number)
        return recalled

    def holds(self, number: int) -> bool:
        return number in self._orders

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.ask(number, "fenced", 0.0)

    def look_again(self) -> None:
        self._scan()

    def allow_until(self, start_until_ns: int) -> None:
        self.start_until = start_until_ns / 1e9
        for child in self.children:
            child.take()
        self._feed()

    def running(self) -> list[RunningTask]:
        now = self.node.time()
        return [
            RunningTask(n, run.order.id, run.order.name, child.pid, 0, now - run.started)
            for n, (child, run) in self._running()
        ]

    def progress(self, number: int, slot: int) -> Progress | None:
        return None

    def lines(self, number: int) -> tuple[str, ...]:
        return ()

    def survivors(self) -> list[Survivor]:
        now = self.node.time()
        return [
            Survivor(order.id, order.name, 0, 0, State.TIMED_OUT, now - since, now - since)
            for order, since in self._survivors.values()
        ]

    def dump_stacks(self) -> None:
        pass

    async def close(self, *, kill_after_s: float) -> None:
        self._closing = True
        self._take_back()
        self._return(self._line, "the pool is closing")
        ends = self.node.time() + kill_after_s
        while self._orders and (left := ends - self.node.time()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                break
        for child in list(self.children):
            child.die("signal 9")
        while self.children:
            self._changed.clear()
            await self._changed.wait()
        if self._timer is not None:
            self._timer.cancel()

    # ── what children tell ───────────────────────────────────────────────────────────────────────────────────────

    def hear(self, call: Callable[..., None], *args: Any) -> None:
        """Have the worker hear of something, when its node runs."""
        self.world.universe.after(PIPE_S, self.node.call_soon, call, *args)

    def ended(self, child: Child, run: Run, kind: EndingKind, payload: bytes, ran_s: float) -> None:
        number = run.order.number
        self._survivors.pop(number, None)
        if number in self._orders:
            self._end(number, kind, payload, ran_s)
        self._part(child)
        self._feed()

    def gone(self, child: Child, why: str, host: bool) -> None:
        """A child has ended: sort out what was in it."""
        self.children.remove(child)
        back = [order for order in child.orders if order.number in self._orders]
        self._line[:0] = back
        if not self._closing and not child.alone and not child.retired:
            self._open(child.slots)
        for number, run in child.runs.items():
            self._survivors.pop(number, None)
            if number not in self._orders:
                continue
            ran_s = self.node.time() - run.started
            if number == child.condemned or (self._closing and child.condemned is None):
                self._end(number, "killed", ran_s=ran_s, detail=why)
            elif host or child.condemned is not None:
                self._end(number, "host_died", ran_s=ran_s, detail=why)
            else:
                self._end(number, "child_died", ran_s=ran_s, exact=child.slots == 1, detail=why)
        self.events.event("child.died", "warning", child=child.pid, detail=why)
        if self._closing:
            self._return(self._line, "the pool is closing")
        self._changed.set()
        self._feed()

    # ── the line ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, slots: int, *, alone: bool = False) -> Child:
        child = Child(self, slots, alone=alone)
        self.children.append(child)
        self.world.universe.after(BORN_S, self._born, child)
        return child

    def _born(self, child: Child) -> None:
        child.ready = True
        child.take()
        self.hear(self._feed)

    def _serving(self) -> list[Child]:
        return [child for child in self.children if not child.dead and not child.alone and not child.retired]

    def _feed(self) -> None:
        if not self._line or self.node.time() >= self.start_until or self._closing:
            return
        rest: list[Order] = []
        wanted: list[int] = []
        passable = True  # nobody passes what starts on permit, and that goes to a free slot only
        for order in self._line:
            child: Child | None = None
            if order.alone and self.kind != "process":
                child = self._open(1, alone=True)
            elif passable:
                ahead = 0 if order.on_permit else AHEAD
                able = [c for c in self._serving() if c.ready and len(c.orders) + c.busy < c.slots + ahead]
                child = min(able, key=lambda c: (len(c.orders) + c.busy - c.slots, c.pid), default=None)
                if child is not None and order.on_permit and not self._permits.get(order.number):
                    child = None
                    if order.number not in self._permits:
                        self._permits[order.number] = False
                        wanted.append(order.number)
                passable = child is not None or not order.on_permit
            if child is None:
                rest.append(order)
            else:
                child.orders.append(order)
        self._line = rest
        for child in self.children:
            # The bytes of an order and its token are in the pipe at once; the child reads them when it runs.
            child.take()
        self._wake(self.node.time() + LOOK_S)
        if wanted:
            self.events.permit_wanted(wanted)

    def _take_back(self) -> None:
        """Take back every token that no child has read."""
        for child in self.children:
            if not child.alone:
                self._line[:0] = child.orders
                child.orders = []
        self._line.sort(key=lambda order: order.number)

    def _return(self, orders: list[Order], detail: str) -> None:
        if orders:
            returned, self._line = list(orders), [order for order in self._line if order not in orders]
            endings = [self._ending(order.number, "unstarted", detail=detail) for order in returned]
            self.events.endings(endings)
            self._changed.set()

    def _part(self, child: Child) -> None:
        if child.alone and not child.runs and not child.orders:
            child.die("done")

    # ── the ladder ───────────────────────────────────────────────────────────────────────────────────────────────

    def _running(self) -> list[tuple[int, tuple[Child, Run]]]:
        return [
            (number, (child, run))
            for child in self.children
            if not child.dead
            for number, run in child.runs.items()
            if number in self._orders
        ]

    def _flag(self, number: int, reason: Reason) -> None:
        for child in self.children:
            child.flag(number, reason)

    def _wake(self, at: float) -> None:
        if at == NEVER or (self._closing and not self._orders):
            return
        if self._timer is not None and not self._timer.cancelled() and self._timer.when() > self.node.time():
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self.node.call_at(at, self._scan)

    def _scan(self) -> None:
        now = self.node.time()
        running = dict(self._running())
        seen = [
            Seen(n, run.started, run.order.timeout_s, run.order.grace_s, self._deadline(run.order))
            for n, (_, run) in running.items()
        ]
        steps, wake = self._ladder.scan(now, seen)
        for what, number, reason in steps:
            child, run = running[number]
            if what == "ask":
                self._flag(number, reason)
            elif self.kind == "process" or child.alone:
                child.condemned = number
                child.die(f"{reason}: its grace was over")
            else:
                run.survives = True
                self._survivors[number] = (run.order, now)
                self._end(number, "left_running", ran_s=now - run.started, detail="its code runs on")
                child.take()
        waiting = self._orders.keys() - running.keys()
        if waiting:
            old = [
                n for n in waiting
                if (now - self._orders[n][1] >= STALLED_S and False not in self._permits.values())
                or self._deadline(self._orders[n][0]) <= now
            ]  # fmt: skip
            if old:
                self._take_back()
                self._return([order for order in self._line if order.number in old], "stalled")
                self._feed()
            wake = min(wake, now + 5 * LOOK_S)
        self._wake(wake)

    @staticmethod
    def _deadline(order: Order) -> float:
        return NEVER if order.deadline_s is None else order.handed + order.deadline_s

    def _end(
        self, number: int, kind: EndingKind, payload: bytes = b"", ran_s: float | None = None, **more: Any
    ) -> None:
        self.events.endings([self._ending(number, kind, payload, ran_s, **more)])
        self._changed.set()

    def _ending(
        self, number: int, kind: EndingKind, payload: bytes = b"", ran_s: float | None = None, *,
        asked: Reason | None = None, exact: bool = True, detail: str = "",
    ) -> Ending:  # fmt: skip
        del self._orders[number]
        self._permits.pop(number, None)
        known = self._ladder.gone(number)
        if known is None:
            return Ending(number, kind, payload, ran_s, asked, exact=exact, detail=detail)
        took_s = self.node.time() - known.at
        return Ending(number, kind, payload, ran_s, known.reason, None, took_s, exact=exact, detail=detail)


class _Annex:
    """The face of a pool for lent orders: here they run as any other."""

    def __init__(self, pool: SimPool) -> None:
        self._pool = pool

    def lend(self, orders: Sequence[Order]) -> None:
        self._pool.put(orders)

    def advance(self, number: int) -> bool:
        return False

    def all_wait(self, waiting: Callable[[int], bool]) -> bool:
        return False

    def refuse_wait(self, number: int, *, cycle: bool = False) -> None:
        pass
