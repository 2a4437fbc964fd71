"""Record what became of tasks: one settle at a time per queue, of all that has gathered meanwhile.

    pools ──endings──► settler.put() ──► lane of its queue ──settle──► Redis ──► codes ──► ledger.drop()

The first outcome after a pause is written at once; while its call is under way the next ones gather: windows form by
themselves under load, and nothing waits for a timer when there is none. Queues do not wait for each other. The settle
after which the worker is idle leaves a claim, too: see standing.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..broker.aio import AsyncBroker
from ..broker.values import SettleReply
from ..lifecycle import State
from ..model import End, Ending, Settle, StopOrder
from .blame import Verdict, how_of
from .ledger import Held, Ledger
from .outcomes import settle_of
from .standing import Standing
from .state import UNANSWERED, OnCall

MOST_PER_CALL = 512  # keeps one script within its 2 ms
MOST_BYTES = 4 << 20
PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0

Entry = tuple[Held, Settle, Ending | None, Verdict]


class _Lane:
    """What waits to be settled in one queue."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.entries: list[Entry] = []
        self.under_way = 0  # entries of the call that is not answered yet; they are in `entries` no more
        self.work = asyncio.Event()

    def take(self) -> list[Entry]:
        """Take what the next call settles."""
        entries = self.entries
        size = count = 0
        ids: set[str] = set()
        for _, settle, _, _ in entries:
            # After an outage an id may wait here twice: under a claim that was lost, and under the one that followed.
            if settle.id in ids or count >= MOST_PER_CALL or size >= MOST_BYTES:
                break
            ids.add(settle.id)
            if type(settle) is End:
                size += len(settle.value) + len(settle.rest)
            count += 1
        taken, self.entries = entries[:count], entries[count:]
        self.under_way = count
        return taken


class Settler:
    """Writes verdicts to Redis until they are answered. Owned by the event loop."""

    def __init__(
        self,
        broker: AsyncBroker,
        ledger: Ledger,
        worker: str,
        standing: Standing,
        *,
        now_ms: Callable[[], int],
        on_settled: Callable[[Held, Ending | None, Verdict, str], None],
        on_stops: Callable[[str, tuple[tuple[str, str, StopOrder], ...]], None],
        on_call: OnCall,
        on_empty: Callable[[], None],
    ) -> None:
        self._broker, self._ledger, self._worker, self._standing = broker, ledger, worker, standing
        self._now_ms = now_ms
        self._on_settled, self._on_stops, self._on_call = on_settled, on_stops, on_call
        self._on_empty = on_empty
        self._lanes: dict[str, _Lane] = {}  # by queue: those that are served, and those that running tasks wait for
        self._group: asyncio.TaskGroup | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """How many verdicts are not answered yet."""
        return sum(len(lane.entries) + lane.under_way for lane in self._lanes.values())

    def put(self, held: Held, verdict: Verdict, ending: Ending | None = None, *, ended_ms: int | None = None) -> None:
        """Have a verdict recorded."""
        if ended_ms is None:
            ended_ms = self._now_ms()
        settle = settle_of(held, verdict, ending, worker=self._worker, ended_ms=ended_ms)
        self._add((held, settle, ending, verdict))

    def put_raw(self, held: Held, settle: Settle) -> None:
        """Have a way back settled that no verdict of blame leads to (a task put aside)."""
        self._add((held, settle, None, Verdict(back="release")))

    async def run(self) -> None:
        """Settle until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for lane in self._lanes.values():
                self._open(self._group, lane)
            await asyncio.get_running_loop().create_future()  # lanes come as they are needed

    async def wait_empty(self) -> None:
        """Return once everything that was put has been answered."""
        await self._idle.wait()

    def _add(self, entry: Entry) -> None:
        queue = entry[0].claim.queue
        lane = self._lanes.get(queue)
        if lane is None:
            lane = self._lanes[queue] = _Lane(queue)
            if self._group is not None:
                self._open(self._group, lane)
        lane.entries.append(entry)
        if not lane.work.is_set():
            lane.work.set()
            self._idle.clear()

    def _open(self, group: asyncio.TaskGroup, lane: _Lane) -> None:
        group.create_task(self._serve(lane), name=f"settler of {lane.queue}")

    async def _serve(self, lane: _Lane) -> None:
        while True:
            await lane.work.wait()
            while lane.entries:
                entries = lane.take()
                reply = await self._settle(lane.queue, [entry[1] for entry in entries])
                self._on_call(lane.queue, None)
                self._heed(lane.queue, entries, reply)
                lane.under_way = 0
            lane.work.clear()
            if not self.pending:
                self._idle.set()

    async def _settle(self, queue: str, items: list[Settle]) -> SettleReply:
        stand = self._standing.offer(queue, ending=len(items))
        resend, pause = False, PAUSE_S
        while True:
            try:
                return await self._broker.settle(
                    queue, items, worker=self._worker, resend=resend, stand=None if resend else stand
                )
            except UNANSWERED as error:
                # Nothing is given up: the outcomes stay here, their claims are renewed as soon as Redis answers,
                # and the same settle is sent again. If the lease lapsed meanwhile it is refused, and said so.
                self._on_call(queue, error)
                resend = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            finally:
                self._standing.answered(stand)

    def _heed(self, queue: str, entries: list[Entry], reply: SettleReply) -> None:
        dropped = []
        for (held, _, ending, verdict), code in zip(entries, reply.codes, strict=True):
            if code == "stopped":
                # A stop arrived before this way back: the task is cancelled instead, under the same claim.
                self.put(held, Verdict(State.CANCELLED, how_of(ending), "stopped before its next attempt"), ending)
                continue
            dropped.append(held.number)
            self._on_settled(held, ending, verdict, code)
        self._ledger.drop(dropped)
        if not self._ledger.tasks:
            self._on_empty()  # who waits for an idle worker (a suspect, a burst) need not wait for a poll
        if reply.stops:
            self._on_stops(queue, reply.stops)
