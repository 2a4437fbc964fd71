"""Why a task started more than once: what retries, timeouts and faults may cost, read from the execution log.

    history ─► Index: the runs of each task, its outcomes, its answers
    two starts of a task ─► reasons() ─► what explains the second one; nothing: nobody may have started it again

A fault costs what it hit, and not a task more: of a killed child its running tasks, of a killed or long frozen worker
those of all its children. A cut connection, flushed scripts, a short freeze and a server that comes back with its
append-only file cost nothing.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .records import Ended, Fault, History, Line, Stopped, Submitted

# What a fault may make start again: the runs of its child, of its whole worker, of its worker if its lease can have
# lapsed meanwhile (half of that may be over when the freeze, or the silence of its wire, begins), or nothing at all.
COSTS = {
    "kill child": "child",
    "dies": "child",  # not from outside: a task killed its own child, and said so before
    "kill fork server": "worker",
    "kill worker": "worker",
    "freeze worker": "worker, past its lease",
    "stood still": "worker, past its lease",  # the machine's doing: it gave a worker no processor time
    "drain worker": "worker",  # what runs on when its time is over is killed, and runs again elsewhere
    "freeze child": "nothing",
    "freeze fork server": "nothing",
    "kill producer": "nothing",
    "freeze producer": "nothing",
    "cut": "nothing",  # of one connection, under one call
    "outlived": "nothing",  # an error that was raised in a worker, and did not end it
    "sent twice": "nothing",  # a call
    "kill clients": "nothing",
    "flush scripts": "nothing",
    "freeze server": "nothing",
    "restart server": "nothing",
    "pause server": "nothing",
    "clock step": "nothing",
    "full server": "nothing",
    "refusing server": "nothing",  # read-only, without its replicas, or with a full disk
    "failover": "nothing",  # to a replica that has everything
    "cut calls": "nothing",
    "reset links": "nothing",
    "half-open links": "nothing",
    "slow wire": "nothing",
    "stalled wire": "nothing",
    "refused links": "nothing",
    "cut off worker": "worker, past its lease",
    "quiet worker": "nothing",
    "outages in a row": "every worker",
    "no answer": "nothing",  # told by the worker that waited for one: what follows a fault, or a busy machine
}
OUTAGES = (
    "freeze server", "restart server", "kill clients", "pause server", "refusing server", "failover", "cut calls",
    "reset links", "half-open links", "slow wire", "stalled wire", "refused links", "cut off worker",
    "no answer",
)  # fmt: skip
# Those of which one that is longer than half a lease is known by all, and a shorter one costs nothing.
SILENCES = ("freeze server", "restart server", "pause server")
# Those that charge an attempt, by a child that dies or by a lease that lapses: who dies with its fork server, or is
# drained, starts again in the same attempt.
CHARGING = ("kill child", "dies", "kill worker", "freeze worker", "stood still", "cut off worker", "outages in a row")
# What makes a call late, so that it is sent again and both arrive. A claim that comes after its first was settled takes
# tasks that its worker does not know of; when its lease lapses they are charged. `cut` is a simulation's weather.
REPEATING = ("sent twice", "cut", "freeze server", "pause server", "stalled wire", "slow wire", "no answer")
# What may keep a child that has begun a task from writing that down, until a timeout or a stop kills it.
STILL = ("freeze child", "freeze fork server")
# What may take an answer of the server with it: it is asked again, and who has rescued tasks then does not know that.
LOSE_ANSWERS = (*OUTAGES, "cut", "sent twice", "outlived")
# The kernel may grant what is below a killed process some milliseconds more.
TICK_S = 0.1
# From the end of the code to the recorded outcome, while nothing is wrong. Measured with three workers and the producer
# on two cores: 0.15 s, and 0.5 s when others had these cores, too.
SETTLE_S = 1.0
# What such a fault takes of a child with one slot is one task, wherever that was: what its child has told is read.
ONE_EACH = ("kill child", "dies", "kill fork server")
# After so long a worker has recorded that a task runs: with its next renewal after the task's first second.
UNMARKED_S = 2.5
# Who is killed takes the lines of its log with it that are as young as this.
LOG_S = 1.0


@dataclass(slots=True)
class Run:
    """One start of a task, by its own account."""

    start: Line
    end: Line | None = None
    seen: float = 0.0  # its last sign of life

    @property
    def fence(self) -> int:
        return self.start.fence


@dataclass(slots=True)
class Task:
    """All that a history says of one id."""

    id: str
    submits: list[Submitted] = field(default_factory=list)
    stops: list[Stopped] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)  # by fence, and in one fence as they started
    faults: list[Fault] = field(default_factory=list)  # those that may have cost it something

    @property
    def answer(self) -> str:
        """What is known of its submits together: one that was accepted counts more than one that is not known of."""
        answers = {submit.answer for submit in self.submits}
        return next((each for each in ("accepted", "unknown", "refused") if each in answers), "never submitted")

    @property
    def retries(self) -> int:
        return max((submit.retries for submit in self.submits), default=0)

    @property
    def pool(self) -> str:
        return next((submit.pool for submit in self.submits), "")

    @property
    def timeout_s(self) -> float | None:
        return next((submit.timeout_s for submit in self.submits), None)

    def outlasted(self, run: Run) -> bool:
        """Say whether a run may have met its timeout. Code in a thread that is left running may return afterwards."""
        if self.timeout_s is None:
            return False
        return run.end is None or run.end.at - run.start.at >= self.timeout_s

    @property
    def asked(self) -> float:
        """When somebody first wanted it."""
        return min((submit.asked for submit in self.submits), default=0.0)

    @property
    def has_deadline(self) -> bool:
        return any(submit.deadline_s is not None for submit in self.submits)

    @property
    def max_crashes(self) -> int:
        return min((submit.max_crashes for submit in self.submits), default=3)

    @property
    def once(self) -> bool:
        return any(submit.once for submit in self.submits)

    @property
    def ended(self) -> Ended | None:
        """Its outcome, as it was known first."""
        return min(self.ends, key=lambda end: end.at, default=None)

    def evidence(self) -> tuple[str, ...]:
        """Everything of it, in the order of its happening."""
        found = [(submit.asked, str(submit)) for submit in self.submits]
        found += [(stop.asked, str(stop)) for stop in self.stops]
        found += [(end.at, str(end)) for end in self.ends]
        found += [(fault.at, str(fault)) for fault in self.faults]
        for run in self.runs:
            found += [(line.at, str(line)) for line in (run.start, run.end) if line is not None]
        return tuple(text for _, text in sorted(found))


class Index:
    """A history by task. Built once, read by all rules."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.tasks: dict[str, Task] = {}
        for submit in history.submitted:
            self._task(submit.id).submits.append(submit)
        for stop in history.stopped:
            self._task(stop.id).stops.append(stop)
        for ended in history.ended:
            self._task(ended.id).ends.append(ended)
        for id_, runs in itertools.groupby(_runs(history.lines), key=lambda run: run.start.id):
            self._task(id_).runs.extend(runs)
        own = [
            Fault("dies", line.at, line.at, line.pid, line.worker)
            for line in history.lines
            if line.what == "end" and line.how == "dies"
        ]
        own += _in_a_row(history.faults, history.lease_s)
        self.faults = sorted([*history.faults, *own], key=lambda fault: fault.at)
        self._begins = [fault.at for fault in self.faults]
        self._longest_s = max((fault.until - fault.at for fault in self.faults), default=0.0)
        self.outages = [fault for fault in self.faults if fault.kind in OUTAGES]
        self._steps = [fault for fault in self.faults if fault.kind == "clock step"]
        by_child: dict[int, list[Fault]] = {}
        by_worker: dict[str, list[Fault]] = {}
        for fault in self.faults:
            cost = COSTS[fault.kind]
            if cost == "child":
                by_child.setdefault(fault.pid, []).append(fault)
            elif cost.startswith("worker") and self._may_cost(fault):
                by_worker.setdefault(fault.worker, []).append(fault)
        self._by_child, self._by_worker = by_child, by_worker
        self._unsettled = {event.worker for event in history.events if event.name == "worker.unsettled"}
        self._by_all = [fault for fault in self.faults if COSTS[fault.kind] == "every worker"]
        self._costly = [fault for fault in self.faults if self._may_cost(fault)]
        self._still = [fault for fault in self.faults if fault.kind in STILL]
        self._twice = [fault for fault in self.faults if fault.kind in REPEATING]
        self._kills = [fault for fault in self.faults if fault.kind == "kill worker"]
        self._frozen = [fault for fault in self.faults if fault.kind in ("freeze worker", "stood still")]
        self._unheard = [fault for fault in self.faults if fault.kind in LOSE_ANSWERS]
        for task in self.tasks.values():
            hit = [fault for run in task.runs for fault in self.faults_on(run)]
            task.faults = sorted(set(hit), key=lambda fault: fault.at)

    def _may_cost(self, fault: Fault) -> bool:
        cost, half_s = COSTS[fault.kind], self.history.lease_s / 2
        if cost != "worker, past its lease":
            return cost != "nothing"
        # A step of the server's clock that is too small to be taken for one makes the lease that much shorter.
        steps = (step.step_s for step in self._steps if fault.at - half_s <= step.at <= fault.until)
        return fault.until - fault.at + sum(step_s for step_s in steps if 0 < step_s <= half_s) > half_s

    def charges(self, fault: Fault) -> bool:
        """Say whether what a fault hits has lost an attempt by it: a drain, too, if no server could be told of it."""
        return fault.kind in CHARGING or (fault.kind == "drain worker" and fault.worker in self._unsettled)

    def _task(self, id_: str) -> Task:
        task = self.tasks.get(id_)
        if task is None:
            task = self.tasks[id_] = Task(id_)
        return task

    def faults_on(self, run: Run) -> Iterator[Fault]:
        """The faults that may have cost this run its outcome."""
        child, worker = run.start.pid, run.start.worker
        for fault in (*self._by_child.get(child, ()), *self._by_worker.get(worker, ()), *self._by_all):
            if run.start.at <= fault.until + TICK_S and self._may_be_unsettled(run, fault):
                yield fault

    def _may_be_unsettled(self, run: Run, fault: Fault) -> bool:
        if run.end is None or run.end.at + SETTLE_S >= fault.at:
            return True
        # It ended long before. But what ends while the server is away is settled when that is back, for long enough.
        settled = run.end.at + SETTLE_S
        for outage in self.outages:
            if outage.at > settled or settled >= fault.at:
                break
            # Who is killed in the middle of one cannot log that it had no answer either.
            if outage.worker in ("", run.start.worker) or (outage.kind, fault.kind) == ("no answer", "kill worker"):
                settled = max(settled, outage.until + SETTLE_S)
        return settled >= fault.at

    def unseen(self, task: Task, ended: Ended) -> dict[int, Fault | None]:
        """Attempts whose end no start shows, and the fault of each; None: it has none, and somebody's start is missing.

        What waits in a window is charged when its worker dies, and a child may die between its beginning and its line.
        It may have been started before in that attempt, by a worker that was drained. Which worker held it nobody has
        written down: it is known only between which two starts it was lost.
        """
        attempts = {
            run.start.attempt for run in task.runs
            if run.start.attempt == ended.attempt or self._shows_its_end(task, run)
        }  # fmt: skip
        # Who may start only once crashes by its first death, which may come between its beginning and its line.
        alone = ended.state != "crashed" or (task.once and ended.attempt == 1)
        last = ended.attempt + (ended.how in ("killed", "host_died") and alone)
        found: dict[int, Fault | None] = {}
        for attempt in sorted(set(range(1, last)) - attempts):
            since = max((run.start.at for run in task.runs if run.start.attempt <= attempt), default=task.asked)
            until = min((run.start.at for run in task.runs if run.start.attempt > attempt), default=ended.at)
            final = attempt == ended.attempt
            # Rather those that hit no start of it: the others have one to account for.
            able = sorted([*self._costly, *(self._still if final else ())], key=lambda fault: fault in task.faults)
            found[attempt] = next(
                (
                    fault
                    for fault in able
                    if (final or self.charges(fault))
                    and since <= fault.until + TICK_S and fault.at <= until and fault not in found.values()
                ),
                None,
            )  # fmt: skip
            if found[attempt] is None or found[attempt] in task.faults:
                found[attempt] = next(
                    (f for f in self._twice if f.at <= until and since <= f.until + TICK_S), found[attempt]
                )
        return found

    def _shows_its_end(self, task: Task, run: Run) -> bool:
        """Say whether a run may have been the last of its attempt: not if it was only drained."""
        if run.end is not None and run.end.how != "asked":
            return True
        faults = list(self.faults_on(run))
        drained = any(fault.kind == "drain worker" for fault in faults)
        return not drained or task.outlasted(run) or any(map(self.charges, faults))

    def deaths(self, task: Task, ended: Ended) -> set[Fault]:
        """The faults that may have charged a task with an attempt before it ended, seen by its starts or not."""
        faults = {fault for fault in task.faults if fault.at <= ended.at}
        return faults | {fault for fault in self.unseen(task, ended).values() if fault is not None}

    def between(self, since: float, until: float) -> list[Fault]:
        """The faults of which some part lies between two instants."""
        first = bisect.bisect_left(self._begins, since - self._longest_s)
        last = bisect.bisect_right(self._begins, until)
        return [fault for fault in self.faults[first:last] if fault.until >= since]

    def was_killed(self, worker: str, lost: float, again: float) -> bool:
        """Whether a worker died soon enough after a loss to have taken what it had to tell with it.

        It tells what the server has answered: who is cut off before that, and dies so, has told nothing either.
        """
        until = self._unheard_until(worker, again + LOG_S)
        return any(
            fault.kind == "kill worker" and lost - TICK_S <= fault.at <= until
            for fault in self._by_worker.get(worker, ())
        )

    def may_be_untold(self, worker: str, lost: float, again: float) -> bool:
        """Whether whoever rescued what this worker ran may not have told it: it was killed, or lost the answer.

        That is also lost to whom it reaches while it is frozen: when it goes on, the time of its call is over.
        """
        killed = any(f.worker != worker and lost - TICK_S <= f.at <= again + LOG_S for f in self._kills)
        deaf = (f for f in self._frozen if f.worker != worker)
        return killed or any(f.at <= again and lost <= f.until + TICK_S for f in (*self._unheard, *deaf))

    def is_untold(self, run: Run, after: Run | None) -> bool:
        """Whether the server heard neither of this start nor of its end: its worker was silent from about then on.

        What comes then is the same attempt once more: the limit that docs/guarantees.md tells.
        """
        if after is None or after.start.attempt != run.start.attempt:
            return False
        until = self._unheard_until(run.start.worker, run.start.at + UNMARKED_S)
        return any(COSTS[fault.kind].startswith("worker") and fault.at <= until for fault in self.faults_on(run))

    def _unheard_until(self, worker: str, since: float) -> float:
        """Until when a worker may have told nobody what it had to tell by an instant: outages may follow each other."""
        until = since
        for outage in self.outages:
            if outage.worker in ("", worker) and outage.at <= until:
                until = max(until, outage.until + LOG_S)
        return until

    def reasons(self, task: Task, before: Run, after: Run) -> list[str | Fault]:
        """What may have made a task start again after this run; empty if nothing did."""
        found: list[str | Fault] = []
        again = after.start.attempt > before.start.attempt
        if again and task.retries:
            if before.end is not None and before.end.how in ("raised", "asked"):
                found.append("retry")
            if task.outlasted(before) and after.start.at - before.start.at >= (task.timeout_s or 0.0):
                found.append("timeout")
        # A fault, and all that it hit: whoever froze, was rescued and starts it late is no reason for anything.
        found += [fault for fault in self.faults_on(before) if fault.at <= after.start.at]
        return found


