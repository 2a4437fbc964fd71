"""All slots of one kind: orders in, endings out, and every one of them exactly once.

    put(orders) ──► Line ──► child            Patrol: page ──► ladder ──► flag, force
    endings ◄── frames ◄── child              gone: what was in a child that ended

Owned by the worker's event loop; no method blocks, and an order costs neither a task nor a timer. `Line` decides which
child gets what, `Nursery` keeps the children in number, `Hearing` takes what they say, `Patrol` looks at their pages
and performs what the ladder says; this module joins them, and is the only place where an order ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from .. import clock
from ..config import children_for
from ..errors import ConfigError
from ..log import Block
from ..model import Ending, EndingKind, Order, PoolKind, Progress, Reason, Survivor
from .annex import Annex
from .facts import Events, RunningTask
from .hearing import Hearing
from .host import Host
from .kid import Entry, Kid, Role
from .ladder import Ladder
from .line import Line
from .nursery import Nursery
from .pace import Pace
from .patrol import Patrol
from .recorder import Recorder
from .survivors import Survivors

SLOTS_MAX: Final = 10_000


class Pool:
    """All slots of one kind in a worker. Owned by the worker's event loop; no method blocks.

    process: one child per slot. thread: one child with all slots. async: a few children, each with one loop and its
    share of the slots. Every order ends exactly once in `events.endings`, unless `recall` returned its number. Endings
    may be told from within `put`, `ask`, `forget`. `slots` may be `config.Slots`, which say how many children.
    """

    def __init__(
        self,
        kind: PoolKind,
        slots: int,
        host: Host,
        events: Events,
        *,
        max_survivors: int = 4,
        recycle_timeout_s: float = 30.0,
        max_tasks_per_child: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= slots <= SLOTS_MAX:
            raise ConfigError(f"cannot make a {kind} pool of {slots} slots: 1 to {SLOTS_MAX} are possible")
        self.kind = kind
        self.slots = slots
        self.events = events
        self._clock = self.now = clock
        self.hearing = Hearing(self)
        self.nursery = Nursery(kind, slots, children_for(kind, slots), max(1, max_survivors), host, self.hearing)
        self.entries: dict[int, Entry] = {}  # every order that has not ended
        self.line = Line(self.nursery, max_tasks_per_child)
        self.ladder = Ladder()
        self.left = Survivors()
        self.recorder = Recorder()
        self.pace = Pace()
        self.annex = Annex(self)
        self._patrol = Patrol(self, clock, max_survivors=max(1, max_survivors), recycle_timeout_s=recycle_timeout_s)
        self.closing = False

    # ── the face ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start the children; returns when each is ready or was reported as failed (it is retried with back-off)."""
        await self.nursery.start()

    @property
    def capacity(self) -> int:
        """Slots that can run something now or after what they run: `slots` when all children are healthy."""
        return sum(kid.plan.slots for kid in self.nursery.serving() if not kid.extra)

    @property
    def free(self) -> int:
        """Slots with nothing to run, now. Quarantined, starting and dying ones are not free."""
        elsewhere = sum(len(kid.entries) for kid in self.nursery.kids if kid.role is not Role.SERVING and not kid.extra)
        lent = sum(len(kid.entries) for kid in self.nursery.kids if kid.lent)
        return max(0, self.capacity - len(self.entries) + elsewhere + lent)

    @property
    def unstarted(self) -> int:
        """Orders that were put and do not run (in the pool's own line or in a child)."""
        return len(self.entries) - sum(1 for _ in self.marks())

    def put(self, orders: Sequence[Order]) -> None:
        """Take orders. Any number: what does not fit waits in line here, and comes back as `unstarted` when stalled."""
        expected_s = self.pace.expected_s
        now = self._clock()
        self.enter([Entry(order, expected_s(order.name), now) for order in orders], now)

    def enter(self, entries: Sequence[Entry], now: float) -> None:
        """Into their line, and on to the children."""
        self.entries.update([(entry.order.number, entry) for entry in entries])
        self.line.extend(entries, now)
        if self.closing:
            self.return_line("the pool is closing")
        else:
            self.feed()

    def permit(self, numbers: Iterable[int]) -> None:
        """Let these start, of which `events.permit_wanted` told; those that are not here any more are left out."""
        for number in numbers:
            entry = self.entries.get(number)
            if entry is not None:
                entry.permitted = True
        self.feed()

    def ask(self, number: int, reason: Reason, grace_s: float | None = None) -> bool:
        """Ask one order to end: flag now, force after `grace_s` (None: the order's own grace). False: not known here.

        An unstarted order comes back at once as Ending(kind="unstarted", asked=reason). A stronger reason
        (fenced > stop > timeout, deadline > drain > recycle) replaces a weaker one; the earlier end of grace counts.
        """
        entry = self.entries.get(number)
        if entry is None:
            return False
        slot = entry.kid.slot_of(number) if entry.kid is not None else None
        if entry.kid is not None and slot is None:
            # Whether it has started is for the token pipe to say: what can be taken back has not.
            self.take_back(entry.kid)
        if entry.kid is None:
            self.line.remove(entry)
            self.tell([self.ending(entry, "unstarted", asked=reason, detail=f"asked to end: {reason}")])
            self.feed()
            return True
        now = self._clock()
        grace_s = entry.order.grace_s if grace_s is None else grace_s
        asked = self.ladder.ask(now, number, reason, grace_s)
        if slot is None:
            self._patrol.wake(now + 0.002)  # it holds the token and is about to start: the scan raises the flag
        else:
            entry.kid.raise_flag(slot, number, asked.reason)
            self._patrol.wake(min(asked.force_at, self.recorder.watch(entry.kid, slot, number, asked, now)))
        return True

    def recall(self) -> list[int]:
        """Take back everything unstarted; returns the numbers, for which no ending will be told.

        What the pool still `holds` afterwards runs, or is about to: its child has taken its token.
        """
        for kid in list(self.nursery.kids):
            self.take_back(kid)
        recalled = [entry.order.number for entry in self.line.clear()]
        for number in recalled:
            del self.entries[number]
            self.ladder.gone(number)
        return recalled

    def holds(self, number: int) -> bool:
        """Is this order in the pool, in any way: waiting, between its token and its start, or running?"""
        return number in self.entries

    def forget(self, numbers: Iterable[int]) -> None:
        """The claim is lost: end these at once. Each still ends exactly once in `endings`, with asked="fenced"."""
        for number in numbers:
            self.ask(number, "fenced", 0.0)
        self._patrol.scan()

    def allow_until(self, start_until_ns: int) -> None:
        """Set the instant (clock.now_ns) after which no slot starts anything. Unlimited until first called."""
        self.nursery.allow_until(start_until_ns)

    def look_again(self) -> None:
        """This process stood still, or its host slept: look again, for deadlines may be nearer than they were."""
        self.line.look_again()
        for entry in self.entries.values():
            entry.quiet_until = 0.0
        self._patrol.scan()

    def running(self) -> list[RunningTask]:
        """What runs now, read from the shared pages."""
        now = self._clock()
        return [
            RunningTask(
                number=entry.order.number,
                id=entry.order.id,
                name=entry.order.name,
                child=kid.pid,
                slot=slot,
                ran_s=max(0.0, now - started_ns / 1e9) if started_ns else 0.0,
                asked=asked.reason if (asked := self.ladder.asked(entry.order.number)) else None,
                progress=kid.page.progress(slot, entry.order.number),
                lent=entry.lent,
            )
            for kid, entry, slot, started_ns in self.marks()
        ]

    def progress(self, number: int, slot: int) -> Progress | None:
        """What an attempt last told of its progress, in the slot that `Events.progressed` named; None: nothing."""
        entry = self.entries.get(number)
        kid = entry.kid if entry is not None else None
        if kid is None or not 0 <= slot < kid.plan.cells:
            return None
        shown = kid.page.progress(slot, number)
        return None if shown is None else Progress(*shown)

    def lines(self, number: int) -> tuple[str, ...]:
        """The last lines that an attempt printed or logged, while it runs."""
        return self.recorder.lines(number)

    def survivors(self) -> list[Survivor]:
        """Code that runs on after its outcome was told (`left_running`)."""
        return self.left.listed(self._clock())

    def dump_stacks(self) -> None:
        """Have each child write the stacks of all its threads: one event for each, with what runs in it."""
        for kid in self.nursery.kids:
            kid.dump.ask(partial(self._dumped, kid, self._within(kid)))

    async def close(self, *, kill_after_s: float) -> None:
        """Let what runs finish for `kill_after_s`, then kill. Everything unstarted comes back first.

        Returns when every child, and everything that its tasks left behind, is gone.
        """
        self.closing = True
        for kid in self.nursery.kids:
            self.line.give_back(kid.take_back())
        self.return_line("the pool is closing")
        self.nursery.close()
        for kid in list(self.nursery.kids):
            if kid.role is Role.SERVING:
                kid.role = Role.DRAINING
            self.part(kid)
        if not await self.nursery.wait_empty(kill_after_s):
            for kid in list(self.nursery.kids):
                kid.condemned.update(kid.entries)
                self.nursery.kill(kid)
            await self.nursery.wait_empty()
        self._patrol.close()

    # ── the line ─────────────────────────────────────────────────────────────────────────────────────────────────

    def feed(self) -> None:
        """Give to the children what they have room for."""
        now = self._clock()
        wanted: list[int] = []
        # A child would not start them: they wait here, where they can be given back.
        if self.line and clock.now_ns() < self.nursery.start_until_ns:
            kids = self.nursery.kids
            active = sum(len(kid.entries) for kid in kids if kid.role is not Role.DRAINING and not kid.lent)
            wanted = self.line.feed(active, now)
            for kid in self.nursery.serving():
                if kid.plan.threads and self.line.worn(kid.given):
                    self.nursery.retire(kid)  # what it was given it finishes; the rest must not wait for that
        if self.entries:
            self._patrol.wake_for_line(now)
        if wanted:
            self.events.permit_wanted(wanted)

    def take_back(self, kid: Kid) -> None:
        """Back to the front of the line with all that a child has not taken."""
        taken = kid.take_back()
        for entry in taken:
            entry.expected_s = self.pace.expected_s(entry.order.name)  # what was learned since they were put
        self.line.give_back(taken)
        self.part(kid)

    def return_line(self, detail: str) -> None:
        """Everything in line goes back to the worker."""
        self.tell([self.ending(entry, "unstarted", detail=detail) for entry in self.line.clear()])

    def end_overdue(self, now: float, endings: list[Ending]) -> None:
        """End whatever waits in line past its deadline: it would never start."""
        late = self.line.take_overdue(now)
        endings.extend(self.ending(entry, "unstarted", detail="its deadline passed in line") for entry in late)

    def return_aged(self, put_before: float) -> None:
        """What came before that instant, and still waits, goes back to the worker: another one may be free."""
        self.tell([self.ending(entry, "unstarted", detail="stalled") for entry in self.line.take_aged(put_before)])

    # ── what becomes of orders and children ──────────────────────────────────────────────────────────────────────

    def ending(
        self,
        entry: Entry,
        kind: EndingKind,
        payload: bytes = b"",
        ran_s: float | None = None,
        *,
        asked: Reason | None = None,
        delay_s: float | None = None,
        retryable: bool = True,
        exact: bool = True,
        detail: str = "",
    ) -> Ending:
        """The order ends here."""
        number = entry.order.number
        del self.entries[number]
        flight = self.recorder.gone(number) if len(self.recorder) else ()
        known = self.ladder.gone(number) if len(self.ladder) else None
        if known is None:
            return Ending(number, kind, payload, ran_s, asked, None, None, delay_s, retryable, exact, detail)
        now = self._clock()
        began = entry.began or (None if ran_s is None else now - ran_s)
        after_s = None if began is None else max(0.0, known.at - began)
        return Ending(
            number, kind, payload, ran_s, known.reason, after_s, now - known.at, delay_s, retryable, exact, detail,
            known.shielded_s(now), flight,
        )  # fmt: skip

    def part(self, kid: Kid) -> None:
        """End a child that is done: one that drains, is worn out, or was made for one suspect."""
        if kid.role is Role.DYING or not kid.idle:
            return
        kid.alone = kid.extra and (kid.alone or not kid.lent)
        if kid.lent and not kid.alone and kid.role is Role.SERVING and not self.line.worn(kid.given):
            self.nursery.rest(kid, self._clock())
            return
        if kid.role is Role.STARTING or (kid.role is Role.SERVING and not kid.extra and not self.line.worn(kid.given)):
            return
        if kid.quarantined:
            self.end_kid(kid, None, "only survivors run in it")
        else:
            self.nursery.hang_up(kid)

    def end_kid(self, kid: Kid, number: int | None, why: str) -> None:
        """Kill a child for the sake of an attempt in it, or of its survivors. The others in it are nobody's fault."""
        if number is not None:
            kid.condemned.add(number)
        entry = self.entries.get(number) if number is not None else None
        task = entry.order.id if entry is not None else None
        self.event("child.killed", "warning", child=kid.pid, detail=why, **({"task": task} if task else {}))
        self.line.give_back(kid.take_back())
        self.nursery.kill(kid)
        self.line.moved_at = self._clock()  # who waits may hope again: a fresh child is on its way

    def retire(self, kid: Kid) -> None:
        """Give its place to a fresh child; what runs in it goes on."""
        self.line.give_back(kid.take_back())
        self.nursery.retire(kid)
        self.line.moved_at = self._clock()

    def marks(self) -> Iterator[tuple[Kid, Entry, int, int]]:
        """Yield (child, entry, slot, started_ns) of all that runs, as the pages show it."""
        for kid in self.nursery.kids:
            if kid.entries:
                for slot, number, started_ns in kid.seen():
                    entry = kid.entries.get(number)
                    if entry is not None:
                        yield kid, entry, slot, started_ns

    def event(self, name: str, level: str, **fields: Any) -> None:
        """Something for the log."""
        self.events.event(name, level, pool=self.kind, **fields)

    def _within(self, kid: Kid) -> list[str]:
        """Say what runs in a child."""
        tasks = [
            f"{entry.order.id} ({entry.order.name}) in slot {slot}"
            for one, entry, slot, _ in self.marks()
            if one is kid
        ]
        left = [left for left in self.survivors() if left.child == kid.pid]
        return tasks + [f"{one.id} ({one.name}) in slot {one.slot}, a survivor" for one in left]

    def _dumped(self, kid: Kid, before: list[str], stacks: str) -> None:
        # What began while it wrote may be in it, as may what ended.
        running = ", ".join(dict.fromkeys([*before, *self._within(kid)])) or "nothing"
        if stacks:
            self.event("child.stacks", "info", child=kid.pid, running=running, stacks=Block(stacks))
        elif kid in self.nursery.kids:  # else its end is told
            note = "it has written nothing: it may just be starting, or a task may have taken SIGUSR2"
            self.event("child.stacks", "warning", child=kid.pid, running=running, note=note)

    def tell_started(self, numbers: list[int]) -> None:
        """A scan has seen these run."""
        self.events.started(numbers)

    def tell(self, endings: list[Ending]) -> None:
        if endings:
            self.events.endings(endings)
