"""Claim windows: as many tasks as the pools have room for, from the queues in their strict order.

    room ──► claim queue 1, 2, … ──► dispatcher.accept()
      ▲          │ nothing left
      └── wake ◄─┴── bell (a hint), at the latest after 1 s or when the next scheduled task is due

Queues on several servers of a cluster do not wait for each other: a claim that is not answered soon goes on by itself,
and the later queues have their turn meanwhile.

Only when a claim left room unused does the worker wait for the bell; while it leaves work behind, the script rings for
the others. A bell wakes one worker, so each listens only to those that it has room for, and only while it waits. A
suspect that must run alone is claimed only by a worker that holds nothing.
"""

from __future__ import annotations

import asyncio
import random
import time

from .. import clock
from ..broker.aio import AsyncBroker
from ..errors import ServerUnfit
from ..ids import new_token
from ..model import PoolKind, PoolNeed, Window
from .dispatch import Dispatcher
from .doorbell import Doorbell
from .rescued import named
from .standing import Standing
from .state import UNANSWERED, OnCall, Phase, State

POLL_S = 1.0
BELL_S = 20.0  # how long one listens to the bell at a time; a connection that died unseen is found out by then
AFTER_YOU_S = 0.2  # a worker that does not know a task comes so much later than one that may
MAX_BYTES = 16 << 20  # of bodies in one window
MOST_CLAIMS = 256  # open at once, but for those that fill free slots: each of them has to be renewed
PATIENCE_S = 2.0  # how long suspects wait for an idle worker before a busy one makes room
MAKE_ROOM_S = 10.0  # and how long it will claim nothing to become idle
COOL_DOWN = 6  # and how many times as long as that took it serves the others, before it makes room again
TURN_S = 0.5  # how long the queues of other servers wait for one that does not answer

Taken = tuple[Window, dict[PoolKind, int]]  # what a claim brought, and how many of it went to each pool


