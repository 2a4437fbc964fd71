"""From a window to the pools: bury what must not run, put aside what nobody here knows, run the rest.

fetcher ──Window──► Dispatcher.accept() ──Order──► pool.put()
                         ├── bury, park ──► settler
                         ├── groups not read yet ── read ──┐
                         └── suspects ── renew(started) ───┴──► pool.put()
pool ──permit_wanted──► Dispatcher.record_starts() ── renew(started) ──► pool.permit()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from .. import clock, codec, faultpoints
from ..broker.aio import AsyncBroker
from ..errors import DecodeError
from ..lifecycle import How
from ..lifecycle import State as TaskState
from ..model import Claimed, Header, Order, Park, PoolKind, StopOrder, Window
from .blame import RELEASE, Verdict, on_claim
from .groups import Groups
from .ledger import Held, OpenClaim
from .settler import Settler
from .state import UNANSWERED, Phase, State

# Longer than an idle worker waits between two claims (fetcher.POLL_S): one that knows the name has seen by then when it
# is due.
PARK_MS = 1_500
UNREADABLE = Header(name="?")
Terms = tuple[Any, ...]  # of an order: what tasks of a kind share, from its `deadline_s` on
STOPPED = Verdict(TaskState.CANCELLED, How.NEVER_STARTED, "stopped before it started")
GROUP_STOPPED = Verdict(TaskState.CANCELLED, How.NEVER_STARTED, "its group was stopped before it started")


class Dispatcher:
    """Takes windows in. Owned by the event loop."""

    def __init__(self, state: State, broker: AsyncBroker, settler: Settler) -> None:
        self._state, self._broker, self._settler = state, broker, settler
        self.groups = Groups(state, broker)
        self.changed: Callable[[], None] = lambda: None  # joined by the daemon: has the worker's record written soon
        # Stop hints that overtook the reply of the claim they are for: (claim, id) -> (order, forget at).
        self._early_stops: dict[tuple[str, str], tuple[StopOrder, float]] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._to_permit: dict[str, list[Held]] = {}  # by queue: what has a free slot, and must be recorded first
        self._recording: set[str] = set()  # queues
        self._kinds: dict[bytes, PoolKind] = {}  # by the letter of the line

    def accept(
        self, window: Window, sent: float, *, alone: bool, lent: bool = False, back: bool = False
    ) -> dict[PoolKind, int]:
        """Take in a window whose claim was sent at `sent` (`clock`); return how many tasks went to each pool.

        `lent`: its tasks run in the places of those that wait for them. `back`: they cannot run here now.
        """
        state = self._state
        now = clock.now()
        state.lease.opened(sent, alone=not state.at_stake())
        if state.lease.uncertain(now):
            state.mark_soon.set()  # older claims must be renewed before anything may start
        claim = OpenClaim(window.claim, window.queue, window.fence, time.monotonic(), alone)
        state.ledger.open(claim)
        state.counters["claimed"] += len(window.tasks)
        orders: dict[PoolKind, list[Order]] = {}
        in_order: list[tuple[Held, Order]] = []
        carefully: set[int] = set()
        # Most tasks of a window have the very same header and record: the first of a kind is judged for all of it.
        alike: dict[tuple[int, int], Terms] = {}
        grouped: list[Held] = []
        for task in window.tasks:
            held, unreadable = self._hold(task, claim, lent)
            like = id(held.header), id(task.record)
            terms = None if self._early_stops else alike.get(like)
            if terms is None:
                if task.record.deadline_ms:
                    # From when the server said what time it is: this worker may have been frozen since, or the answer
                    # have been on its way. What is out of time by then never starts.
                    given = state.given(window.queue, sent, window.now_ms)
                    held.deadline = given + (task.record.deadline_ms - window.now_ms) / 1000
                if (back or state.phase is Phase.DRAINING) and not task.record.once:
                    # Its claim was under way when the drain began: it goes back as what was recalled did. But what may
                    # start once, and did elsewhere, is buried below: a release takes its mark.
                    self._bury(held, RELEASE)
                    continue
                if not self._may_run(held, unreadable, now):
                    continue
                terms = _terms(held, now)
                if held.header.groups:
                    grouped.append(held)
                if held.deadline is None:
                    alike[like] = terms
            order = Order._make((held.number, held.full_id, task.blob, task.cursor, *terms))
            if order.alone or (task.record.deliveries > 1 and not order.on_permit):
                # The latter was handed out before, and nobody knows whether it started. It may have killed that worker
                # within its first second, before any renewal: from now on its deaths count.
                carefully.add(held.number)
            orders.setdefault(held.kind, []).append(order)
            in_order.append((held, order))
        unread = self.groups.unread(grouped)
        if carefully or unread:
            # The whole window waits for the record: those that were rescued stand in front, and must not lose their
            # slots to what stands behind them. Likewise for what the server says of their groups.
            self._spawn_start(self._start_recorded(in_order, carefully, unread))
        else:
            for kind, batch in orders.items():
                state.put(kind, batch, lent=lent)
        state.lend.set()  # what came may be what a task waits for
        return claim.sizes

    def record_starts(self, numbers: Iterable[int]) -> None:
        """Record the starts of these, for which a pool has free slots, and permit them."""
        for number in numbers:
            held = self._state.ledger.tasks.get(number)
            if held is None or held.ended:
                continue
            queue = held.claim.queue
            self._to_permit.setdefault(queue, []).append(held)
            if queue not in self._recording:
                self._recording.add(queue)
                self._spawn_start(self._permit(queue))

    def cancel_starts(self) -> None:
        """Give back what waits for its start to be recorded: a drain began first."""
        for start in self._starting:
            start.cancel()

    def _spawn_start(self, starting: Coroutine[Any, Any, None]) -> None:
        start = self._state.spawn(starting)
        self._starting.add(start)
        start.add_done_callback(self._starting.discard)

    def give_back(self, queue: str) -> None:
        """Give back what has not started of a queue whose server is away: its lease must not hold up the others'.

        What else waits in the same pools is taken back with it, and is claimed again at once.
        """
        state = self._state
        mine = [held for held in state.ledger.tasks.values() if held.claim.queue == queue and not held.ended]
        pools = [state.pools[kind] for kind in {held.kind for held in mine}]
        running = {task.number for pool in pools for task in pool.running()}
        if all(held.number in running for held in mine):
            return
        recalled = [number for pool in pools for number in pool.recall()]
        waiting = [held.number for held in mine if not state.pools[held.kind].holds(held.number)]
        # In the order in which they were claimed, so that they stand in their line as before.
        for number in sorted({*recalled, *waiting}):
            held = state.ledger.tasks.get(number)
            if held is not None and not held.ended:
                self._bury(held, RELEASE)

    @faultpoints.before("stop.begin")
    def stop(self, queue: str, claim: str, task_id: str, order: StopOrder) -> None:
        """Pass a stop on to a held task; keep one for a task that is not here yet for one lease."""
        state = self._state
        held = state.ledger.by_id.get(f"{queue}:{task_id}")
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

    def _hold(self, task: Claimed, claim: OpenClaim, lent: bool) -> tuple[Held, str]:
        """Enter a task in the ledger; also return why its header cannot be read, if it cannot."""
        state = self._state
        kind: PoolKind
        unreadable = ""
        try:
            header = codec.read_header(task.blob)
            kind = self._kinds.get(task.blob[8:9]) or self._kind_of(task.blob)
        except DecodeError as error:
            header, kind, unreadable = UNREADABLE, state.settings.pool, str(error)
            # Its outcome begins with its digest, and has other fields at fixed places behind that.
            task = task._replace(blob=task.blob.ljust(8, b"\0"))
        full_id = f"{claim.queue}:{task.id}"
        before = state.ledger.by_id.get(full_id)
        if before is not None and not before.ended:
            # Its lease lapsed in an outage, and this very call put it back and handed it out anew. The new claim is the
            # proof that the old one is lost; what runs under that must end before it may start once more.
            state.emit(
                "claim.lost", level="error", claim=before.claim.id, queue=claim.queue, tasks=1, first=before.full_id,
                note="its lease lapsed while Redis did not answer; what runs of it is killed, and it runs again",
            )  # fmt: skip
            state.fence([before])
        held = Held(state.ledger.next_number(), task, claim, header, kind, full_id)
        if lent:
            held.lent = True
        state.ledger.add(held)
        return held, unreadable

    def _kind_of(self, blob: bytes) -> PoolKind:
        """Return the pool that a task needs; looked up once for each of the twelve lines."""
        kind = self._state.kind_of(codec.line_of(blob).pool)
        if kind not in self._state.pools:
            kind = self._state.settings.pool  # it was not asked for; let it run where it can
        self._kinds[blob[8:9]] = kind
        return kind

    def _may_run(self, held: Held, unreadable: str, now: float) -> bool:
        """Say whether a task is to be run here now; one that is not is on its way out."""
        task, header = held.task, held.header
        if unreadable:
            self._bury(held, Verdict(TaskState.FAILED, How.NEVER_STARTED, f"its header cannot be read: {unreadable}"))
            return False
        remaining_ms = None if held.deadline is None else int((held.deadline - now) * 1000)
        verdict = on_claim(task.record, header, remaining_ms=remaining_ms)
        early = self._early_stops.pop((held.claim.id, task.id), None) if self._early_stops else None
        if verdict is None and early is not None:
            held.stop = early[0]
            verdict = STOPPED
        if verdict is None and self.groups.stopped_of(held):
            verdict = GROUP_STOPPED
        if verdict is not None:
            self._bury(held, verdict)
            return False
        if header.name not in self._state.names:
            self._park(held)
            return False
        return True

    def _bury(self, held: Held, verdict: Verdict) -> None:
        self._state.ledger.end(held)
        self._settler.put(held, verdict)

    def _park(self, held: Held) -> None:
        if self._state.saw_unknown(held.header.name):
            self._state.emit(
                "task.unknown", level="warning", task=held.full_id, name=held.header.name,
                note="no task of this name is registered here; it waits for a worker that knows it",
            )  # fmt: skip
            self.changed()
        self._state.parked_until = time.monotonic() + PARK_MS / 1000
        self._state.ledger.end(held)
        self._settler.put_raw(held, Park(held.task.id, held.claim.id, PARK_MS))

    async def _start_recorded(self, starts: list[tuple[Held, Order]], carefully: set[int], unread: list[str]) -> None:
        """Read the groups, record the starts that must count before they happen; then run."""
        if unread:
            await self.groups.read_before_start(unread)
        first = [held for held, _ in starts if held.number in carefully]
        if not first or await self._record(first[0].claim.queue, first):  # else their claim, which is one, is lost
            self._start(starts)

    async def _permit(self, queue: str) -> None:
        """Record the starts of a queue that have been asked for, those that come meanwhile in one call; permit them."""
        state = self._state
        try:
            while wanted := self._to_permit.pop(queue, None):
                permitted: dict[PoolKind, list[int]] = {}
                for held in await self._record(queue, wanted):
                    permitted.setdefault(held.kind, []).append(held.number)
                for kind, numbers in permitted.items():
                    state.pools[kind].permit(numbers)
        finally:
            self._recording.discard(queue)

    async def _record(self, queue: str, starts: Sequence[Held]) -> list[Held]:
        """Record starts before they happen; return those whose claims are not lost, which they turn out to be here."""
        state = self._state
        claims = list(dict.fromkeys(held.claim.id for held in starts))
        started = [(held.claim.id, held.task.id, 0, held.header.delivery == "at_most_once") for held in starts]
        while True:
            sent = clock.now()
            witness = state.witness(queue)
            try:
                renewal = await self._broker.renew(
                    queue,
                    worker=state.id,
                    claims=claims,
                    started=started,
                    lease_ms=int(state.lease.lease_s * 1000),
                    expected_ms=witness.expected_ms(sent),
                    stalled=witness.stalled(queue, sent),
                )
                break
            except UNANSWERED:
                # Not started, so nothing is wrong: either the lease lapses and another worker has it, or Redis is back.
                await asyncio.sleep(0.2)
        # Of those that are lost the keeper meets the same answer, and lets their claims go.
        recorded = [held for held in starts if held.claim.id not in renewal.lost]
        for held in recorded:
            held.start_recorded = True
        return recorded

    def _start(self, starts: list[tuple[Held, Order]]) -> None:
        """Run what has waited, as far as it is still to be run."""
        orders: dict[PoolKind, list[Order]] = {}
        for held, order in starts:
            if held.ended or held.number not in self._state.ledger.tasks:
                continue
            group = self.groups.stopped_of(held)
            if group or held.stop is not None:
                self._bury(held, GROUP_STOPPED if group else STOPPED)
                continue
            orders.setdefault(held.kind, []).append(order)
        for kind, batch in orders.items():
            self._state.put(kind, batch, lent=starts[0][0].lent)
        self._state.lend.set()


def _terms(held: Held, now: float) -> Terms:
    header, record = held.header, held.task.record
    timeout_s = None if header.timeout_ms is None else header.timeout_ms / 1000
    deadline_s = None if held.deadline is None else held.deadline - now
    return (
        deadline_s, now, record.run, record.attempt, held.claim.fence, header.retries, timeout_s,
        header.name, header.grace_ms / 1000, record.losses > 0, header.interrupt,
        header.delivery == "at_most_once" and not record.losses,
    )  # fmt: skip
