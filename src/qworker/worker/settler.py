"""Record what became of tasks: one settle at a time per queue, of all that has gathered meanwhile.

    pools ──endings──► settler.put() ──► pending ──settle──► Redis ──► codes ──► ledger.drop()

The first outcome after a pause is written at once; while its call is under way the next ones gather: windows form by
themselves under load, and nothing waits for a timer when there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..broker.aio import AsyncBroker
from ..errors import BrokerError
from ..lifecycle import How, State
from ..model import Ending, Settle, StopOrder
from .blame import Verdict
from .ledger import Held, Ledger
from .outcomes import settle_of

MOST_PER_CALL = 512  # keeps one script within its 2 ms
MOST_BYTES = 4 << 20

Entry = tuple[Held, Settle, Ending | None, Verdict]


class Settler:
    """Writes verdicts to Redis until they are answered. Owned by the event loop."""

    def __init__(
        self,
        broker: AsyncBroker,
        ledger: Ledger,
        worker: str,
        *,
        now_ms: Callable[[], int],
        on_settled: Callable[[Held, Ending | None, Verdict, str], None],
        on_stops: Callable[[str, tuple[tuple[str, str, StopOrder], ...]], None],
        on_call: Callable[[bool, str], None],
    ) -> None:
        self._broker, self._ledger, self._worker = broker, ledger, worker
        self._now_ms = now_ms
        self._on_settled, self._on_stops, self._on_call = on_settled, on_stops, on_call
        self._pending: dict[str, list[Entry]] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """How many verdicts are not answered yet."""
        return sum(len(entries) for entries in self._pending.values())

    def put(self, held: Held, verdict: Verdict, ending: Ending | None = None) -> None:
        """Have a verdict recorded."""
        settle = settle_of(held, verdict, ending, worker=self._worker, now_ms=self._now_ms())
        self._add(held, settle, ending, verdict)

    def put_raw(self, held: Held, settle: Settle) -> None:
        """Have a way back settled that no verdict of blame leads to (a task put aside)."""
        self._add(held, settle, None, Verdict(back="release"))

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            for queue in list(self._pending):
                while self._pending.get(queue):
                    await self._settle(queue)
                self._pending.pop(queue, None)
            if not self._pending:
                self._idle.set()

    async def wait_empty(self) -> None:
        """Return once everything that was put has been answered."""
        await self._idle.wait()

    async def _settle(self, queue: str) -> None:
        entries = self._take(queue)
        resend, pause = False, 0.05
        while True:
            try:
                reply = await self._broker.settle(
                    queue, [settle for _, settle, _, _ in entries], worker=self._worker, resend=resend
                )
            except BrokerError as error:
                # Nothing is given up: the outcomes stay here, their claims are renewed as soon as Redis answers,
                # and the same settle is sent again. If the lease lapsed meanwhile it is refused, and said so.
                self._on_call(False, str(error))
                resend = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            break
        self._on_call(True, "")
        dropped = []
        for (held, _, ending, verdict), code in zip(entries, reply.codes, strict=True):
            if code == "stopped":
                # A stop arrived before this way back: the task is cancelled instead, under the same claim.
                how = verdict.how or (
                    How.NEVER_STARTED if ending is None or ending.kind == "unstarted" else How.NOTICED
                )
                self.put(held, Verdict(State.CANCELLED, how, "stopped before its next attempt"), ending)
                continue
            dropped.append(held.number)
            self._on_settled(held, ending, verdict, code)
        self._ledger.drop(dropped)
        if reply.stops:
            self._on_stops(queue, reply.stops)

    def _add(self, held: Held, settle: Settle, ending: Ending | None, verdict: Verdict) -> None:
        self._pending.setdefault(held.claim.queue, []).append((held, settle, ending, verdict))
        self._idle.clear()
        self._work.set()

    def _take(self, queue: str) -> list[Entry]:
        entries = self._pending[queue]
        size = count = 0
        ids: set[str] = set()
        for _, settle, _, _ in entries:
            # After an outage an id may wait here twice: under a claim that was lost, and under the one that followed.
            if settle.id in ids or count >= MOST_PER_CALL or size >= MOST_BYTES:
                break
            ids.add(settle.id)
            size += len(getattr(settle, "value", b""))
            count += 1
        taken, self._pending[queue] = entries[:count], entries[count:]
        return taken
