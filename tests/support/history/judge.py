"""The judge: ten rules over a history. Pure functions; each violation names its rule, the task and the evidence.

    judge(history) ─► Index ─► C1 … C10 ─► [Violation]

C1  accepted: exactly one outcome at quiet; refused: none, and no start; not known: at most one
C2  an outcome is one that something made: a value or an error its code, under the same fence; a cancel who stopped it,
    a timeout its limit, an end in the queue its deadline, a crash as many deaths as it may have
C3  answered `cancelled`: it does not start, and nothing of it runs
C4  no start after the outcome
C5  the attempt that is recorded is the one that the starts show, but for what a fault may have hidden, each one once;
    never more than the options allow, and of a failure never fewer
C6  no superseded outcome: nothing is recorded under a fence once a later one has started the task
C7  a task starts again only where a retry, a timeout or a fault explains it, and never if it may start only once
C8  at quiet nothing is left: no live task, no key, and the counters equal a recount
C9  a process slot runs one task at once, counted by valid fences; and no key more than its limit, which only histories
    made by hand have so far
C10 what a fault cost, and what was refused, was told by a worker; the server's counter is heard where that one cannot
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .explain import ONE_EACH, REPEATING, TICK_S, Index, Run, Task
from .records import Ended, Fault, History

FREEZES = (
    "freeze worker",
    "stood still",
    "cut off worker",
    "outages in a row",
)  # what makes it late, and kills nothing
OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled", "crashed", "expired")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that one task (or, without an id, the whole history) breaks."""

    rule: str
    id: str
    text: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.rule} {self.id}: {self.text}", *self.lines])


def judge(history: History) -> list[Violation]:
    """Return what is wrong with a history, by rule; nothing, if it is as promised."""
    index = Index(history)
    found = [
        Violation(rule.__name__.upper(), task.id, text, task.evidence())
        for rule in BY_TASK
        for task in index.tasks.values()
        for text in rule(index, task)
    ]
    return found + [violation for rule in WHOLE for violation in rule(index)]


def report(violations: list[Violation], *, most: int = 10) -> str:
    """The violations as people read them: how many of each rule, then the first ones with their evidence."""
    counts = ", ".join(f"{count} of {rule}" for rule, count in Counter(v.rule for v in violations).items())
    return "\n".join([f"{len(violations)} violations: {counts}", *map(str, violations[:most])])


def c1(index: Index, task: Task) -> Iterator[str]:
    """An accepted task has one outcome, a refused one none."""
    answer = task.answer
    kinds = {(end.state, end.attempt, end.value) for end in task.ends}
    if len(kinds) > 1:
        yield f"{len(kinds)} different outcomes"
    if answer == "accepted" and not task.ends:
        yield "accepted, and has no outcome"
    if answer in ("refused", "never submitted") and (task.ends or task.runs):
        yield f"{answer}, and has {'an outcome' if task.ends else 'started'}"


def c2(index: Index, task: Task) -> Iterator[str]:
    """What is recorded was made: by its code, or by what ends it."""
    for end in task.ends:
        if why := _unmade(index, task, end):
            yield f"{end.state} ({end.how}), {why}"
        if end.state == "succeeded" or (end.state == "failed" and end.fence is not None):
            how = "returned" if end.state == "succeeded" else "raised"
            made = [run.end for run in task.runs if run.end is not None and run.end.how == how]
            if not any((line.fence, line.value) == (end.fence, end.value) for line in made):
                yield f"{end.state} with {end.value!r} under fence {end.fence}, which its code never {how}"


