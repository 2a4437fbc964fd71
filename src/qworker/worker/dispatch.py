"""From a window to the pools: bury what must not run, put aside what nobody here knows, run the rest.

fetcher ──Window──► Dispatcher.accept() ──Order──► pool.put()
                         ├── bury, park ──► settler
                         └── suspects, at_most_once ── renew(started) ──► pool.put()
"""

from __future__ import annotations

import asyncio
import time

from .. import codec
from ..broker.aio import AsyncBroker
from ..errors import BrokerError, DecodeError
from ..lifecycle import How
from ..lifecycle import State as TaskState
from ..model import Claimed, Header, Order, Park, PoolKind, StopOrder, Window
from .blame import Verdict, on_claim
from .ledger import Held, OpenClaim
from .settler import Settler
from .state import State

PARK_MS = 1_000  # a worker that knows the name may be the next to look
UNREADABLE = Header(name="?")


class Dispatcher:
    """Takes windows in. Owned by the event loop."""

    def __init__(self, state: State, broker: AsyncBroker, settler: Settler) -> None:
        self._state, self._broker, self._settler = state, broker, settler
        # Stop hints that overtook the reply of the claim they are for: (claim, id) -> (order, forget at).
        self._early_stops: dict[tuple[str, str], tuple[StopOrder, float]] = {}
        self._starting: set[asyncio.Task[None]] = set()

    def accept(self, window: Window, sent: float, *, alone: bool) -> dict[PoolKind, int]:
        """Take in a window whose claim was sent at `sent` (monotonic); return how many tasks went to each pool."""
        state = self._state
        now = time.monotonic()
        state.lease.opened(sent, alone=not state.ledger.claims)
        claim = OpenClaim(window.claim, window.queue, window.fence, now, alone)
        state.ledger.open(claim)
        orders: dict[PoolKind, list[Order]] = {}
        carefully: list[tuple[Held, Order]] = []
        for task in window.tasks:
            held = self._hold(task, claim, window, now)
            if held is None:
                continue
            order = self._order(held, now)
            if order.alone or held.header.delivery == "at_most_once" or task.record.deliveries > 1:
                # The last: it was handed out before and nobody knows whether it started. It may have killed that worker
                # within its first second, before any renewal: from now on its deaths count.
                carefully.append((held, order))
            else:
                orders.setdefault(held.kind, []).append(order)
        state.counters["claimed"] += len(window.tasks)
        for kind, batch in orders.items():
            state.put(kind, batch)
        if carefully:
            start = asyncio.get_running_loop().create_task(self._start_recorded(claim, carefully))
            self._starting.add(start)
            start.add_done_callback(self._starting.discard)
        return claim.sizes

    def cancel_starts(self) -> None:
        """Give back what waits for its start to be recorded: a drain began first."""
        for start in self._starting:
            start.cancel()

    def stop(self, queue: str, claim: str, task_id: str, order: StopOrder) -> None:
        """Pass a stop on to a held task; keep one for a task that is not here yet for one lease."""
        state = self._state
        held = state.ledger.by_id.get((queue, task_id))
        if held is None or held.claim.id != claim:
            now = time.monotonic()
            self._early_stops = {key: kept for key, kept in self._early_stops.items() if kept[1] > now}
            self._early_stops[claim, task_id] = (order, now + state.lease.lease_s)
            return
        if held.stop == order:
            return  # the flag is durable: each renewal brings it again until the task is settled
        held.stop = order
        state.emit("task.stop", task=held.full_id, name=held.header.name)
        state.ask(held.number, "stop", None if order.grace_ms is None else order.grace_ms / 1000)
        state.mark_soon.set()

    def _hold(self, task: Claimed, claim: OpenClaim, window: Window, now: float) -> Held | None:
        state = self._state
        full_id = f"{window.queue}:{task.id}"
        kind: PoolKind
        try:
            header, kind, unreadable = codec.read_header(task.blob), state.kind_of(codec.line_of(task.blob).pool), ""
        except DecodeError as error:
            header, kind, unreadable = UNREADABLE, state.settings.pool, str(error)
        if kind not in state.pools:
            kind = next(iter(state.pools))
        held = Held(state.ledger.next_number(), task, claim, header, kind, full_id)
        remaining_ms = task.record.deadline_ms - window.now_ms if task.record.deadline_ms else None
        if remaining_ms is not None:
            held.deadline = now + remaining_ms / 1000
        state.ledger.add(held)
        verdict = (
            Verdict(TaskState.FAILED, How.NEVER_STARTED, f"its header cannot be read: {unreadable}")
            if unreadable
            else on_claim(task.record, header, remaining_ms=remaining_ms)
        )
        if verdict is None and (early := self._early_stops.pop((claim.id, task.id), None)):
            held.stop = early[0]
            verdict = Verdict(TaskState.CANCELLED, How.NEVER_STARTED, "stopped before it started")
        if verdict is not None:
            state.ledger.end(held)
            self._settler.put(held, verdict)
            return None
        if header.name not in state.names:
            self._park(held)
            return None
        return held

    def _park(self, held: Held) -> None:
        state = self._state
        if held.header.name not in state.unknown:
            state.emit(
                "task.unknown", level="warning", task=held.full_id, name=held.header.name,
                note="no task of this name is registered here; it waits for a worker that knows it",
            )  # fmt: skip
        state.unknown[held.header.name] += 1
        state.ledger.end(held)
        self._settler.put_raw(held, Park(held.task.id, held.claim.id, PARK_MS))

    def _order(self, held: Held, now: float) -> Order:
        header, record = held.header, held.task.record
        return Order(
            number=held.number,
            id=held.full_id,
            name=header.name,
            blob=held.task.blob,
            run=record.run,
            attempt=record.attempt,
            fence=held.claim.fence,
            timeout_s=None if header.timeout_ms is None else header.timeout_ms / 1000,
            grace_s=header.grace_ms / 1000,
            alone=record.losses > 0,
            retries=header.retries,
            deadline_s=None if held.deadline is None else held.deadline - now,
            handed=now,
        )

    async def _start_recorded(self, claim: OpenClaim, starts: list[tuple[Held, Order]]) -> None:
        """Record the start of suspects and of at_most_once tasks before they run: a death then counts."""
        state = self._state
        started = [(claim.id, held.task.id, 0, held.header.delivery == "at_most_once") for held, _ in starts]
        while True:
            sent = time.monotonic()
            try:
                renewal = await self._broker.renew(
                    claim.queue,
                    worker=state.id,
                    claims=[claim.id],
                    started=started,
                    lease_ms=int(state.lease.lease_s * 1000),
                    expected_ms=state.lease.expected_ms(sent),
                    stalled=state.lease.stalled(sent),
                )
                break
            except BrokerError:
                # Not started, so nothing is wrong: either the lease lapses and another worker has it, or Redis is back.
                await asyncio.sleep(0.2)
        if claim.id in renewal.lost:
            return  # the keeper meets the same answer and lets the claim go
        for held, order in starts:
            if held.ended or held.number not in state.ledger.tasks:
                continue
            held.start_recorded = True
            if held.stop is not None:
                state.ledger.end(held)
                self._settler.put(held, Verdict(TaskState.CANCELLED, How.NEVER_STARTED, "stopped before it started"))
                continue
            state.put(held.kind, [order])
