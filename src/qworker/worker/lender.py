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

A queue that does not answer holds up nobody who waits for others: it is asked again later, about the same tasks by the
same claim id, so that a lost reply costs nothing. When nobody waits for those any more, the claim is let go of: if it
got through, its lease lapses, and nobody is charged.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .. import clock
from ..broker.aio import AsyncBroker
from ..config import most_lent
from ..errors import ServerUnfit
from ..ids import new_token
from ..model import POOL_NEEDS, PoolKind, PoolNeed, Window
from .dispatch import Dispatcher
from .ledger import Held
from .state import UNANSWERED, OnCall, Phase, State
from .waits import Waiter, Waits

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 1.0
PATIENCE_S = 1.0  # how long nothing moves before a waiter is refused: another worker may take what it waits for
SEE_TO_S = 1.0  # how often a queue is seen to in which nobody may be claiming
_CHUNKS = (32, 128, 512)  # ids per call
_LOOK_AT = 512  # of what one task waits for, when it is looked for among what is here
_PAUSE_S = (0.1, 2.0)  # before a queue that did not answer is asked again


class _Silence(NamedTuple):
    """A queue does not answer."""

    until: float  # monotonic: it is not asked before
    pause: float


class _Sent(NamedTuple):
    """A claim that was not answered, and may have been granted."""

    claim: str
    ids: frozenset[str]  # full ones, of what it may have taken
    lapses: float  # monotonic


