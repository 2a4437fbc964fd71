"""From the pools to the settler: what became of each task, judged by blame, told to the log.

    pool ──Ending──► Collector.endings() ──Verdict──► settler ──answered──► Collector.settled() ──► log

Implements the pool's `Events`. Called on the event loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import clock, faultpoints
from ..lifecycle import State as TaskState
from ..log import Emit
from ..model import Ending, PoolKind
from .blame import SUCCESS, Verdict, how_of, on_ending
from .ledger import Held
from .outcomes import error_line, last_place
from .settler import Settler
from .state import Phase, State
from .waits import Waits


class Successes:
    """Keeps successes from flooding the log: a hundred lines a second, then one line that counts the rest.

    Nothing else is ever counted instead of told; `--log-level debug` (`every`) shows each of these, too.
    """

    MOST_LINES = 100

    def __init__(self, emit: Emit, *, every: bool = False) -> None:
        self._emit = emit
        self._every = every
        self._left = 0
        self._second_ends = 0.0
        self._untold = 0

    def tell(self, held: Held, ran_s: float | None) -> None:
        """Tell of one more success, or count it."""
        level = self.level()
        if level == "info" or self._every:
            self._emit(
                "task.ended", level=level, task=held.full_id, name=held.header.name, outcome="succeeded", ran_s=ran_s
            )

    def level(self) -> str:
        """Return the level for one more success."""
        if self._untold:
            self._untold += 1  # the second is not over: its end counts them
            return "debug"
        if self._left == 0:
            now = time.monotonic()
            if now < self._second_ends:
                self._untold += 1
                if self._untold == 1:
                    asyncio.get_running_loop().call_later(self._second_ends - now, self.tell_rest)
                return "debug"
            self._second_ends, self._left = now + 1.0, self.MOST_LINES
        self._left -= 1
        return "info"

    def tell_rest(self) -> None:
        """Count what had no line of its own."""
        if self._untold:
            self._emit("tasks.succeeded", count=self._untold, note="beside those that have a line of their own")
            self._untold = 0


class Collector:
    """What the pools tell, turned into verdicts."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.settler: Settler | None = None  # joined by the daemon: the settler reports back here
        self._successes = Successes(state.emit, every=state.settings.log_level == "debug")
        self.waits = Waits(state)
        self.changed: Callable[[], None] = lambda: None  # likewise: the beacon's
        self.stopped_group_of: Callable[[Held], str] = lambda _: ""  # likewise: the groups'
        self.record_starts: Callable[[Sequence[int]], None] = lambda _: None  # likewise: the dispatcher's
        # While draining, a thread that would not stop runs until its child is killed: such tasks go back after that.
        self.outlived: dict[int, tuple[Held, Ending]] = {}

    # What a pool calls.

    def endings(self, endings: Sequence[Ending]) -> None:
        """Judge what ended and have it settled; a recalled task only goes back."""
        state, settler = self._state, self.settler
        assert settler is not None
        now, ended_ms = time.monotonic(), state.server_ms()
        tasks, end, waits = state.ledger.tasks, state.ledger.end, self.waits
        stalled: set[PoolKind] = set()
        for ending in endings:
            held = tasks.get(ending.number)
            if waits:
                waits.gone(ending.number)
            if held is None or held.ended:
                continue  # its claim was lost: whatever it did, another worker decides
            kind = ending.kind
            if ending.asked == "drain":
                if kind == "left_running":
                    self.outlived[held.number] = (held, ending)
                    continue
                if kind == "killed":
                    state.killed += 1
            if kind == "unstarted" and ending.detail == "stalled" and not held.lent:
                stalled.add(held.kind)
            verdict = SUCCESS if kind == "returned" else self._judge(held, ending)
            end(held)
            claim = held.claim
            if ending.ran_s:
                claim.ran_s += ending.ran_s
            if claim.running == 0:
                for pool, size in claim.sizes.items():
                    state.rooms[pool].drained(size, now - claim.opened, claim.ran_s)
            settler.put(held, verdict, ending, ended_ms=ended_ms)
        for pool in stalled:
            state.rooms[pool].recalled()  # once, however many came back: they were one window too many
        state.wake.set()

    def children_gone(self) -> None:
        """The drain has ended every child: what would not stop does not run any more, and may run elsewhere."""
        ended = [ending._replace(kind="killed") for _, ending in self.outlived.values()]
        self.outlived.clear()
        # No pool knows of these, and their code, if it ever ran, ran in children that are gone.
        left = [n for n, held in self._state.ledger.tasks.items() if not held.ended]
        known = {ending.number for ending in ended}
        ended += [Ending(number, "killed", asked="drain") for number in left if number not in known]
        self.endings(ended)

    def permit_wanted(self, numbers: Sequence[int]) -> None:
        """Have the starts of tasks recorded that may start only once, before they do."""
        self.record_starts(numbers)

    def started(self, numbers: Sequence[int]) -> None:
        """Nothing to record: a start becomes `running` with the first renewal after a second."""

    def output(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None) -> None:
        """Log what a task printed or logged."""
        held = self._state.ledger.tasks.get(number)
        given = fields or {}
        level = str(given.get("level", "info")).lower()
        # What user code names its fields is its own affair: ours win.
        line = {str(key): value for key, value in given.items() if key != "level"} | {"stream": stream, "text": text}
        if held is not None:
            line |= {"task": held.full_id, "name": held.header.name}
        self._state.emit("task.output", level=level, **line)

    def waiting(self, number: int, ids: list[str], more: bool) -> None:
        """A task waits for others."""
        held = self._state.ledger.tasks.get(number)
        if held is not None and not held.ended:
            self.waits.begin(held, ids, more=more)

    def resumed(self, number: int) -> None:
        """It waits no longer."""
        self.waits.end(number)

    def cursor(self, number: int, cursor: bytes) -> None:
        """Note how far a task's `current.iterate` has come."""
        held = self._state.ledger.tasks.get(number)
        if held is not None:
            held.cursor = cursor
            self._state.notes.cursor(held)

    def progressed(self, number: int, slot: int) -> None:
        """Note that a task tells its progress: the renewals pass it on."""
        held = self._state.ledger.tasks.get(number)
        if held is not None:
            self._state.notes.progressed(held, slot)

    def group(self, number: int, id: str, opened: bool) -> None:  # noqa: A002 - the public word
        """A task opened a group, or left its block."""
        held = self._state.ledger.tasks.get(number)
        if held is not None:
            held.groups = held.groups | {id} if opened else held.groups - {id}

    def event(self, name: str, level: str, **fields: Any) -> None:
        """Log what happened to children, slots and survivors, and count it."""
        self._state.counters[name] += 1
        self._state.emit(name, level=level, **fields)
        if name.startswith(("survivor.", "child.")):
            self.changed()

    @faultpoints.before("stop.end", when=lambda _self, _held, ending: ending.asked == "stop")
    def _judge(self, held: Held, ending: Ending) -> Verdict:
        remaining_ms = None if held.deadline is None else int((held.deadline - clock.now()) * 1000)
        verdict = on_ending(ending, held.task.record, held.header, remaining_ms=remaining_ms, jitter=random.random)
        if verdict.back is not None and (group := self.stopped_group_of(held)):
            return Verdict(TaskState.CANCELLED, how_of(ending), f"group {group} was stopped")
        return verdict

    # What the settler calls.

    def settled(self, held: Held, ending: Ending | None, verdict: Verdict, code: str) -> None:
        """Log a transition that Redis has answered."""
        state, outcome = self._state, verdict.outcome
        if self.waits:
            self.waits.settled(held.full_id, ended=outcome is not None and code != "lost")
        if outcome is TaskState.SUCCEEDED and ending is not None and code != "lost":
            state.counters["succeeded"] += 1
            self._successes.tell(held, ending.ran_s)
            return
        attempt = held.task.record.attempt
        if code == "lost":
            state.counters["refused"] += 1
            state.emit(
                "outcome.refused", level="warning", task=held.full_id, name=held.header.name, claim=held.claim.id,
                note="the claim that held this task was lost; another worker decides its outcome",
            )  # fmt: skip
            return
        if outcome is None:
            self._log_way_back(held, ending, verdict, attempt)
            return
        how = verdict.how
        state.counters[outcome.value] += 1
        state.emit(
            "task.ended", level="warning", task=held.full_id, name=held.header.name, outcome=outcome.value,
            how=None if how is None else how.value, attempt=attempt, ran_s=ending.ran_s if ending else None,
            took_s=ending.took_s if ending else None, reason=verdict.reason or None, error=error_line(ending) or None,
            at=last_place(ending),
        )  # fmt: skip

    def _log_way_back(self, held: Held, ending: Ending | None, verdict: Verdict, attempt: int) -> None:
        state = self._state
        state.counters[verdict.back or "release"] += 1
        if verdict.back == "again":
            state.owed_until = max(state.owed_until, time.monotonic() + verdict.delay_ms / 1000)
            state.emit(
                "task.retry", level="warning", task=held.full_id, name=held.header.name, attempt=attempt,
                of=held.header.retries + 1, again_in_s=verdict.delay_ms / 1000, reason=verdict.reason or None,
                error=error_line(ending) or None, at=last_place(ending),
            )  # fmt: skip
        elif verdict.back == "lose":
            state.emit(
                "task.lost_child", level="warning", task=held.full_id, name=held.header.name, attempt=attempt,
                reason=verdict.reason, note="it runs again, apart from others",
            )  # fmt: skip
        else:
            level = "info" if state.phase is Phase.DRAINING else "debug"
            state.emit("task.released", level=level, task=held.full_id, name=held.header.name)
