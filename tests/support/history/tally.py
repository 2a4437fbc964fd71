"""What judged runs add up to: counts of all that was done, lost, repeated and recovered. Plain numbers, ready for JSON.

tally(done) ─► Tally     one run        sum of tallies ─► as_json()     many runs
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .bounds import judged, timed
from .explain import Index, recoveries
from .judge import Violation
from .records import History

CANCEL = "cancel, to its answer"
STOP = "stop, to the code"
TIMEOUT = "timeout, to its outcome"


@dataclass
class Tally:
    """One run, or several of them."""

    submits: Counter[str] = field(default_factory=Counter)  # answer -> tasks
    outcomes: Counter[str] = field(default_factory=Counter)
    crashed: Counter[str] = field(default_factory=Counter)  # kind of task -> how many
    told: Counter[str] = field(default_factory=Counter)  # what workers say of the machine, and the judge takes for true
    faults: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)  # fault -> starts that it made happen again
    violations: Counter[str] = field(default_factory=Counter)  # rule -> how many
    starts: int = 0
    retries: int = 0  # starts again that the task's own options ask for
    lost: int = 0
    torn: int = 0
    took_s: float = 0.0
    gone_s: dict[str, float] = field(default_factory=dict)  # fault -> the longest time to the next start
    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    held_to: Counter[str] = field(default_factory=Counter)  # what was held to a bound of its time (bounds.py)
    late: list[str] = field(default_factory=list)  # and what was later

    @property
    def tasks(self) -> int:
        """How many tasks were sent, whatever became of them."""
        return self.submits.total()

    def add(self, other: Tally) -> None:
        """Take another run into the sum."""
        for name in ("submits", "outcomes", "crashed", "told", "faults", "duplicates", "violations", "held_to"):
            getattr(self, name).update(getattr(other, name))
        for name in ("starts", "retries", "lost", "torn", "took_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.late += other.late
        for fault, longest_s in other.gone_s.items():
            self.gone_s[fault] = max(longest_s, self.gone_s.get(fault, 0.0))
        for what, found in other.latencies_s.items():
            self.latencies_s.setdefault(what, []).extend(found)

    def as_json(self) -> dict[str, Any]:
        """All of it, with the latencies in a few figures."""
        return {
            "tasks": self.tasks,
            "submits": _sorted(self.submits),
            "held_to": _sorted(self.held_to),
            "late": self.late,
            "outcomes": _sorted(self.outcomes),
            "crashed": _sorted(self.crashed),
            "told": _sorted(self.told),
            "starts": self.starts,
            "retries": self.retries,
            "lost": self.lost,
            "violations": _sorted(self.violations),
            "faults": _sorted(self.faults),
            "duplicates": _sorted(self.duplicates),
            "longest_recovery_s": {fault: round(s, 2) for fault, s in sorted(self.gone_s.items())},
            "latencies": {what: figures(found) for what, found in sorted(self.latencies_s.items())},
            "torn_lines": self.torn,
            "took_s": round(self.took_s, 1),
            "tasks_per_s": round(self.tasks / self.took_s, 1) if self.took_s else 0.0,
        }


def tally(history: History, violations: Sequence[Violation], took_s: float, torn: int = 0) -> Tally:
    """Count one run."""
    index = Index(history)
    found = Tally(took_s=took_s, torn=torn)
    # With those that tasks did to themselves, and without what only follows from others.
    found.faults.update(fault.kind for fault in index.faults if fault.kind != "no answer")
    found.told.update(fault.kind for fault in index.faults if fault.kind in ("no answer", "stood still"))
    found.violations.update(violation.rule for violation in violations)
    for fault, gone_s in recoveries(index).items():
        found.duplicates[fault] += len(gone_s)
        found.gone_s[fault] = max(gone_s)
    for task in index.tasks.values():
        found.starts += len(task.runs)
        found.retries += max(0, len(task.runs) - 1)
        if task.submits:
            found.submits[task.answer] += 1
            found.lost += task.answer == "accepted" and not task.ends
        if task.ended is not None:
            found.outcomes[task.ended.state] += 1
            if task.ended.state == "crashed":
                found.crashed[task.submits[0].kind if task.submits else ""] += 1
    found.retries -= found.duplicates.total()
    found.latencies_s = _latencies(index)
    found.held_to, found.late = judged(timed(index))
    return found


def _latencies(index: Index) -> dict[str, list[float]]:
    """How long a cancel waited for its answer, how soon a stop was seen by its code, and a timeout by who waits for it.

    The tasks that time out ignore it: theirs has the grace period (100 ms) and a kill in it.
    """
    found: dict[str, list[float]] = {CANCEL: [], STOP: [], TIMEOUT: []}
    for task in index.tasks.values():
        found[CANCEL] += [stop.answered - stop.asked for stop in task.stops if stop.verb == "cancel"]
        for stop in task.stops:
            if stop.verb == "stop":
                seen = [run.end.at for run in task.runs if run.end is not None and run.end.how == "asked"]
                began = [run.start.at for run in task.runs]
                if seen and began[-1] <= stop.asked:
                    found[STOP].append(seen[-1] - stop.asked)
        ended = task.ended
        if ended is not None and ended.state == "timed_out" and task.timeout_s is not None and task.runs:
            found[TIMEOUT].append(ended.at - task.runs[-1].start.at - task.timeout_s)
    return found


def figures(found: Sequence[float]) -> dict[str, float]:
    """How many, and the middle, the hundredth worst and the worst of them, in milliseconds."""
    if not found:
        return {"count": 0}
    ordered = sorted(found)
    return {
        "count": len(ordered),
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
        "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}