def _unmade(index: Index, task: Task, end: Ended) -> str:
    """Why nothing can have made an outcome; empty if something did, or if its code has to show it."""
    match end.state:
        case "cancelled" if not task.stops:
            return "and nobody has stopped it"
        case "timed_out" if task.timeout_s is None or end.how == "never_started":
            return "and it has no timeout" if task.timeout_s is None else "which a limit of its code cannot be"
        case "expired" if not task.has_deadline:
            return "and it has no deadline"
        case "failed" if end.fence is None:
            # An error that names no run: not one of those that the plan of the task asks for, but one of its code.
            ends = [run.end for run in task.runs if run.end is not None and run.start.attempt == end.attempt]
            if not any(line.how in ("raised", "asked") for line in ends):
                return "and its code has not raised"
        case "crashed":
            # Who may start only once is not asked whose fault it was.
            deaths = [
                fault for fault in index.deaths(task, end)
                if task.max_crashes == 1 or index.charges(fault) or fault.kind in REPEATING
            ]  # fmt: skip
            if len(deaths) < task.max_crashes:
                return f"after {len(deaths)} faults that may have hit it, and it takes {task.max_crashes}"
    return ""


def c3(index: Index, task: Task) -> Iterator[str]:
    """What was answered `cancelled` never starts."""
    for stop in task.stops:
        if stop.answer == "cancelled" and task.runs:
            # An earlier attempt may have brought it back into the queue, where it was cancelled. It is over then.
            earlier = task.retries > 0 or bool(task.faults)
            late = [run for run in task.runs if run.seen > stop.answered]
            if late:
                yield f"answered `cancelled`, and ran {late[0].seen - stop.answered:.4f} s later"
            elif not earlier:
                yield "answered `cancelled`, and had started, though nothing can have brought it back into the queue"


def c4(index: Index, task: Task) -> Iterator[str]:
    """Nothing starts once it has ended."""
    ended = task.ended
    if ended is None or any(stop.answer == "cancelled" for stop in task.stops):
        return  # the latter is for C3
    for run in task.runs:
        if run.start.at > ended.at and not _dying(index, run):
            yield f"started {run.start.at - ended.at:.4f} s after its outcome"


def c5(index: Index, task: Task) -> Iterator[str]:
    """The recorded attempt is that of the starts."""
    ended = task.ended
    if ended is None or ended.how == "never_started":
        return  # whoever ends it in the queue does not know how often it has run
    attempts = {run.start.attempt for run in task.runs}
    if attempts and max(attempts) > ended.attempt:
        yield f"ended in attempt {ended.attempt}, and attempt {max(attempts)} has started"
    if ended.attempt not in attempts and ended.how not in ("host_died", "killed"):
        yield f"ended in attempt {ended.attempt} ({ended.how}), which has no start"
    own = sum(
        run.end is not None and run.end.how == "dies" and not index.is_untold(run, after)
        for run, after in itertools.zip_longest(task.runs, task.runs[1:])
    )
    if own > task.max_crashes and all(map(index.charges, task.faults)):
        yield f"killed its child {own} times, and may {task.max_crashes} times"
    lost = [attempt for attempt, fault in index.unseen(task, ended).items() if fault is None]
    if lost:
        yield f"ended in attempt {ended.attempt} ({ended.how}), and there is no start of {lost}, nor a fault for each"
    again = {
        run.start.attempt for run in task.runs
        if run.start.attempt < ended.attempt
        and ((run.end is not None and run.end.how in ("raised", "asked")) or task.outlasted(run))
    }  # fmt: skip
    retries, deaths = min(task.retries, len(again)), len(index.deaths(task, ended))
    if ended.attempt > 1 + retries + deaths + len(lost):
        yield f"{ended.attempt} attempts, with {retries} of {task.retries} retries and {deaths} faults that hit it"
    if ended.state in ("failed", "timed_out") and ended.attempt <= task.retries and not task.has_deadline:
        yield f"{ended.state} in attempt {ended.attempt}, with {task.retries} retries"


def c6(index: Index, task: Task) -> Iterator[str]:
    """No outcome under a fence that has been superseded."""
    for end in task.ends:
        if end.fence is None:
            continue
        later = [run for run in task.runs if run.fence > end.fence and run.start.at <= end.at]
        if later:
            yield f"its outcome has fence {end.fence}, and it had started under {later[0].fence}"