def _in_a_row(faults: Iterable[Fault], lease_s: float) -> Iterator[Fault]:
    """Two outages within a lease that nobody knows to be one: the limit that docs/guarantees.md tells.

    Each is too short for a witness, who was answered between them; another worker has not renewed there, and its lease
    has lapsed.
    """
    short = [
        fault for fault in sorted(faults, key=lambda fault: fault.at)
        if fault.kind in SILENCES and fault.until - fault.at <= lease_s / 2
    ]  # fmt: skip
    for first, second in itertools.pairwise(short):
        # It renews each fifth of a lease, and tries again soon when it got no answer.
        if second.at - first.until < lease_s / 2 and second.until - first.at > 0.7 * lease_s:
            yield Fault("outages in a row", first.at, second.until)


def recoveries(index: Index) -> dict[str, list[float]]:
    """By kind of fault, how long what it hit was gone: from the fault to the next start."""
    found: dict[str, list[float]] = {}
    for task in index.tasks.values():
        for before, after in itertools.pairwise(task.runs):
            reasons = index.reasons(task, before, after)
            if reasons and isinstance(reasons[0], Fault):
                fault = reasons[-1] if isinstance(reasons[-1], Fault) else reasons[0]
                found.setdefault(fault.kind, []).append(after.start.at - fault.at)
    return found


def _runs(lines: tuple[Line, ...]) -> list[Run]:
    runs: dict[tuple[str, int, int, int], Run] = {}
    found: list[Run] = []
    for line in sorted(lines, key=lambda line: line.at):
        key = (line.id, line.attempt, line.fence, line.pid)
        if line.what == "start":
            runs[key] = Run(line, seen=line.at)
            found.append(runs[key])
        elif key in runs:
            runs[key].seen = line.at
            if line.what == "end":
                runs[key].end = line
    return sorted(found, key=lambda run: (run.start.id, run.fence, run.start.at))
