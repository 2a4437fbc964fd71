"""The task groups of what this worker holds: read before a task starts, and again each second; stopped ones end here.

    window ─► Dispatcher ─► unread() ─► read() ──► Redis: where each group stands
    push: a group was stopped ─► heard() ─┐
    every second ─► read(), all of them ──┴─► stopped: what is unstarted never starts, what runs is asked to end
    a task ended with a group of its own open ─► abandoned() ─► Redis: its owner is gone

A stop of a group is one field on the server, however many tasks it holds, so nobody tells a worker which of its tasks
are meant: their headers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from .. import clock
from ..broker.aio import AsyncBroker
from ..model import StopOrder
from .ledger import Held
from .state import UNANSWERED, State

EVERY_S = 1.0
FRESH_S = 1.5  # what was read longer ago must be read again before a task starts
LATE_S = 0.5  # how soon a group is looked at again whose owner may be gone
MOST_PER_CALL = 256
ENDED = frozenset({"stopped", "closed"})


@dataclass(slots=True)
class _Known:
    """What is known of one group."""

    state: str
    grace_ms: int | None
    at: float  # `clock`: when that was read


class Groups:
    """The groups of one worker. Owned by the event loop."""

    def __init__(self, state: State, broker: AsyncBroker) -> None:
        self._state, self._broker = state, broker
        self._known: dict[str, _Known] = {}
        self._abandoned: set[str] = set()  # their tasks have ended; the server is still to be told
        self._hurry = asyncio.Event()
        state.ledger.on_abandoned = self.abandoned

    async def run(self) -> None:
        """Follow the groups of what is held, until cancelled."""
        while True:
            self._hurry.clear()
            try:
                await self._tell_abandoned()
                await self._follow()
            except UNANSWERED:
                pass  # claims and renewals tell of the outage; stops wait on the server until it is over
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass  # the ordinary beat

    def unread(self, tasks: Iterable[Held]) -> list[str]:
        """Return the groups of these tasks of which it is not known where they stand now."""
        wanted = {group: None for held in tasks if held.header.extra for group in held.header.groups}
        if not wanted:
            return []
        fresh = clock.now() - FRESH_S
        return [group for group in wanted if not self._is_fresh(group, fresh)]

    async def read_before_start(self, groups: list[str]) -> None:
        """Read where groups stand, until all of them say whether their tasks may start.

        While an owner may be gone nobody knows: that takes a few seconds. Nothing starts while Redis does not answer.
        """
        while True:
            try:
                await self._read(groups)
            except UNANSWERED:
                pass  # the lease of what waits here lapses, or Redis is back
            else:
                groups = [group for group in groups if self._known[group].state == "late"]
                if not groups:
                    return
            await asyncio.sleep(LATE_S)

    def stopped_of(self, held: Held) -> str:
        """Return which of a task's groups was stopped; empty: none."""
        if self._known and held.header.extra:
            for group in held.header.groups:
                known = self._known.get(group)
                if known is not None and known.state in ENDED:
                    return group
        return ""

    def heard(self, group: str, grace_ms: int | None) -> None:
        """A push says that a group was stopped. Kept for a while even if nothing of it is here yet."""
        self._note(group, "stopped", grace_ms)

    def abandoned(self, groups: Iterable[str]) -> None:
        """Whoever opened these groups has ended without leaving them."""
        self._abandoned.update(groups)
        self._hurry.set()

    def _is_fresh(self, group: str, since: float) -> bool:
        known = self._known.get(group)
        return known is not None and known.state != "late" and (known.at >= since or known.state in ENDED)

    async def _tell_abandoned(self) -> None:
        for group in list(self._abandoned):
            await self._broker.stop_group(group, gone=True)
            self._abandoned.discard(group)

    async def _follow(self) -> None:
        """Renew the groups that tasks here have opened, and read those that tasks here belong to."""
        opened: set[str] = set()
        joined: set[str] = set()
        for held in self._state.ledger.tasks.values():
            if held.ended:
                continue
            opened |= held.groups
            joined.update(held.header.groups)
        for part in _parts(sorted(opened)):
            await self._broker.beat_groups(part)
        await self._read(sorted(joined))
        # Pushes for groups that are not here (yet) are kept for a moment: a claim's reply may be on its way.
        old = clock.now() - 2 * FRESH_S
        self._known = {group: known for group, known in self._known.items() if group in joined or known.at >= old}

    async def _read(self, groups: list[str]) -> None:
        for part in _parts(groups):
            states = await self._broker.read_groups(part)
            for group, (state, grace_ms) in zip(part, states, strict=True):
                self._note(group, state, grace_ms)

    def _note(self, group: str, state: str, grace_ms: int | None) -> None:
        known = self._known.get(group)
        if known is not None and known.state in ENDED and state not in ENDED:
            return  # the push overtook the answer to a question from before the stop
        self._known[group] = _Known(state, grace_ms, clock.now())
        if state in ENDED and (known is None or known.state not in ENDED or known.grace_ms != grace_ms):
            self._stop(group, grace_ms)

    def _stop(self, group: str, grace_ms: int | None) -> None:
        """End what is here of a group; what is about to be started finds out by itself."""
        state = self._state
        for held in list(state.ledger.tasks.values()):
            if held.ended or group not in held.header.groups:
                continue
            if held.stop is None:
                held.stop = StopOrder(grace_ms)
            state.emit("task.stop", task=held.full_id, name=held.header.name, group=group)
            state.ask(held.number, "stop", None if grace_ms is None else grace_ms / 1000)
            state.mark_soon.set()


def _parts(groups: list[str]) -> Iterable[list[str]]:
    for start in range(0, len(groups), MOST_PER_CALL):
        yield groups[start : start + MOST_PER_CALL]
