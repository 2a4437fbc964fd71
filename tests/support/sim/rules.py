"""What only a simulation can judge, beside the ten rules of support.history: it sees what really runs, and every clock.

once     what may start only once has started only once
overlap  a run in a process that a later claim has superseded is killed as soon as its worker can know
late     nothing starts that the server has given to another claim, or put back
heeded   a stop that was answered `requested` ends its task
truthful an outcome that does not say that its code may run on is recorded when no code of the task runs any more
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from support.history.records import History

from .children import Span
from .plans import Plan

SLACK_S = 0.5
KILLED_S = 0.05  # between a worker's end, which others hear of at once, and that of the last of its code
# What a worker that is killed had may be rescued at once; its children live for a moment more, and may start that.
DYING_S = 0.01
FOUL_SLACK_S = 3.0  # for calls that are cut, slow, and sent again


class Late(NamedTuple):
    """A start of what the server had given to another claim, or to nobody."""

    id: str
    fence: int
    worker: str
    at: float


def once(history: History, plan: Plan, _: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """At most once is what `delivery="at_most_once"` says."""
    wanted = {f"default:{job.local}" for job in plan.jobs if job.once}
    starts = Counter(line.id for line in history.lines if line.what == "start" and line.id in wanted)
    for id_, count in starts.items():
        if count > 1:
            yield id_, f"at_most_once, and started {count} times"


def overlap(history: History, plan: Plan, spans: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """The first confirmed loss kills."""
    ordered = sorted(spans, key=attrgetter("id", "fence", "began"))
    for before, after in itertools.pairwise(ordered):
        if before.id != after.id or before.kind != "process" or before.fence == after.fence:
            continue
        allowed = _over(history, after.began, before.ended) + plan.lease_s / 2 + _slack_s(plan)
        if before.ended > allowed:
            late_s = before.ended - after.began
            yield (
                before.id,
                f"ran on under fence {before.fence} for {late_s:.1f} s after it had started under {after.fence}",
            )


def heeded(history: History, plan: Plan, spans: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """A stop is durable: its task is told to be over in time, or its code is.

    Of a task that is back in its line, as its claim lapsed, the next claim tells the end, however late that comes.
    """
    jobs = {f"default:{job.local}": job for job in plan.jobs}
    ends = {end.id: end for end in history.ended}
    for stop in history.stopped:
        if stop.answer != "requested" or stop.id not in ends:
            continue
        ended = ends[stop.id].at
        if ends[stop.id].how == "never_started":
            ended = min(ended, max([stop.answered, *(span.ended for span in spans if span.id == stop.id)]))
        allowed = _over(history, stop.answered, ended) + jobs[stop.id].grace_s + 3 * plan.lease_s + _slack_s(plan)
        if ended > allowed:
            yield stop.id, f"ended {ended - stop.answered:.1f} s after its stop was requested"


def truthful(history: History, plan: Plan, spans: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """What was stopped, or started again, runs nowhere; or it is said that nobody can tell."""
    ends = {end.id: end for end in history.ended if not end.may_run}
    for span in spans:
        end = ends.get(span.id)
        if end is not None and span.began < end.at and span.ended > end.at + KILLED_S:
            yield span.id, f"{end.state} at {end.at:.4f}, and its code ran for {span.ended - end.at:.2f} s more"


def _slack_s(plan: Plan) -> float:
    weather = plan.weather
    return FOUL_SLACK_S if weather.slow or weather.cut_before or weather.cut_after else SLACK_S


def late(history: History, starts: Sequence[Late]) -> Iterator[tuple[str, str]]:
    """Nothing starts once its lease may have lapsed, whatever clocks and wires do; but see DYING_S."""
    kills = {fault.worker: fault.at for fault in history.faults if fault.kind == "kill worker"}
    for start in starts:
        if not 0.0 <= start.at - kills.get(start.worker, math.inf) <= DYING_S:
            where = f"in {start.worker} under fence {start.fence}"
            yield start.id, f"started at {start.at:.4f} {where}, when the server had it under that no more"


def _over(history: History, since: float, ended: float) -> float:
    """When the last fault that may have held something up was over: `since`, if there was none."""
    untils = [fault.until for fault in history.faults if fault.at <= ended and fault.until < math.inf]
    return max([since, *untils])
