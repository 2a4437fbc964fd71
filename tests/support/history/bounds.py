"""How late something may be: what docs/guarantees.md promises, and what the faults meanwhile add to it.

    recoveries   from a fault to the next start of what it hit        lease + 1 s, and a slot that is free
    latencies    cancels, stops and timeouts that no fault touched    a second or so
    settling     from the last fault to quiet                         two leases, and the work that is left

A history that is clean by the ten rules may still be late. What was held up by another fault has that one's time, too;
a suspect, which waits until a worker has nothing else, is promised no time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from .explain import CHARGING, SILENCES, Index, Run, Task
from .records import Fault, History

RESCUE_S = 1.0  # beyond the lease
SLOT_S = 1.0  # until one is free: the longest tasks of the workload are shorter
HELD_UP_S = 0.5  # by a fault that costs nothing: who it hit connects anew
CANCEL_S = 1.0  # a round trip
STOP_S = 1.5  # within a second when the push channel is down, and then the code has to look
TIMEOUT_S = 1.5  # the grace of the workload (0.1 s), a kill, and the way of the outcome to who waits for it

# A link of the producer that lost something stays silent: its third round finds that out, and until then what is not
# pushed is found by the rounds.
ROUND_S, FOUND_OUT_S = 2.5, 7.0
SILENT_WIRES = ("stalled wire", "half-open links")

RECOVERY, CANCEL, STOP, TIMEOUT, QUIET = "recovery", "cancel", "stop", "timeout", "quiet"


class Timed(NamedTuple):
    """Something that was measured, and how long it may have taken."""

    what: str
    id: str
    took_s: float
    allowed_s: float

    @property
    def late(self) -> bool:
        return self.took_s > self.allowed_s

    def __str__(self) -> str:
        return f"{self.what} {self.id}: {self.took_s:.2f} s, and {self.allowed_s:.2f} s is allowed"


def timed(index: Index) -> list[Timed]:
    """All that a history is held to."""
    found = [each for task in index.tasks.values() for way in (_recoveries, _latencies) for each in way(index, task)]
    return [*found, *settling(index.history)]


def judged(found: list[Timed]) -> tuple[Counter[str], list[str]]:
    """How many of each kind were held to a bound, and what was late, the worst first."""
    late = sorted((each for each in found if each.late), key=lambda each: each.allowed_s - each.took_s)
    return Counter(each.what for each in found), [str(each) for each in late]


def settling(history: History) -> Iterator[Timed]:
    """From the last fault to the last outcome: what is left goes on as fast as it did among the faults, at least."""
    last = max((fault.until for fault in history.faults if fault.kind != "no answer"), default=None)
    ends = sorted({end.id: end.at for end in history.ended if end.source == "future"}.values())
    if last is None or not ends or ends[-1] <= last:
        return
    left = sum(at > last for at in ends)
    took_s = last - min(submit.asked for submit in history.submitted)
    if left < len(ends):
        yield Timed(QUIET, "", ends[-1] - last, 2 * history.lease_s + left * took_s / (len(ends) - left))


def _recoveries(index: Index, task: Task) -> Iterator[Timed]:
    failed = 0
    for before, after in itertools.pairwise(task.runs):
        failed += before.end is not None and before.end.how in ("raised", "asked")
        reasons = index.reasons(task, before, after)
        if not reasons or any(isinstance(reason, str) for reason in reasons) or before.start.at > after.start.at:
            continue
        if after.start.attempt - 1 - failed >= 2:
            continue  # a suspect
        fault = max((reason for reason in reasons if isinstance(reason, Fault)), key=lambda fault: fault.at)
        lease_s, again = index.history.lease_s, after.start.at
        allowed_s = lease_s + RESCUE_S + SLOT_S
        if fault.kind == "drain worker":
            allowed_s += fault.until - fault.at  # its time to end what runs
        for other in index.between(fault.at, again):
            if other != fault:
                # It may have been claimed by whom that hit; and a server that stood still puts rescue off for a lease.
                more_s = lease_s + RESCUE_S if other.kind in (*CHARGING, *SILENCES) else HELD_UP_S
                allowed_s += more_s + min(other.until, again) - max(other.at, fault.at)
        yield Timed(RECOVERY, f"{task.id} after {fault.kind}", again - fault.at, allowed_s)


def _latencies(index: Index, task: Task) -> Iterator[Timed]:
    for stop in task.stops:
        if stop.verb == "cancel":
            if not _touched(index, stop.asked, stop.answered):
                yield Timed(CANCEL, task.id, stop.answered - stop.asked, CANCEL_S)
            continue
        for run in task.runs[-1:]:
            seen = run.end.at if run.end is not None and run.end.how == "asked" else None
            if seen is not None and run.start.at <= stop.asked <= seen and not _touched(index, stop.asked, seen, run):
                yield Timed(STOP, task.id, seen - stop.asked, STOP_S)
    ended = task.ended
    if ended is not None and ended.state == "timed_out" and task.timeout_s is not None and task.runs:
        run = task.runs[-1]
        due = run.start.at + task.timeout_s
        if not _touched(index, run.start.at, ended.at, run):
            deaf = any(
                not fault.worker and fault.kind in SILENT_WIRES for fault in index.between(due - FOUND_OUT_S, ended.at)
            )
            yield Timed(TIMEOUT, task.id, ended.at - due, TIMEOUT_S + (ROUND_S if deaf else 0.0))


def _touched(index: Index, since: float, until: float, run: Run | None = None) -> bool:
    """Whether a fault hit the server, whoever waits, or the worker of a run, or had done so within the last lease."""
    workers = {"", run.start.worker if run is not None else ""}
    return any(fault.worker in workers for fault in index.between(since - index.history.lease_s, until))
