"""Keep the leases: renew every claim once a second, in one call mostly, and act on what the reply brings.

    claims, started, notes ──renew──► Redis ──► lost claims ──► kill, drop
                                           └──► pending stops ──► dispatcher.stop()

While renewals go unanswered, what runs goes on; nothing new starts after `lease.start_until` (each child's page holds
that instant), and tasks can see `current.lease_uncertain`. The first confirmed loss kills.

Where one server of several is away, what has not started of its queues goes back: once nothing of them runs any more,
the others' answers are all that counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from .. import clock
from ..broker.aio import AsyncBroker
from ..model import StopOrder
from .dispatch import Dispatcher
from .ledger import Held, OpenClaim
from .notes import Written
from .state import UNANSWERED, OnCall, State

RENEW_S = 1.0
AGAIN_S = 0.1  # after one without an answer: that took a third of a lease, and another worker may rescue soon
NOTES_PER_CALL = 512  # keeps one script within some milliseconds
CLAIMS_PER_CALL = 512  # within one
RUNNING_AFTER_S = 1.0  # short tasks never pay for the `running` mark


class Keeper:
    """Renews the worker's claims. Owned by the event loop."""

    def __init__(self, state: State, broker: AsyncBroker, dispatcher: Dispatcher, *, on_call: OnCall) -> None:
        self._state, self._broker, self._dispatcher, self._on_call = state, broker, dispatcher, on_call
        self._every_s = min(RENEW_S, state.lease.lease_s / 5)
        self._uncertain = False
        # By queue, where others are on other servers: it did not answer, and is asked beside them until it does.
        self._silent: dict[str, asyncio.Task[None] | None] = {}

    async def run(self) -> None:
        """Renew until cancelled."""
        try:
            await self._run()
        finally:
            for call in self._silent.values():
                if call is not None:
                    call.cancel()

    async def _run(self) -> None:
        state, wait_s = self._state, self._every_s
        while True:
            slept = clock.now()
            try:
                async with asyncio.timeout(wait_s):
                    await state.mark_soon.wait()
            except TimeoutError:
                pass  # the ordinary beat
            state.mark_soon.clear()
            # Said first, because the calls that were under way will now blame the server.
            self._note_stop(clock.now() - slept - wait_s)
            sent = clock.now()
            wait_s = self._every_s if await self.renew() else min(self._every_s, AGAIN_S)
            # Or it was this call that was under way: that gives up after a third of a lease.
            self._note_stop(clock.now() - sent - state.lease.lease_s / 3)

    def _note_stop(self, stood_s: float) -> None:
        """Something took so much longer than it may: for half a lease and more, that was this process or its host."""
        state = self._state
        if stood_s <= state.lease.lease_s / 2:
            return
        state.emit(
            "worker.stood_still", level="warning", stood_s=round(stood_s, 1),
            note="this process or its host was stopped, or got no processor time; its leases may have lapsed",
        )  # fmt: skip
        for pool in state.pools.values():
            pool.look_again()

    async def renew(self) -> bool:
        """Renew every open claim once, and say whether all who were waited for answered."""
        state = self._state
        by_queue, notes = state.ledger.claims_by_queue(), state.notes.gather(state.pools)
        if not by_queue:
            self._say_uncertain(False)
            return True
        sent = clock.now()
        state.lease.renewing()
        marks = self._to_mark()
        self._silent = {queue: call for queue, call in self._silent.items() if call is not None or queue in by_queue}
        calls: dict[str, Coroutine[Any, Any, bool]] = {}
        for queue, claims in by_queue.items():
            asked = queue, claims, marks.get(queue, []), notes.get(queue, [])
            if queue not in self._silent:
                calls[queue] = self._renew_queue(*asked)
            elif self._silent[queue] is None:
                self._silent[queue] = state.spawn(self._renew_silent(*asked))
        answers = dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))
        failed = [queue for queue, answered in answers.items() if not answered]
        if failed and state.apart({*state.queues, *by_queue}):
            for queue in failed:
                self._silent[queue] = None
                self._dispatcher.give_back(queue)
        # What has ended only waits to be settled: its lease allows nothing.
        doubtful = [claim for queue, claims in by_queue.items() if not answers.get(queue) for claim in claims]
        if any(answers.values()) and not any(claim.running for claim in doubtful):
            state.lease.renewed(sent)
            state.allow()
        self._say_uncertain(state.lease.uncertain(clock.now()))
        return all(answers.values())

    async def _renew_silent(
        self, queue: str, claims: list[OpenClaim], marks: list[tuple[Held, float]], notes: list[Written]
    ) -> None:
        answered = False
        try:
            answered = await self._renew_queue(queue, claims, marks, notes)
        finally:
            self._silent[queue] = None
        if answered:
            del self._silent[queue]
            self._state.mark_soon.set()  # the next one is for all again
        else:
            self._dispatcher.give_back(queue)  # a claim may have been answered in between

    async def _renew_queue(
        self, queue: str, claims: list[OpenClaim], marks: list[tuple[Held, float]], notes: list[Written]
    ) -> bool:
        # Of thousands of tasks that tell something the first go with the renewal itself, which nothing may hold up.
        notes, later = notes[:NOTES_PER_CALL], notes[NOTES_PER_CALL:]
        for first in range(0, len(claims), CLAIMS_PER_CALL):
            if not await self._renew_some(queue, claims[first : first + CLAIMS_PER_CALL], marks, notes):
                return False
            marks, notes = [], []
        if later:
            await self._write_notes(queue, later)
        return True

    async def _renew_some(
        self, queue: str, claims: list[OpenClaim], marks: list[tuple[Held, float]], notes: list[Written]
    ) -> bool:
        state, witness, sent = self._state, self._state.witness(queue), clock.now()
        stalled = witness.stalled(queue, sent)
        witness.asked(sent)
        try:
            renewal = await self._broker.renew(
                queue,
                worker=state.id,
                claims=[claim.id for claim in claims],
                started=[
                    (held.claim.id, held.task.id, int(ran_s * 1000), held.header.delivery == "at_most_once")
                    for held, ran_s in marks
                ],
                notes=[written.note for written in notes],
                lease_ms=int(state.lease.lease_s * 1000),
                expected_ms=witness.expected_ms(sent),
                stalled=stalled,
            )  # fmt: skip
        except UNANSWERED as error:
            witness.unanswered()
            self._on_call(queue, error)
            return False
        state.hear(witness, queue, sent, renewal.now_ms, told=stalled)
        self._on_call(queue, None)
        state.see_epoch(queue, renewal.epoch)
        for held, _ in marks:
            held.start_recorded = True
        state.notes.kept(notes)
        for claim_id in renewal.lost:
            self._lose(claim_id)
        self.stops(queue, renewal.stops)
        return True

    async def _write_notes(self, queue: str, notes: list[Written]) -> None:
        """Write what had no place in the renewal. What is not answered comes with the next one."""
        state = self._state
        for first in range(0, len(notes), NOTES_PER_CALL):
            some = notes[first : first + NOTES_PER_CALL]
            try:
                await self._broker.renew(
                    queue,
                    worker=state.id,
                    claims=(),
                    notes=[written.note for written in some],
                    lease_ms=int(state.lease.lease_s * 1000),
                )
            except UNANSWERED as error:
                self._on_call(queue, error)
                return
            state.notes.kept(some)

    def stops(self, queue: str, stops: tuple[tuple[str, str, StopOrder], ...]) -> None:
        """Pass on the stops that a reply brought."""
        for claim, task_id, order in stops:
            self._dispatcher.stop(queue, claim, task_id, order)

    def _lose(self, claim_id: str) -> None:
        """Let a lost claim go: whatever of it runs here is another worker's now, and is killed."""
        state = self._state
        claim = state.ledger.claims.get(claim_id)
        if claim is None:
            return  # settled while the renewal was under way
        tasks = state.ledger.tasks
        running = [tasks[number] for number in sorted(claim.numbers) if not tasks[number].ended]
        # What has ended waits in the settler: its settle will be refused by the server, and said so.
        if running:
            state.emit(
                "claim.lost", level="error", claim=claim_id, queue=claim.queue, tasks=len(running),
                first=running[0].full_id,
                note="the server knows this claim no more, so its tasks are others': what runs of them here is killed",
            )  # fmt: skip
            state.fence(running)

    def _to_mark(self) -> dict[str, list[tuple[Held, float]]]:
        """Return, by queue, what has run for a second (or was asked to stop) and is not yet recorded as running."""
        state = self._state
        marks: dict[str, list[tuple[Held, float]]] = {}
        now = time.monotonic()
        # Whoever asked for a stop wants to know whether it runs, and asks Redis. For the others the pages, which are
        # many with a thousand slots, are read only if something here is old enough.
        if not any(
            not held.start_recorded
            and not held.ended
            and (held.stop is not None or now - held.claim.opened >= RUNNING_AFTER_S)
            for held in state.ledger.tasks.values()
        ):
            return marks
        for pool in state.pools.values():
            for task in pool.running():
                held = state.ledger.tasks.get(task.number)
                if held is None or held.start_recorded:
                    continue
                if task.ran_s >= RUNNING_AFTER_S or held.stop is not None:
                    marks.setdefault(held.claim.queue, []).append((held, task.ran_s))
        return marks

    def _say_uncertain(self, uncertain: bool) -> None:
        if uncertain == self._uncertain:
            return
        self._uncertain = uncertain
        if uncertain:
            self._state.emit(
                "lease.uncertain", level="error",
                note="Redis has not answered a renewal: running tasks go on, nothing new starts until it does",
            )  # fmt: skip
        else:
            self._state.emit("lease.certain", note="the claims are renewed again")