class Lender:
    """Serves the tasks that wait. Owned by the event loop."""

    def __init__(
        self,
        state: State,
        broker: AsyncBroker,
        dispatcher: Dispatcher,
        waits: Waits,
        *,
        on_call: OnCall,
    ) -> None:
        self._state, self._broker, self._dispatcher, self._on_call = state, broker, dispatcher, on_call
        self._waits = waits
        self._unknown: set[str] = set()  # awaited, but nobody here knows their names
        self._seen_to: dict[str, float] = {}  # queue -> when it was last seen to
        self._silent: dict[str, _Silence] = {}  # by queue
        self._sent: dict[tuple[str, PoolKind], _Sent] = {}  # by queue and the pool it was claimed for
        self._barren: set[PoolKind] = set()  # nothing of what is awaited can be claimed for these, as far as is known
        self._hopeless_since: float | None = None
        self._knot: dict[tuple[int, int], float] = {}  # (number, which of its waits) -> since when it is in a knot
        self._untied: Counter[int] = Counter()  # number -> how often it was refused for that: with a limit it goes on
        self.idle = asyncio.Event()  # no claim is under way
        self.idle.set()

    async def run(self) -> None:
        """Lend until cancelled."""
        state, pause, looked = self._state, FIRST_PAUSE_S, time.monotonic()
        while True:
            if any(map(self._waits.count, state.pools)):
                quiet = False
                try:
                    async with asyncio.timeout(pause):
                        await state.lend.wait()
                    pause = FIRST_PAUSE_S
                except TimeoutError:
                    quiet, pause = True, min(pause * 2, LONGEST_PAUSE_S)
                # What waits may have been put aside, or be held by a worker that died. No event here tells of that, so
                # it is looked at also while there are many.
                if quiet or time.monotonic() - looked >= LONGEST_PAUSE_S:
                    await self._see_to_queues()
                    self._waits.news = True
                    looked = time.monotonic()
            else:
                self._unknown.clear()
                self._untied.clear()
                self._forget_old()
                self._hopeless_since = None
                await state.lend.wait()
                pause, looked = FIRST_PAUSE_S, time.monotonic()
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
            if not self._may_ask(queue):
                continue  # another queue may answer
            claim = self._claim_id(queue, kind, ids)
            sent, window = await self._claim(queue, ids, claim=claim, most=room, needs=state.needs(kind))
            if window is None:
                continue
            del self._sent[queue, kind]
            if not window.tasks:
                continue
            full_ids = [f"{queue}:{task.id}" for task in window.tasks]
            # A claim that is answered late brings what it took then. Unless all of that still has its place, it goes
            # into the pool's line, out of which a round takes what is awaited.
            fits = len(full_ids) <= room and all(map(self._waits.is_awaited, full_ids))
            self._dispatcher.accept(window, sent, alone=False, lent=lent and fits)
            for task in window.tasks:
                held = state.ledger.by_id.get(f"{queue}:{task.id}")
                if held is not None and held.ended and held.header.name not in state.names:
                    self._unknown.add(held.full_id)  # put aside for a worker that knows it
                else:
                    room -= 1
            if room <= 0:
                return 0
        return room

    def _claim_id(self, queue: str, kind: PoolKind, ids: Sequence[str]) -> str:
        """Return the id of the claim that was not answered, if somebody waits for what it was for; else a new one."""
        before = self._sent.get((queue, kind))
        awaited = frozenset(filter(self._waits.is_awaited, before.ids if before is not None else ()))
        claim = before.claim if before is not None and awaited else new_token()
        wanted = awaited | {f"{queue}:{local}" for local in ids}
        self._sent[queue, kind] = _Sent(claim, wanted, time.monotonic() + self._state.lease.lease_s)
        return claim

    def _forget_old(self) -> None:
        """Nobody waits now. Who does again soon, as in a loop of short waits, finds what was not answered."""
        now = time.monotonic()
        self._sent = {key: sent for key, sent in self._sent.items() if sent.lapses > now}
        self._silent = {queue: silence for queue, silence in self._silent.items() if silence.until > now}

    async def _claim(
        self, queue: str, ids: Sequence[str], *, claim: str, most: int, needs: Sequence[PoolNeed]
    ) -> tuple[float, Window | None]:
        """Claim by id, once; None: no answer came."""
        state = self._state
        sent, since = clock.now(), time.monotonic()
        self.idle.clear()
        try:
            window = await self._broker.claim_ids(
                queue, ids, claim=claim, worker=state.id, lease_ms=int(state.lease.lease_s * 1000), most=most,
                needs=needs,
            )  # fmt: skip
        except ServerUnfit:
            raise
        except UNANSWERED as error:
            self._fell_silent(queue, since, error)
            return 0.0, None
        finally:
            self.idle.set()
        self._answered(queue)
        state.see_epoch(queue, window.epoch)
        return sent, window

    def _may_ask(self, queue: str) -> bool:
        silence = self._silent.get(queue)
        return self._may_claim() and (silence is None or time.monotonic() >= silence.until)

    def _fell_silent(self, queue: str, since: float, error: Exception) -> None:
        """Leave a queue alone for a while that has not answered a call of that time."""
        first, longest = _PAUSE_S
        before, now = self._silent.get(queue), time.monotonic()
        pause = first if before is None else min(before.pause * 2, longest)
        # A call that waits for its answer holds up all others, so they have as much time in between, within limits.
        self._silent[queue] = _Silence(now + max(pause, min(now - since, longest)), pause)
        self._on_call(queue, error)

    def _answered(self, queue: str) -> None:
        self._silent.pop(queue, None)
        self._on_call(queue, None)

    async def _see_to_queues(self) -> None:
        """Claim nothing from the queues of what is awaited: what is due, or was a dead worker's, comes into its line.

        A fetcher without room claims nothing, and of a queue that nobody serves nobody does.
        """
        state, now = self._state, time.monotonic()
        for queue in {queue for queue, _ in self._wanted(self._waits.blocked())}:
            if not self._may_ask(queue) or now - self._seen_to.get(queue, 0.0) < SEE_TO_S:
                continue
            self._seen_to[queue] = since = time.monotonic()
            sent = clock.now()
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
                self._fell_silent(queue, since, error)
                continue  # another queue may answer
            state.hear(witness, queue, sent, window.now_ms, told=stalled)
            self._answered(queue)

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
            if not self._may_ask(queue):
                return False
            _, window = await self._claim(queue, ids, claim=new_token(), most=0, needs=POOL_NEEDS)
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
