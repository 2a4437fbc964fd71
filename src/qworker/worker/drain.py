"""End in order: give back what never started, let what runs finish, then the ladder; leave no process behind.

    quiet ─► recall, release (at once) ─► wait for what runs (drain timeout) ─► ask ─► force ─► settle ─► close

The whole of it fits into 28 s by default, inside the 30 s that Kubernetes grants: 20 s for what runs, 5 s of grace at
most, 2 s to record, and the rest to close. A second signal skips the waiting, a third the grace.

A claim that is under way when the drain begins may still bring a window: the dispatcher gives it back unstarted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .. import faultpoints
from .blame import RELEASE
from .collect import Collector
from .dispatch import Dispatcher
from .fetcher import Fetcher
from .lender import Lender
from .settler import Settler
from .signals import Signals
from .state import Phase, State

GRACE_CAP_S = 5.0
SETTLE_S = 2.0
CLOSE_S = 0.5
LOOK_S = 0.25  # how often the wait for what runs looks by itself: the wake-up is shared with the fetcher


class Drain:
    """The orderly end of one worker."""

    def __init__(
        self,
        state: State,
        fetcher: Fetcher,
        lender: Lender,
        dispatcher: Dispatcher,
        collector: Collector,
        settler: Settler,
        signals: Signals,
    ) -> None:
        self._state, self._fetcher, self._lender, self._dispatcher = state, fetcher, lender, dispatcher
        self._collector, self._settler, self._signals = collector, settler, signals

    @faultpoints.before("drain.begin")
    async def run(self, *, changed: Callable[[], None]) -> None:
        """Drain; returns when every child has ended and everything that can be recorded is."""
        state = self._state
        state.phase = Phase.DRAINING
        state.wake.set()
        changed()
        await self._fetcher.hush()
        self._give_back()
        running = self._running()
        state.emit("worker.draining", running=len(running), wait_s=state.settings.drain_timeout_s)
        if running and not self._signals.stop.is_set():
            await self._wait_for_end(state.settings.drain_timeout_s, self._signals.stop)
        if running := self._running():
            await self._force(running)
        # A thread that would not stop ends with its child; only then may its task run elsewhere.
        close_s = 0.0 if self._signals.kill.is_set() else CLOSE_S
        await asyncio.gather(*(pool.close(kill_after_s=close_s) for pool in state.pools.values()))
        self._collector.children_gone()
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._fetcher.rest()
                await self._lender.idle.wait()
                await self._settler.wait_empty()
        except TimeoutError:
            state.emit(
                "worker.unsettled", level="error", tasks=self._settler.pending,
                note="Redis did not answer: these tasks run again when this worker's lease lapses",
            )  # fmt: skip

    def _give_back(self) -> None:
        """Release everything that has not started: it is back in its place within a second."""
        state = self._state
        self._dispatcher.cancel_starts()
        recalled = [number for pool in state.pools.values() for number in pool.recall()]
        # What a pool still holds runs, or is about to: its child has taken its token. The rest never came to a pool.
        waiting = [
            number for number, held in state.ledger.tasks.items()
            if not held.ended and not state.pools[held.kind].holds(number)
        ]  # fmt: skip
        # In the order in which they were claimed, so that they stand in their line as before.
        for number in sorted({*recalled, *waiting}):
            held = state.ledger.tasks.get(number)
            if held is not None and not held.ended:
                state.ledger.end(held)
                self._settler.put(held, RELEASE)

    def _running(self) -> list[int]:
        outlived = self._collector.outlived
        return [n for n, held in self._state.ledger.tasks.items() if not held.ended and n not in outlived]

    async def _force(self, running: list[int]) -> None:
        state = self._state
        state.emit("worker.stopping", level="warning", running=len(running), grace_s=GRACE_CAP_S,
                   note="these tasks are asked to stop, then killed; they run again elsewhere")  # fmt: skip
        grace = 0.0 if self._signals.kill.is_set() else None
        for number in running:
            own = state.ledger.tasks[number].header.grace_ms / 1000
            state.ask(number, "drain", min(own, GRACE_CAP_S) if grace is None else grace)
        await self._wait_for_end(GRACE_CAP_S + 1.0, self._signals.kill)
        if self._signals.kill.is_set():
            for number in self._running():
                state.ask(number, "drain", 0.0)
            await self._wait_for_end(1.0, None)

    async def _wait_for_end(self, timeout_s: float, cut_short: asyncio.Event | None) -> None:
        """Wait until nothing runs, at most `timeout_s`, or until a further signal cuts it short."""
        try:
            async with asyncio.timeout(timeout_s):
                cut = asyncio.ensure_future(cut_short.wait()) if cut_short is not None else None
                try:
                    while self._running() and not (cut is not None and cut.done()):
                        self._state.wake.clear()
                        wake = asyncio.ensure_future(self._state.wake.wait())
                        waits = {wake, cut} if cut is not None else {wake}
                        await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                        wake.cancel()
                finally:
                    if cut is not None:
                        cut.cancel()
        except TimeoutError:
            pass  # the caller goes one step further up the ladder