def c7(index: Index, task: Task) -> Iterator[str]:
    """Each start beyond the first is explained, and no fault explains two; what may start once does."""
    if task.once and len(task.runs) > 1:
        yield f"may start only once, and started {len(task.runs)} times"
    used: set[Fault] = set()
    for before, after in itertools.pairwise(task.runs):
        if before.start.at > after.start.at:
            if not _dying(index, before):
                yield f"started under fence {before.fence} after it had started under {after.fence}"
            continue
        reasons = index.reasons(task, before, after)
        if any(isinstance(reason, str) for reason in reasons):
            continue
        free = [reason for reason in reasons if isinstance(reason, Fault) and reason not in used]
        if not free:
            yield f"started again under fence {after.fence}, and nothing explains it"
            continue
        used.add(free[0])


def c7_each(index: Index) -> Iterator[Violation]:
    """Of a child with one slot a fault takes one task: not all that ran in it lately."""
    again = []
    for task in index.tasks.values():
        for before, after in itertools.pairwise(task.runs):
            reasons = index.reasons(task, before, after) if task.pool == "process" else []
            if reasons and all(isinstance(reason, Fault) and reason.kind in ONE_EACH for reason in reasons):
                again.append((reasons, before, task))
    used: set[tuple[object, int]] = set()
    for reasons, before, task in sorted(again, key=lambda each: len(each[0])):
        free = [(reason, before.start.pid) for reason in reasons if (reason, before.start.pid) not in used]
        if free:
            used.add(free[0])
        else:
            text = f"started again, and {reasons[0]} made another task of its child start again"
            yield Violation("C7", task.id, text, task.evidence())


def c8(index: Index) -> Iterator[Violation]:
    """Nothing is left, and the books are right."""
    quiet = index.history.quiet
    if quiet is None:
        return
    recount = Counter(task.ended.state for task in index.tasks.values() if task.ended is not None)
    wrong = [f"{count} tasks are still {state}" for state, count in quiet.live.items() if count]
    wrong += [
        f"counter {state} is {quiet.counters.get(state, 0)}, and {recount[state]} tasks have ended so"
        for state in OUTCOMES
        if quiet.counters.get(state, 0) != recount[state]
    ]
    known = {task.id for task in index.tasks.values() if task.ends}
    wrong += [f"the server keeps an outcome of {id_}, which nobody knows" for id_ in sorted(quiet.kept - known)]
    wrong += [f"the outcome of {id_} is not kept" for id_ in sorted(known - quiet.kept)]
    wrong += [f"key {key} is left" for key in quiet.others]
    for text in wrong:
        yield Violation("C8", "", text)


def c9(index: Index) -> Iterator[Violation]:
    """No key runs more often at once than it may."""
    changes: dict[str, list[tuple[float, int, Run]]] = {}
    for task in index.tasks.values():
        submit = task.submits[0] if task.submits else None
        for run, after in itertools.zip_longest(task.runs, task.runs[1:]):
            over = _over(index, task, run, after)
            if over <= run.start.at:
                continue
            key = submit.key if submit is not None else ""
            if key in index.history.limits:
                changes.setdefault(key, []).extend([(run.start.at, 1, run), (over, -1, run)])
            if submit is not None and submit.pool == "process":
                slot = f"process slot {run.start.pid}"
                changes.setdefault(slot, []).extend([(run.start.at, 1, run), (over, -1, run)])
    for key, steps in changes.items():
        limit = index.history.limits.get(key, 1)
        running: list[Run] = []
        for _, step, run in sorted(steps, key=lambda each: (each[0], each[1])):
            if step < 0:
                running = [other for other in running if other is not run]
                continue
            running.append(run)
            if len(running) > limit:
                lines = tuple(str(other.start) for other in running)
                yield Violation("C9", run.start.id, f"{key}: {len(running)} at once, and its limit is {limit}", lines)


