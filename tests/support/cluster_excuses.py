"""What a replica that takes over may cost, by docs/guarantees.md: what it had not heard, and nothing else.

    Gap(queues, known, killed) ─► touched(history, gap) ─► the tasks of which something happened in it
    unexcused(history, violations, gap) ─► what the gap does not explain

`known` is measured, not guessed: the replica had the primary's offset of that instant. So the gap is as long as it
lagged, and a task that nothing was written of meanwhile is judged like any other.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from support.history.executions import now
from support.history.explain import SETTLE_S, Index
from support.history.judge import Violation
from support.history.records import History

_FENCES_S = 0.05  # how far a fence may be ahead of its server's clock: it goes in steps of 12 ms
_COUNTER = re.compile(r"counter (\w+) is (\d+), and (\d+) tasks have ended so")


@dataclass(frozen=True)
class Gap:
    """Of these queues a replica had everything until `known`, and perhaps nothing from then until the kill."""

    queues: frozenset[str]
    known: float
    killed: float


def touched(history: History, gap: Gap, *, ahead_s: float | None = None) -> set[str]:
    """The tasks of which something may have been written in the gap.

    `ahead_s` is how far the time of day, by which fences go, is ahead of the clock of the history.
    """
    ahead_s = time.time() - now() if ahead_s is None else ahead_s

    def within(since: float, until: float) -> bool:
        return since <= gap.killed and until >= gap.known

    found = {each.id for each in (*history.submitted, *history.stopped) if within(each.asked, each.answered)}
    # Its end is written after its code has ended, and known after that.
    found |= {each.id for each in history.ended if within(each.at - SETTLE_S, each.at)}
    found |= {line.id for line in history.lines if line.what == "end" and within(line.at, line.at + SETTLE_S)}
    for line in history.lines:
        claimed = line.fence / 1000 - ahead_s
        if within(claimed - _FENCES_S, claimed):
            found.add(line.id)
    return {id_ for id_ in found if id_.partition(":")[0] in gap.queues}


def unexcused(history: History, violations: Iterable[Violation], gap: Gap) -> list[Violation]:
    """What is wrong with a history beside what the gap may have cost."""
    lost = touched(history, gap)
    return [each for each in violations if not _is_excused(each, history, lost)]


def _is_excused(violation: Violation, history: History, lost: set[str]) -> bool:
    if violation.id:
        return violation.id in lost
    if counter := _COUNTER.fullmatch(violation.text):
        # The books are those of the replica: each of these may be missing from them, or have another end there.
        state, told, ended = counter[1], int(counter[2]), int(counter[3])
        return abs(told - ended) <= _ends_of(history, lost, state)
    texts = {f"the outcome of {id_} is not kept" for id_ in lost}
    texts |= {f"the server keeps an outcome of {id_}, which nobody knows" for id_ in lost}
    return violation.text in texts


def _ends_of(history: History, lost: set[str], state: str) -> int:
    """Of how many of these some outcome says that, or may: one that is known by no outcome may have had any."""
    told: Counter[bool] = Counter()
    for id_, task in Index(history).tasks.items():
        if id_ in lost:
            told[not task.ends or any(end.state == state for end in task.ends)] += 1
    return told[True]