class Fetcher:
    """Claims for the worker. Owned by the event loop."""

    def __init__(
        self,
        state: State,
        broker: AsyncBroker,
        dispatcher: Dispatcher,
        standing: Standing,
        *,
        on_call: OnCall,
    ) -> None:
        self._state, self._broker, self._dispatcher, self._on_call = state, broker, dispatcher, on_call
        self._standing = standing
        # An idle worker, too, has to notice that the server was away for half a lease: or it rescues what others hold.
        self._poll_s = min(POLL_S, state.lease.lease_s / 5)
        self._left: dict[PoolKind, bool] = dict.fromkeys(state.rooms, True)  # the queues may hold more for this pool
        self._next_due_s: float | None = None
        self._suspects_since: dict[str, float] = {}  # queue -> since when suspects wait there that may be for us
        self._no_claims_until = 0.0
        self._making_room_since: float | None = None
        self._cool_until = 0.0
        self._bell = Doorbell(broker, state.queues, listen_s=BELL_S, has_room=self._has_room, wake=state.wake.set)
        # Nothing is ready, nothing is held, and no retry of ours is still to come: what --burst waits for. Tasks that
        # are scheduled for later are for a worker that stays.
        self.empty = asyncio.Event()
        self.idle = asyncio.Event()  # no claim is under way
        self.idle.set()
        self._calls = 0  # how many are
        self._apart: dict[str, asyncio.Task[None]] = {}  # by queue, of several servers: its claim until it is answered
        self._withdrawal: asyncio.Task[None] | None = None
        self._at_rest = False

    async def run(self) -> None:
        """Claim while the worker is running."""
        state = self._state
        while True:
            if state.phase is Phase.RUNNING:
                try:
                    await self._claim_while_running()
                finally:
                    await self._bell.hush()
                await self.hush()
            state.wake.clear()
            if state.phase is not Phase.RUNNING:
                await state.wake.wait()

    async def hush(self) -> None:
        """Listen to the bell no longer, and leave no claim standing: what this worker gives back is for the others."""
        await self._bell.hush()
        if self._standing.any and self.idle.is_set() and not self._at_rest:
            self.idle.clear()
            self._withdrawal = self._state.spawn(self._withdraw())

    async def rest(self) -> None:
        """Return when no claim is under way, and none stands, in a worker that drains. Nothing is taken in afterwards.

        A claim that was under way when the drain began may have left one. If its withdrawal were answered when all
        has been settled, nobody would be there to give back what has filled it.
        """
        try:
            await self.idle.wait()
            await self.hush()
            await self.idle.wait()
        finally:
            self._at_rest = True
            if self._withdrawal is not None:
                self._withdrawal.cancel()
            for claim in self._apart.values():
                claim.cancel()  # what it may have got all the same is put back when its lease lapses, uncharged

    def handed(self, window: Window) -> None:
        """Take in what a submit has put into a claim that stood, unless its window is here already."""
        sent = self._standing.take(window.claim)
        if sent is not None:
            self._state.see_epoch(window.queue, window.epoch)
            self._dispatcher.accept(window, sent, alone=False)

    async def _claim_while_running(self) -> None:
        state = self._state
        while state.phase is Phase.RUNNING:
            state.wake.clear()
            rooms = self._rooms()
            if not rooms:
                await self._wait_wake(POLL_S)
            elif any(self._left[kind] for kind in rooms):
                await self._round(rooms)
            else:
                await self._wait_bell(rooms)
                if state.phase is Phase.RUNNING and (rooms := self._rooms()):
                    await self._round(rooms)

    def _rooms(self) -> dict[PoolKind, int]:
        """Return the room of each pool that is worth a claim now; empty when nothing may be claimed."""
        state = self._state
        if not self._may_claim():
            return {}
        return {kind: wanted for kind in state.rooms if (wanted := self._wanted(kind))}

    def _wanted(self, kind: PoolKind) -> int:
        """Return how many tasks to claim for a pool now, if anything may be claimed.

        Where tasks come one by one each claim holds one of them. However many claims are open then, and for whatever
        pool: no slot stays free for that, only nothing is claimed ahead.
        """
        ledger, room = self._state.ledger, self._state.rooms[kind]
        held = ledger.in_pool[kind]
        if held >= room.slots and len(ledger.claims) >= MOST_CLAIMS:
            return 0
        return room.wanted(held)

    def _may_claim(self) -> bool:
        state, ledger = self._state, self._state.ledger
        if not ledger.tasks:
            state.alone = False
        elif state.alone:
            return False
        if state.at_stake() and state.lease.uncertain(clock.now()):
            return False  # it cannot renew what it holds: it takes nothing on top
        return time.monotonic() >= self._no_claims_until or not ledger.tasks

    def _has_room(self, need: PoolNeed) -> bool:
        state = self._state
        kind = state.kind_of(need)
        return kind in state.rooms and self._may_claim() and self._wanted(kind) > 0

    async def _round(self, rooms: dict[PoolKind, int]) -> None:
        """Claim from each queue in turn until the rooms are full."""
        state = self._state
        # What rings from here on may be for what the claims of this round do not see any more.
        self._bell.rung = False
        # Only such a round can find that nothing is left: it looks at every line, and nothing comes back behind it.
        whole = not state.ledger.tasks and len(rooms) == len(state.rooms)
        took = 0
        self._next_due_s = None
        asked = list(rooms)
        for kind in asked:
            self._left[kind] = True  # until this round has seen the end of its lines
        for queue in state.queues:
            taken = None if queue in self._apart else await self._turn(queue, rooms)
            if taken is None:
                if queue in self._apart:
                    whole = False
                    continue
                return
            window, sizes = taken
            if window.tasks:
                took += len(window.tasks)
                if window.alone:
                    return  # the lines were not looked at
                for kind in list(rooms):
                    rooms[kind] -= sizes.get(kind, 0)
                    if rooms[kind] <= 0:
                        del rooms[kind]
                if not rooms:
                    break
            if window.cut:
                return  # it has not seen the end of these lines: the next round goes on there, before later queues
        for kind in asked:
            # A pool that was filled may find more next time; one that was not has emptied its lines.
            self._left[kind] = kind not in rooms
        if whole and took == 0 and time.monotonic() >= state.owed_until:
            self.empty.set()

    async def _turn(self, queue: str, rooms: dict[PoolKind, int]) -> Taken | None:
        """Claim from a queue, and take in what comes; None: no answer. Of several servers none is waited for long."""
        state, alone = self._state, not self._state.ledger.tasks
        if len(state.queues) == 1 or not state.apart(state.queues):
            sent, window = await self._claim(queue, rooms, alone=alone)
            return None if window is None else self._take(window, sent, alone=alone)
        answer: asyncio.Future[Taken | None] = asyncio.get_running_loop().create_future()
        self._apart[queue] = state.spawn(self._claim_apart(queue, rooms, answer, alone=alone))
        await asyncio.wait({answer}, timeout=TURN_S)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None

    async def _claim_apart(
        self, queue: str, rooms: dict[PoolKind, int], answer: asyncio.Future[Taken | None], *, alone: bool
    ) -> None:
        """Claim from a queue whose server may be away, and take in what comes, however late."""
        taken = None
        try:
            sent, window = await self._claim(queue, rooms, alone=alone, apart=True)
            if window is not None:
                taken = self._take(window, sent, alone=alone and not answer.cancelled())
        finally:
            del self._apart[queue]
        if not answer.cancelled():
            answer.set_result(taken)
        elif taken is not None:
            # The queue is served again, and may hold more. Not lost where a round is under way: the next one looks.
            self._bell.rung = True
            self._state.wake.set()

    def _take(self, window: Window, sent: float, *, alone: bool) -> Taken:
        """Take in what a claim brought."""
        state = self._state
        self._note(window, alone=alone)
        if not window.tasks:
            return window, {}
        # A claim from another server, asked before, may have come first: what has to be alone is not, and goes back.
        back = bool(state.ledger.tasks) and (window.alone or state.alone)
        if not back:
            state.alone = window.alone
        return window, self._dispatcher.accept(window, sent, alone=window.alone, back=back)

    async def _claim(
        self, queue: str, rooms: dict[PoolKind, int], *, alone: bool, apart: bool = False
    ) -> tuple[float, Window | None]:
        """Claim until answered: the same claim id each time, so that a lost reply costs nothing.

        `apart`: other queues are claimed meanwhile, so later tries ask for no more than there is room for by then.
        """
        state, witness = self._state, self._state.witness(queue)
        claim, pause = new_token(), 0.1
        standing = self._standing.asked()
        stand = offered = self._standing.offer(queue) if alone else None
        wanted = self._wishes(rooms)
        while state.phase is Phase.RUNNING:
            sent = clock.now()
            stalled = witness.stalled(queue, sent)
            witness.asked(sent)
            self._calls += 1
            self.idle.clear()
            try:
                window = await self._broker.claim(
                    queue,
                    claim=claim,
                    worker=state.id,
                    rooms=wanted,
                    lease_ms=int(state.lease.lease_s * 1000),
                    alone=alone,
                    max_bytes=MAX_BYTES,
                    expected_ms=witness.expected_ms(sent),
                    stalled=stalled,
                    newcomer=witness.is_newcomer(sent),
                    stand=stand,
                    standing=standing,
                )
            except ServerUnfit:
                raise  # it stays so, however often it is asked: the worker ends, and says why
            except UNANSWERED as error:
                witness.unanswered()
                self._on_call(queue, error)
                if stand is not None:
                    standing, stand = [*standing, stand], None  # it may have been left, and been filled
                wait_s = pause * (0.5 + random.random())
                if apart:
                    await asyncio.sleep(wait_s)  # what wakes the worker is for the other queues
                    wanted, alone = self._wishes(self._rooms()), False
                else:
                    await self._wait_wake(wait_s)
                pause = min(pause * 2, 2.0)
                continue
            finally:
                self._calls -= 1
                if not self._calls:
                    self.idle.set()
                self._standing.answered(offered)
            state.hear(witness, queue, sent, window.now_ms, told=stalled)
            self._on_call(queue, None)
            if window.claim != claim and any(window.claim == stood.claim for stood in standing):
                self.handed(window)
                return 0.0, None  # the lines were not looked at
            self._standing.gone(standing)
            return sent, window
        return 0.0, None

    def _wishes(self, rooms: dict[PoolKind, int]) -> list[tuple[tuple[PoolNeed, ...], int]]:
        return [(self._state.needs(kind), room) for kind, room in rooms.items()]

    async def _withdraw(self) -> None:
        """Ask once about what was left standing: what has filled it comes as from a claim that was under way."""
        state = self._state
        try:
            for queue in state.queues:
                asked = self._standing.asked()
                window = await self._broker.claim(
                    queue, claim=new_token(), worker=state.id, rooms=(), lease_ms=int(state.lease.lease_s * 1000),
                    standing=asked, newcomer=True,
                )  # fmt: skip
                self.handed(window)
                self._standing.gone(asked)
        except UNANSWERED:
            pass  # it stands for two seconds more at most; what fills it then runs elsewhere when its lease lapses
        finally:
            self.idle.set()

    def _note(self, window: Window, *, alone: bool) -> None:
        """Learn from a reply: when the next task is due, whether suspects wait, whether Redis lost its state."""
        state, now = self._state, time.monotonic()
        if window.next_due_ms is not None:
            due = now + max(0, window.next_due_ms - window.now_ms) / 1000
            self._next_due_s = due if self._next_due_s is None else min(due, self._next_due_s)
        if window.rescued:
            state.counters["rescued"] += window.rescued
            names = [(claim, f"{window.queue}:{local}") for claim, local in window.rescued_names]
            state.emit("tasks.rescued", level="warning", queue=window.queue, count=window.rescued,
                       **named(names, window.rescued),
                       note="their worker's lease lapsed; they run again")  # fmt: skip
        state.see_epoch(window.queue, window.epoch)
        if alone and not window.alone:
            # It could have had one: those that wait, if any, need a pool that is not here.
            self._suspects_since.pop(window.queue, None)
            self._no_claims_until = 0.0
            if self._making_room_since is not None:
                self._cool_until = now + COOL_DOWN * (now - self._making_room_since)
                self._making_room_since = None
        elif not window.suspects:
            self._suspects_since.pop(window.queue, None)
        elif now - self._suspects_since.setdefault(window.queue, now) > PATIENCE_S and now > self._cool_until:
            # Nobody idle took them: make room here for a while, then serve the others again.
            self._making_room_since, self._no_claims_until = now, now + MAKE_ROOM_S
            self._cool_until = self._no_claims_until + COOL_DOWN * MAKE_ROOM_S  # unless it was done with sooner

    async def _wait_bell(self, rooms: dict[PoolKind, int]) -> None:
        """Wait for the bell, for room that opens in a pool whose lines may hold more, or for the next due task."""
        state = self._state
        ends = time.monotonic() + self._poll_s * random.uniform(0.9, 1.1)  # workers that began together drift apart
        if self._next_due_s is not None:
            # What it put aside itself is left to a worker that knows it, and is as punctual.
            parked = self._next_due_s <= state.parked_until + AFTER_YOU_S
            ends = min(ends, self._next_due_s + (AFTER_YOU_S if parked else 0.0))
        needs = [need for kind in rooms for need in state.needs(kind)]
        while not self._bell.rung and (left := ends - time.monotonic()) > 0:
            self._bell.listen(needs)
            await self._wait_wake(left)
            if state.phase is not Phase.RUNNING:
                break
            if state.settings.burst and not state.ledger.tasks:
                break  # was that the last?
            # Those that it listens for had nothing left: only room in another pool is worth a claim.
            if len(rooms) < len(state.rooms) and not self._rooms().keys() <= rooms.keys():
                break
            state.wake.clear()

    async def _wait_wake(self, timeout_s: float) -> None:
        # When the time is over it wakes itself: the claim decides again, for time may have opened what no event tells.
        state = self._state
        if not state.wake.is_set():
            timer = asyncio.get_running_loop().call_later(timeout_s, state.wake.set)
            try:
                await state.wake.wait()
            finally:
                timer.cancel()
