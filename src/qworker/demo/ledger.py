"""Facts in, ledger out: what ended how, what was lost, what ran twice and why, and whether the sums are right.

    Facts ─► judge ─► Ledger ─┬─► show.py    for people
                              ├─► as_json    for machines
                              └─► ok         the exit code

Pure. `judge` believes nothing that it can count by itself: a second start needs a reason that the facts bear out, and
whatever is neither expected nor explained is a problem, in words.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..lifecycle import How, State
from .facts import Facts, Kill, Seen
from .notes import Note

__all__ = ["CHILD_KILLED", "RETRIED", "UNEXPLAINED", "WORKER_KILLED", "Ledger", "Row", "as_json", "judge"]

RETRIED = "it failed and was retried"
CHILD_KILLED = "its child was killed -9"
WORKER_KILLED = "its worker was killed -9"
UNEXPLAINED = "no reason known"


@dataclass(frozen=True, slots=True)
class Row:
    """So many tasks ended so."""

    state: State
    how: How
    tasks: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """The facts, judged. `problems` is empty exactly when everything is as it should be."""

    facts: Facts
    outcomes: tuple[Row, ...]
    lost: tuple[str, ...]  # ids of tasks that never got an outcome
    again: Mapping[str, int]  # why a task was started once more -> how often
    never_started: int  # cancelled while they waited, and without a start
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, wrong or still running."""
        return not self.problems


def judge(facts: Facts) -> Ledger:
    """Judge what was seen."""
    starts = _starts(facts.notes)
    again, unexplained = _second_starts(starts, facts)
    ended = Counter((seen.outcome.state, seen.outcome.how) for seen in facts.seen if seen.outcome is not None)
    order = list(State)
    rows = sorted(
        (Row(state, how, tasks) for (state, how), tasks in ended.items()),
        key=lambda row: (order.index(row.state), row.how),
    )
    never = [seen for seen in facts.seen if seen.outcome is not None and seen.outcome.how is How.NEVER_STARTED]
    return Ledger(
        facts=facts,
        outcomes=tuple(rows),
        lost=tuple(seen.id for seen in facts.seen if seen.outcome is None),
        again=again,
        never_started=sum(1 for seen in never if seen.id not in starts),
        problems=(*_problems_of_tasks(facts.seen, starts), *unexplained, *_problems_of_the_rest(facts)),
    )


def _starts(notes: Sequence[Note]) -> dict[str, list[Note]]:
    starts: dict[str, list[Note]] = {}
    for note in sorted(notes, key=lambda note: note.at_s):
        if note.what == "start":
            starts.setdefault(note.id, []).append(note)
    return starts


def _second_starts(starts: Mapping[str, Sequence[Note]], facts: Facts) -> tuple[Counter[str], list[str]]:
    """Count every start of a task but its first, by what ended the one before."""
    raised = {(note.id, note.attempt) for note in facts.notes if note.what == "raise"}
    reasons: Counter[str] = Counter()
    unexplained = []
    for id_, started in starts.items():
        for before, after in itertools.pairwise(started):
            reason = _why_again(before, raised, facts.kills)
            reasons[reason] += 1
            if reason == UNEXPLAINED:
                unexplained.append(
                    f"task {id_} was started in pid {before.pid} of worker {before.worker} and"
                    f" {after.at_s - before.at_s:.1f} s later in pid {after.pid} of worker {after.worker}:"
                    " nothing was killed or failed in between"
                )
    return reasons, unexplained


def _why_again(start: Note, raised: set[tuple[str, int]], kills: Sequence[Kill]) -> str:
    if (start.id, start.attempt) in raised:
        return RETRIED
    for kill in kills:
        if not kill.worker and kill.pid == start.pid and start.at_s <= kill.at_s:
            return CHILD_KILLED
        # Its children die with it, some milliseconds later: they may start something even then.
        if kill.worker and kill.worker == start.worker:
            return WORKER_KILLED
    return UNEXPLAINED


def _problems_of_tasks(tasks: Sequence[Seen], starts: Mapping[str, Sequence[Note]]) -> Iterator[str]:
    for seen in tasks:
        shown, outcome = f"task {seen.id} ({seen.kind})", seen.outcome
        if outcome is None:
            yield f"{shown} is lost: no outcome came"
            continue
        if (outcome.state, outcome.how) not in seen.expected:
            meant = " or ".join(sorted(f"{state}/{how}" for state, how in seen.expected))
            reason = f" ({outcome.reason})" if outcome.reason else ""
            yield f"{shown} ended as {outcome.state}/{outcome.how}{reason}, not as {meant}"
        if seen.wrong:
            yield f"{shown}: {seen.wrong}"
        if outcome.how is How.NEVER_STARTED and seen.id in starts:
            yield f"{shown} is said never to have started, and it has, in pid {starts[seen.id][0].pid}"
        if outcome.how is not How.NEVER_STARTED and seen.id not in starts:
            yield f"{shown} is said to have run, and it never started"


def _problems_of_the_rest(facts: Facts) -> Iterator[str]:
    if not facts.seen:
        yield "nothing was done: no task was seen"
    for forced in facts.forced:
        if forced.gone_after_s is None:
            yield f"{forced.what} was ended ({forced.how}), and it is still there"
    for survived in facts.survived:
        if survived.for_s is None:
            yield f"{survived.what} ran on after its outcome, and still does"
    if facts.rescue.running and facts.rescue.last_s is None:
        yield "what the killed worker was running was not started again by the other one"
    if facts.drained != 0:
        what = "did not end" if facts.drained is None else f"ended with status {facts.drained}"
        yield f"the other worker was told to drain (TERM), and {what}"
    for process in facts.left_behind:
        yield f"left behind: {process}"
    for difference in facts.sums.differing:
        yield f"not what a plain loop finds: {difference}"
    if dict(facts.sums.queue) != dict(facts.sums.loop):
        yield f"the sums differ: {dict(facts.sums.queue)} from the queue, {dict(facts.sums.loop)} from a plain loop"


def as_json(ledger: Ledger) -> dict[str, Any]:
    """Return the ledger as one object for machines; durations are in seconds."""
    facts = ledger.facts
    return {
        "ok": ledger.ok,
        "problems": list(ledger.problems),
        "seconds": round(facts.seconds, 3),
        "python": facts.python,
        "server": facts.server,
        "workers": {"started": 2, "slots_each": dict(facts.slots)},
        "files": facts.files,
        "tasks": len(facts.seen),
        "outcomes": [{"state": row.state, "how": row.how, "tasks": row.tasks} for row in ledger.outcomes],
        "lost": list(ledger.lost),
        "starts": sum(1 for note in facts.notes if note.what == "start"),
        "started_again": dict(ledger.again),
        "never_started": ledger.never_started,
        "ended": [_rounded(asdict(forced)) for forced in facts.forced],
        "survivors": [_rounded(asdict(survived)) for survived in facts.survived],
        "survivors_left": sum(1 for survived in facts.survived if survived.for_s is None),
        "killed_worker": _rounded(asdict(facts.rescue)),
        "drain_exit_code": facts.drained,
        "left_behind": list(facts.left_behind),
        "work": {
            "queue": dict(facts.sums.queue),
            "loop": dict(facts.sums.loop),
            "same": not facts.sums.differing and dict(facts.sums.queue) == dict(facts.sums.loop),
            "queue_seconds": round(facts.sums.queue_s, 3),
            "loop_seconds": round(facts.sums.loop_s, 3),
        },
    }


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