def c10(index: Index) -> Iterator[Violation]:
    """What was lost, rescued or refused has its event."""
    told = {(event.name, event.task) for event in index.history.events}
    by_worker = {(event.name, event.worker) for event in index.history.events}
    rescued = sum(e.count for e in index.history.events if e.name in ("worker.died", "tasks.rescued"))
    seen = sure = 0
    for task in index.tasks.values():
        for before, after in itertools.pairwise(task.runs):
            reasons = index.reasons(task, before, after)
            if not reasons or any(isinstance(reason, str) for reason in reasons) or before.start.at > after.start.at:
                continue
            kinds = {fault.kind for fault in reasons if isinstance(fault, Fault)}
            worker, lost, again = before.start.worker, before.start.at, after.start.at
            if "drain worker" in kinds:
                continue  # it gives back what it has to kill, which is no loss
            if kinds & {"kill worker", *FREEZES}:
                if kinds.isdisjoint({"kill child", "dies", "kill fork server"}):
                    seen += 1
                    sure += not index.may_be_untold(worker, lost, again)
            elif "kill fork server" in kinds:
                if ("forkserver.died", worker) not in by_worker and not index.was_killed(worker, lost, again):
                    yield Violation("C10", task.id, "its fork server died, and no worker told it", task.evidence())
            elif {("task.lost_child", task.id), ("outcome.refused", task.id)}.isdisjoint(told):
                # Refused: it was sent again because the answer was late, and another worker had taken the task by then.
                if index.was_killed(worker, lost, again):
                    continue
                yield Violation("C10", task.id, "its child died, and no worker told it", task.evidence())
        yield from _untold_refusals(index, task, told, by_worker)
    # Who is killed takes the last lines of its log with it, and who lost the answer asked again and found nothing.
    # Their count was written with the rescue, by the server.
    quiet = index.history.quiet
    counted = max(rescued, quiet.counters.get("rescued", 0) if quiet is not None else 0)
    if sure > rescued:
        yield Violation("C10", "", f"{sure} tasks were rescued by workers that could tell it, and {rescued} were told")
    elif seen > counted:
        yield Violation("C10", "", f"{seen} tasks were rescued by their starts, and {counted} were told or counted")


def _untold_refusals(
    index: Index, task: Task, told: set[tuple[str, str]], by_worker: set[tuple[str, str]]
) -> Iterator[Violation]:
    """Code that returned under a fence that a later one superseded: its outcome was refused, and that is told."""
    for run, after in itertools.pairwise(task.runs):
        if run.end is None or run.end.how != "returned" or run.end.at < after.start.at:
            continue
        if "timeout" in index.reasons(task, run, after):
            continue  # it had its outcome: it was left running
        worker = run.start.worker
        said = ("outcome.refused", task.id) in told or ("claim.lost", worker) in by_worker
        if not said and not any(fault.kind not in FREEZES for fault in index.faults_on(run)):
            yield Violation("C10", task.id, "a late outcome was refused, and no worker told it", task.evidence())


def _dying(index: Index, run: Run) -> bool:
    """Whether it started in the moment that the kernel grants what is below a process that was killed."""
    return any(
        fault.kind in ("kill worker", "kill fork server") and fault.at <= run.start.at <= fault.until + TICK_S
        for fault in index.faults_on(run)
    )


def _over(index: Index, task: Task, run: Run, after: Run | None) -> float:
    """When a run held its place no more: its end, or what made it invalid."""
    over = [fault.at for fault in index.faults_on(run) if fault.kind not in FREEZES]
    if run.end is not None:
        over.append(run.end.at)
    if after is not None:
        over.append(after.start.at)
    if task.ended is not None:
        over.append(task.ended.at)
    return max(run.start.at, min(over, default=run.seen))


BY_TASK: tuple[Callable[[Index, Task], Iterator[str]], ...] = (c1, c2, c3, c4, c5, c6, c7)
WHOLE: tuple[Callable[[Index], Iterator[Violation]], ...] = (c7_each, c8, c9, c10)
