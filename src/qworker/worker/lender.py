"""Let tasks that wait lend their slots: exactly what they wait for runs in their places, so that no pool can deadlock.

    waits ──► round: held here, unstarted ──► pool.annex.advance()
      ▲              queued anywhere ── claim_ids ──► dispatcher.accept(lent) ──► pool.annex.lend()
      └── lend ◄──── something came, ended or waits; else a look after 0.25 s, growing to 1 s

A pool runs at most as many lent tasks as tasks of it wait, so what computes is never more than its slots, but for the
moment between an outcome and the waking of who waited for it. The deepest waiter is served first: a recursion goes
down before it goes wide, and so needs about depth x slots places. `--max-lent` bounds them. There a waiter just waits
for a place; only when every slot and every place of a pool waits, for nothing that runs or could run anywhere, is the
newest of them refused: its wait raises PoolExhausted. Those that wait for each other in a circle need no places:
the newest of them is refused, too, by WaitCycle.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from .. import clock
from ..broker.aio import AsyncBroker
from ..config import most_lent
from ..errors import ServerUnfit
from ..ids import new_token
from ..model import POOL_NEEDS, PoolKind, PoolNeed, Window
from .dispatch import Dispatcher
from .ledger import Held
from .state import UNANSWERED, Phase, State
from .waits import Waiter, Waits

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 1.0
PATIENCE_S = 1.0  # how long nothing moves before a waiter is refused: another worker may take what it waits for
SEE_TO_S = 1.0  # how often a queue is seen to in which nobody may be claiming
_CHUNKS = (32, 128, 512)  # ids per call
_LOOK_AT = 512  # of what one task waits for, when it is looked for among what is here
_CLAIMS_PAUSE_S = (0.1, 2.0)


class Lender:
    """Serves the tasks that wait. Owned by the event loop."""

    def __init__(
        self,
        state: State,
        broker: AsyncBroker,
        dispatcher: Dispatcher,
        waits: Waits,
        *,
        on_call: Callable[[bool, str], None],
    ) -> None:
        self._state, self._broker, self._dispatcher, self._on_call = state, broker, dispatcher, on_call
        self._waits = waits
        self._unknown: set[str] = set()  # awaited, but nobody here knows their names
        self._seen_to: dict[str, float] = {}  # queue -> when it was last seen to
        self._barren: set[PoolKind] = set()  # nothing of what is awaited can be claimed for these, as far as is known
        self._hopeless_since: float | None = None
        self._knot: dict[tuple[int, int], float] = {}  # (number, which of its waits) -> since when it is in a knot
        self._untied: Counter[int] = Counter()  # number -> how often it was refused for that: with a limit it goes on
        self.idle = asyncio.Event()  # no claim is under way
        self.idle.set()

    async def run(self) -> None:
        """Lend until cancelled."""
        state, pause = self._state, FIRST_PAUSE_S
        while True:
            if any(map(self._waits.count, state.pools)):
                try:
                    async with asyncio.timeout(pause):
                        await state.lend.wait()
                    pause = FIRST_PAUSE_S
                except TimeoutError:
                    # What waits may have been put aside, or be held by a worker that died.
                    pause = min(pause * 2, LONGEST_PAUSE_S)
                    await self._see_to_queues()
                    self._waits.news = True
            else:
                self._unknown.clear()
                self._untied.clear()
                self._hopeless_since = None
                await state.lend.wait()
                pause = FIRST_PAUSE_S
            state.lend.clear()
            if self._waits:
                await self._round()

    async def _round(self) -> None:
        """Fill the places that are free now."""
        state, waits = self._state, self._waits
        if state.phase is Phase.DRAINING:
            return
        self._untie()
        if waits.news:
            waits.news = False
            self._barren.clear()
        elif not any(map(self._may_help, state.pools)):
            await self._refuse_one()
            return
        waiters = waits.blocked()
        if not waiters:
            return
        # Room that opens while a claim is under way is for a round that sees who opened it.
        rooms = {kind: self._room(kind)[0] for kind in state.pools}
        dry = set(state.pools)
        deeper: list[Waiter] = []
        # What is held here already is the oldest of its queue, so the shallowest: deeper ones are claimed before it.
        for _, level in itertools.groupby(waiters, key=lambda waiter: waiter.held.header.depth):
            equals = list(level)
            if here := self._here(equals):
                dry &= await self._claim_for(deeper, rooms)
                deeper.clear()
                self._advance(here, rooms)
            deeper += equals
        dry &= await self._claim_for(deeper, rooms)
        if self._may_claim():
            self._barren |= dry
            await self._refuse_one()

    async def _claim_for(self, waiters: Sequence[Waiter], rooms: dict[PoolKind, int]) -> set[PoolKind]:
        """Claim what these wait for, as much as there is room for. Return the pools for which there is no more."""
        state, dry = self._state, set(self._state.pools)
        if not waiters or not self._may_claim():
            return dry
        # A task mostly waits for its like.
        for kind in sorted(state.pools, key=lambda kind: kind != waiters[0].held.kind):
            if kind in self._barren:
                continue
            room, lent = self._room(kind)
            room = min(room, rooms[kind])
            if room > 0:
                rest = await self._fill(kind, room, waiters, lent=lent)
                rooms[kind] -= room - rest
                room = rest
            if room <= 0:
                dry.discard(kind)
        return dry

    def _may_help(self, kind: PoolKind) -> bool:
        """Is there room for something, and perhaps something to be had? What waits here may always have just come."""
        room, lent = self._room(kind)
        return room > 0 and (lent or kind not in self._barren)

    def _may_claim(self) -> bool:
        state = self._state
        return state.phase is Phase.RUNNING and not state.lease.uncertain(clock.now())

    def _room(self, kind: PoolKind) -> tuple[int, bool]:
        """Return how many tasks a pool may be given now for those who wait, and whether they are lent a place.

        A free slot is better than a lent one: its child is there already.
        """
        state = self._state
        if free := state.pools[kind].free:
            return free, False
        most = min(self._waits.count(kind), most_lent(kind, state.settings.max_lent))
        return most - state.ledger.lent[kind], True

    def _here(self, waiters: Iterable[Waiter]) -> list[Held]:
        """Return what is awaited by these and waits here, behind the slots of a pool."""
        by_id = self._state.ledger.by_id
        awaited = (full_id for waiter in waiters for full_id in itertools.islice(waiter.awaited, _LOOK_AT))
        found = (by_id.get(full_id) for full_id in awaited)
        return [held for held in found if held is not None and not held.ended and not held.lent]

    def _advance(self, here: Iterable[Held], rooms: dict[PoolKind, int]) -> None:
        """Start these, as many as there is room for."""
        state = self._state
        for held in here:
            kind = held.kind
            room, lent = self._room(kind)
            # With a free slot it is about to start there.
            if lent and min(room, rooms[kind]) > 0 and state.pools[kind].annex.advance(held.number):
                state.ledger.lend(held)
                rooms[kind] -= 1

    def _wanted(self, waiters: Iterable[Waiter]) -> Iterator[tuple[str, list[str]]]:
        """Yield what is awaited and not held here, as (queue, some local ids), what matters most first.

        What is wanted first is mostly to be had, so the first portions are small, and the rest is not even looked at.
        """
        by_id = self._state.ledger.by_id
        sizes = itertools.chain(_CHUNKS, itertools.repeat(_CHUNKS[-1]))
        size = next(sizes)
        found: dict[str, list[str]] = {}
        for full_id in itertools.chain.from_iterable(list(waiter.awaited) for waiter in waiters):
            if full_id in by_id or full_id in self._unknown:
                continue
            queue, _, local = full_id.partition(":")
            ids = found.setdefault(queue, [])
            ids.append(local)
            if len(ids) >= size:
                yield queue, found.pop(queue)
                size = next(sizes)
        yield from found.items()

    async def _fill(self, kind: PoolKind, room: int, waiters: Iterable[Waiter], *, lent: bool) -> int:
        """Claim up to `room` of these for a pool. Return how much room is left when there is nothing more to be had."""
        state = self._state
        for queue, ids in self._wanted(waiters):
            sent, window = await self._claim(queue, ids, most=room, needs=state.needs(kind))
            if window is None:
                return 0
            if not window.tasks:
                continue
            self._dispatcher.accept(window, sent, alone=False, lent=lent)
            for task in window.tasks:
                held = state.ledger.by_id.get(f"{queue}:{task.id}")
                if held is not None and held.ended and held.header.name not in state.names:
                    self._unknown.add(held.full_id)  # put aside for a worker that knows it
                else:
                    room -= 1
            if room <= 0:
                return 0
        return room

    async def _claim(
        self, queue: str, ids: Sequence[str], *, most: int, needs: Sequence[PoolNeed]
    ) -> tuple[float, Window | None]:
        """Claim by id until answered: the same claim id each time, so that a lost reply costs nothing."""
        state, lease = self._state, self._state.lease
        claim, pause = new_token(), _CLAIMS_PAUSE_S[0]
        while state.phase is Phase.RUNNING:
            sent = clock.now()
            self.idle.clear()
            try:
                window = await self._broker.claim_ids(
                    queue, ids, claim=claim, worker=state.id, lease_ms=int(lease.lease_s * 1000), most=most, needs=needs
                )
            except ServerUnfit:
                raise
            except UNANSWERED as error:
                self._on_call(False, str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _CLAIMS_PAUSE_S[1])
                continue
            finally:
                self.idle.set()
            self._on_call(True, "")
            state.see_epoch(queue, window.epoch)
            return sent, window
        return 0.0, None

    async def _see_to_queues(self) -> None:
        """Claim nothing from the queues of what is awaited: what is due, or was a dead worker's, comes into its line.

        A fetcher without room claims nothing, and of a queue that nobody serves nobody does.
        """
        state, now = self._state, time.monotonic()
        for queue in {queue for queue, _ in self._wanted(self._waits.blocked())}:
            if not self._may_claim() or now - self._seen_to.get(queue, 0.0) < SEE_TO_S:
                continue
            self._seen_to[queue], sent = time.monotonic(), clock.now()
            witness = state.witness(queue)
            stalled = witness.stalled(queue, sent)
            witness.asked(sent)
            try:
                window = await self._broker.claim(
                    queue, claim=new_token(), worker=state.id, rooms=(), lease_ms=int(state.lease.lease_s * 1000),
                    expected_ms=witness.expected_ms(sent), stalled=stalled, newcomer=witness.is_newcomer(sent),
                )  # fmt: skip
            except UNANSWERED as error:
                witness.unanswered()
                self._on_call(False, str(error))
                return
            state.hear(witness, queue, sent, window.now_ms, told=stalled)
            self._on_call(True, "")

    # ── no place left ────────────────────────────────────────────────────────────────────────────────────────────

    async def _refuse_one(self) -> None:
        """Refuse the newest waiter of the pools in which nothing can move any more, once it has been so for a while."""
        state, now = self._state, time.monotonic()
        stuck = {kind for kind in state.pools if self._is_stuck(kind)}
        waiters = [waiter for waiter in self._waits.blocked() if waiter.held.kind in stuck]
        if not waiters or not await self._is_hopeless(waiters, stuck):
            self._hopeless_since = None
            return
        if self._hopeless_since is None:
            self._hopeless_since = now
        elif now - self._hopeless_since >= PATIENCE_S:
            self._hopeless_since = None
            newest = max(waiters, key=lambda waiter: waiter.held.number).held
            state.counters["pool.exhausted"] += 1
            state.emit(
                "pool.exhausted", level="warning", task=newest.full_id, name=newest.header.name, pool=newest.kind,
                lent=state.ledger.lent[newest.kind],
                note="every slot and every lent place waits: its wait is refused; see --max-lent",
            )  # fmt: skip
            state.pools[newest.kind].annex.refuse_wait(newest.number)
            self._waits.end(newest.number)

    def _untie(self) -> None:
        """Refuse the newest of those that wait for nothing but each other, once they have done so for a while.

        A wait with a time limit does not heed that, so the next time it is another's turn.
        """
        state, now = self._state, time.monotonic()
        tied = {(waiter.held.number, waiter.turn): waiter.held for waiter in self._waits.knot()}
        self._knot = {wait: self._knot.get(wait, now) for wait in tied}
        lasting = [wait for wait, since in self._knot.items() if now - since >= PATIENCE_S]
        if lasting:
            held = tied[min(lasting, key=lambda wait: (self._untied[wait[0]], -wait[0]))]
            self._untied[held.number] += 1
            state.emit(
                "wait.cycle", level="warning", task=held.full_id, name=held.header.name, tasks=len(tied),
                note="these tasks wait for nothing but each other: this one's wait is refused",
            )  # fmt: skip
            state.pools[held.kind].annex.refuse_wait(held.number, cycle=True)
            self._waits.end(held.number)

    def _is_stuck(self, kind: PoolKind) -> bool:
        state = self._state
        if state.ledger.lent[kind] < most_lent(kind, state.settings.max_lent):
            return False
        return self._waits.count(kind) > 0 and state.pools[kind].annex.all_wait(self._waits.is_blocked)

    async def _is_hopeless(self, waiters: Iterable[Waiter], stuck: set[PoolKind]) -> bool:
        """Does nothing that these wait for run, or wait to run elsewhere or later?"""
        by_id = self._state.ledger.by_id
        for waiter in waiters:
            for full_id in waiter.awaited:
                held = by_id.get(full_id)
                if full_id in self._unknown or (held is not None and (held.ended or held.kind not in stuck)):
                    return False
        queues: set[str] = set()
        for queue, ids in self._wanted(waiters):
            queues.add(queue)
            _, window = await self._claim(queue, ids, most=0, needs=POOL_NEEDS)
            if window is None or window.elsewhere:
                return False
        return not await self._is_served_elsewhere(queues)

    async def _is_served_elsewhere(self, queues: set[str]) -> bool:
        """Is there another worker of these queues that has a free slot, or tasks that do not wait?"""
        try:
            others = await self._broker.workers()
        except UNANSWERED:
            return True  # nobody knows
        return any(
            worker.id != self._state.id
            and not queues.isdisjoint(worker.queues)
            and (not worker.running or any(not shown.get("waits_for") for shown in worker.running))
            for worker in others
        )
