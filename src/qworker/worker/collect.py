"""From the pools to the settler: what became of each task, judged by blame, told to the log.

    pool ──Ending──► Collector.endings() ──Verdict──► settler ──answered──► Collector.settled() ──► log

Implements the pool's `Events`. Called on the event loop.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..lifecycle import State as TaskState
from ..model import Ending
from .blame import Verdict, on_ending
from .ledger import Held
from .outcomes import error_line
from .settler import Settler
from .state import Phase, State

# The shutdown's own ends: the code was stopped by this worker, and the task goes back.
OURS = frozenset({"drain", "recycle", "fenced"})


class Collector:
    """What the pools tell, turned into verdicts."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.settler: Settler | None = None  # joined by the daemon: the settler reports back here
        self.changed: Callable[[], None] = lambda: None  # likewise: the beacon's
        # While draining, a thread that would not stop runs until its child is killed: such tasks go back after that.
        self.after_close: list[tuple[Held, Ending]] = []

    # What a pool calls.

    def endings(self, endings: Sequence[Ending]) -> None:
        """Judge what ended and have it settled; a recalled task only goes back."""
        state, settler = self._state, self.settler
        assert settler is not None
        now = time.monotonic()
        tasks = state.ledger.tasks
        for ending in endings:
            held = tasks.get(ending.number)
            if held is None or held.ended:
                continue  # its claim was lost: whatever it did, another worker decides
            if ending.asked in OURS and ending.kind == "left_running":
                self.after_close.append((held, ending))
                continue
            remaining_ms = None if held.deadline is None else int((held.deadline - now) * 1000)
            verdict = on_ending(ending, held.task.record, held.header, remaining_ms=remaining_ms, jitter=random.random)
            if ending.kind == "unstarted" and ending.detail == "stalled":
                state.rooms[held.kind].recalled()
            if ending.kind == "killed" and ending.asked in OURS:
                state.killed += 1
            state.ledger.end(held)
            self._measure(held, now)
            settler.put(held, verdict, ending)
        state.wake.set()

    def started(self, numbers: Sequence[int]) -> None:
        """Nothing to record: a start becomes `running` with the first renewal after a second."""

    def output(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None) -> None:
        """Log what a task printed or logged."""
        held = self._state.ledger.tasks.get(number)
        known = {} if held is None else {"task": held.full_id, "name": held.header.name}
        level = str((fields or {}).get("level", "info")).lower()
        rest = {key: value for key, value in (fields or {}).items() if key not in ("level", "task", "name")}
        self._state.emit("task.output", level=level, **known, stream=stream, text=text, **rest)

    def event(self, name: str, level: str, **fields: Any) -> None:
        """Log what happened to children, slots and survivors, and count it."""
        self._state.counters[name] += 1
        self._state.emit(name, level=level, **fields)
        if name.startswith(("survivor.", "child.")):
            self.changed()

    # What the settler calls.

    def settled(self, held: Held, ending: Ending | None, verdict: Verdict, code: str) -> None:
        """Log a transition that Redis has answered."""
        state, attempt = self._state, held.task.record.attempt
        if code == "lost":
            state.counters["refused"] += 1
            state.emit(
                "outcome.refused", level="warning", task=held.full_id, name=held.header.name, claim=held.claim.id,
                note="the claim that held this task was lost; another worker decides its outcome",
            )  # fmt: skip
            return
        if verdict.outcome is None:
            self._log_way_back(held, ending, verdict, attempt)
            return
        outcome, how = verdict.outcome, verdict.how
        state.counters[outcome.value] += 1
        if outcome is TaskState.SUCCEEDED:
            assert ending is not None
            state.emit("task.ended", task=held.full_id, name=held.header.name, outcome="succeeded", ran_s=ending.ran_s)
            return
        state.emit(
            "task.ended", level="warning", task=held.full_id, name=held.header.name, outcome=outcome.value,
            how=None if how is None else how.value, attempt=attempt, ran_s=ending.ran_s if ending else None,
            took_s=ending.took_s if ending else None, reason=verdict.reason or None, error=error_line(ending) or None,
        )  # fmt: skip

    def _log_way_back(self, held: Held, ending: Ending | None, verdict: Verdict, attempt: int) -> None:
        state = self._state
        state.counters[verdict.back or "release"] += 1
        if verdict.back == "again":
            state.emit(
                "task.retry", level="warning", task=held.full_id, name=held.header.name, attempt=attempt,
                of=held.header.retries + 1, again_in_s=verdict.delay_ms / 1000, reason=verdict.reason or None,
                error=error_line(ending) or None,
            )  # fmt: skip
        elif verdict.back == "lose":
            state.emit(
                "task.lost_child", level="warning", task=held.full_id, name=held.header.name, attempt=attempt,
                reason=verdict.reason, note="it runs again, apart from others",
            )  # fmt: skip
        else:
            level = "info" if state.phase is Phase.DRAINING else "debug"
            state.emit("task.released", level=level, task=held.full_id, name=held.header.name)

    def _measure(self, held: Held, now: float) -> None:
        claim = held.claim
        if claim.running == 0:
            took = now - claim.opened
            for kind, size in claim.sizes.items():
                self._state.rooms[kind].drained(size, took)
