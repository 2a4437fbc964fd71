"""Tell what this worker is doing: its record in Redis for `status` and `dessert`, its health file for `check`."""

from __future__ import annotations

import asyncio
import time

from ..broker.aio import AsyncBroker
from ..health import Aside as HealthFile
from ..views import WorkerRecord
from .neighbours import Neighbours
from .state import UNANSWERED, State

IDLE_S = 10.0  # nothing runs: the record only has to stay alive
BUSY_S = 1.0
TTL_MS = 30_000
LOOK_S = 30.0  # who comes says so, and whoever was not heard has a lease: this is for what slipped through
LIST_S = 60.0  # the list of workers remembers for ten minutes
TICK_S = 1.0
MOST_SHOWN = 100  # of what runs: a record is for people


class Beacon:
    """Writes the worker's record. Owned by the event loop."""

    def __init__(self, state: State, broker: AsyncBroker, neighbours: Neighbours, health: HealthFile) -> None:
        self._state, self._broker, self._neighbours, self._health = state, broker, neighbours, health
        self._started_ms = state.server_ms()
        self._changed = asyncio.Event()
        self._looked = -LOOK_S  # when the neighbours were last looked at
        self._listed = -LIST_S  # when it was last put on the list of workers

    def changed(self) -> None:
        """Have the record written soon: a survivor came or went, the phase changed."""
        self._changed.set()

    def greet(self) -> None:
        """Have the neighbours looked at soon: another worker has come, and may be of this host."""
        self._looked = -LOOK_S
        self._changed.set()

    async def run(self) -> None:
        """Write the record until cancelled; look after the neighbours every few beats."""
        while True:
            self._changed.clear()
            await self.beat()
            if time.monotonic() - self._looked >= LOOK_S:
                self._looked = time.monotonic()
                await self._neighbours.look()
            busy = self._is_busy()
            until = time.monotonic() + (BUSY_S if busy else IDLE_S)
            while (left := until - time.monotonic()) > 0 and not self._changed.is_set():
                try:
                    async with asyncio.timeout(min(left, TICK_S)):
                        await self._changed.wait()
                except TimeoutError:
                    if not busy and self._is_busy():
                        break  # something runs for a second already: show it

    async def tick(self) -> None:
        """Tell the health file that the loop turns, until cancelled; whatever Redis does meanwhile."""
        while True:
            self._health.turned()
            await asyncio.sleep(TICK_S)

    def _is_busy(self) -> bool:
        state = self._state
        held = (*state.ledger.in_pool.values(), *state.ledger.lent.values())
        return any(held) or any(pool.survivors() for pool in state.pools.values())

    async def beat(self) -> None:
        """Write the record once."""
        now = time.monotonic()
        listed = now - self._listed < LIST_S
        try:
            await self._broker.beat(self.record(), ttl_ms=TTL_MS, listed=listed)
        except UNANSWERED:
            return  # claims and renewals tell of the outage
        if not listed:
            self._listed = now

    def record(self) -> WorkerRecord:
        """Return what this worker says of itself."""
        state = self._state
        me = self._neighbours.me
        running = [
            {"id": task.id, "name": task.name, "pool": kind, "child": task.child, "slot": task.slot,
             "ran_s": round(task.ran_s, 3), "asked": task.asked, "lent": task.lent,
             "waits_for": self._waits_for(task.number)}
            for kind, pool in state.pools.items()
            for task in pool.running()
        ]  # fmt: skip
        running.sort(key=lambda shown: -float(str(shown["ran_s"])))
        survivors = [
            {"id": left.id, "name": left.name, "child": left.child, "slot": left.slot, "outcome": left.outcome.value,
             "since_s": round(left.since_s, 3), "ran_s": round(left.ran_s, 3)}
            for pool in state.pools.values()
            for left in pool.survivors()
        ]  # fmt: skip
        return WorkerRecord(
            id=state.id,
            **me._asdict(),
            queues=state.queues,
            state=state.phase.value,
            started_ms=self._started_ms,
            slots={str(kind): slots for kind, slots in state.slots.items()},
            running=tuple(running[:MOST_SHOWN]),
            survivors=tuple(survivors[:MOST_SHOWN]),
            unknown=dict(state.unknown),
            counters=dict(state.counters),
            beat_ms=state.server_ms(),
            lent={str(kind): count for kind, count in state.ledger.lent.items() if count},
        )

    def _waits_for(self, number: int) -> int:
        held = self._state.ledger.tasks.get(number)
        return 0 if held is None else held.waits_for
