"""One simulated history, from its plan to its verdict.

simulate(plan) ─► World: server, fleet, blows ─► quiet ─► drain ─► History ─► judge (support.history) ─► Verdict
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from qworker import codec
from qworker.broker import keys
from qworker.model import Order
from support.history.client import ended_of
from support.history.judge import Violation, judge
from support.history.records import Ended, Event, Fault, History, Line, Quiet, Stopped, Submitted

from .children import Span
from .fleet import QUEUE, Producer, Worker, make_blob
from .network import Server
from .plans import Blow, Job, Plan
from .rules import Late, heeded, late, once, overlap, truthful
from .store import Store
from .times import START_S, Universe

RESTART_S = 0.3  # until a worker that is gone has a successor
DISK_FULL = "MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk."
SETTLED_S = 30.0  # how long after the last fault everything must have ended, beside what the tasks themselves take
PREFIX = b"qw:{default.default}:"
RESULT = PREFIX + b"result:"
PERMANENT = frozenset(name.encode() for name in keys.PERMANENT if "*" not in name)
BODIES, TASKS = PREFIX + b"bodies", PREFIX + b"tasks"  # as long as there are any, something is not done
OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled", "crashed", "expired")

TOGETHER = 20  # histories that are collected together, where the caller has turned the collector off
_unburied = 0
_STORE: list[Store] = []  # one Lua for all histories of a process


@dataclass
class Verdict:
    """What came of a history."""

    plan: Plan
    history: History
    violations: list[Violation]
    story: list[tuple[float, str]] = field(repr=False, default_factory=list)
    took_s: float = 0.0  # of virtual time
    calls: int = 0

    @property
    def digest(self) -> str:
        """What two runs of one seed have in common, if they are the same to the byte."""
        history = self.history
        parts = (
            history.lines,
            history.submitted,
            history.stopped,
            history.ended,
            history.events,
            self.took_s,
            self.calls,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def simulate(plan: Plan, *, tell: bool = False) -> Verdict:
    """Run one history and judge it. `tell`: keep what the workers said, for a time line."""
    if not _STORE:
        _STORE.append(Store(lambda: 0))
    was_on = gc.isenabled()
    gc.disable()  # no `finally` of a process that is dead may run in the middle of a history
    try:
        with Universe(plan.seed) as universe:
            world = World(plan, universe, _STORE[0], tell=tell)
            verdict = world.run()
        world.bury()
        return verdict
    finally:
        global _unburied
        _unburied += 1
        if _unburied >= TOGETHER or was_on:
            _unburied = 0
            collect()
        if was_on:
            gc.enable()


def collect() -> None:
    """Let go of what processes left that were killed: coroutines in the middle of what they did complain of that."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


class World:
    """Everything of one history."""

    def __init__(self, plan: Plan, universe: Universe, store: Store, *, tell: bool) -> None:
        self.plan, self.universe, self._tell = plan, universe, tell
        self.server = Server(universe, store, plan.weather)
        self.lines: list[Line] = []
        self.spans: list[Span] = []
        self.late: list[Late] = []
        self.submitted: list[Submitted] = []
        self.stopped: list[Stopped] = []
        self.ended: list[Ended] = []
        self.faults: list[Fault] = []
        self.events: list[Event] = []
        self.story: list[tuple[float, str]] = []
        self.by_pid: dict[int, Worker] = {}
        self.workers: list[Worker] = []  # all that ever were
        self._pids = itertools.count(100)
        self._numbers = itertools.count()
        self._open = 0  # faults that are not over
        self._closing = False
        self._jobs = {job.local: job for job in plan.jobs}
        self._blobs = {job.local: make_blob(job, codec.NOBODY) for job in plan.jobs}
        self._by_blob = {blob: job for job, blob in ((self._jobs[local], blob) for local, blob in self._blobs.items())}
        store.outcome = self._recorded
        for n in range(plan.workers):
            self._start_worker(f"h{n % plan.hosts}")
        self.producers = [Producer(self, n, list(plan.jobs[n :: plan.producers])) for n in range(plan.producers)]
        if plan.weather.twice:
            self.faults.append(Fault("sent twice", START_S, float("inf")))
        if plan.weather.cut_before or plan.weather.cut_after or plan.weather.slow:  # a late answer is asked for again
            self.faults.append(Fault("cut", START_S, float("inf")))
        self._not_before = START_S + max((blow.at for blow in plan.blows), default=0.0)  # it is not over before
        for blow in plan.blows:
            universe.at(START_S + blow.at, self._strike, blow)

    # ── what the processes ask of it ─────────────────────────────────────────────────────────────────────────────

    def new_pid(self) -> int:
        return next(self._pids)

    def blob_of(self, job: Job) -> bytes:
        return self._blobs[job.local]

    def plan_of(self, blob: bytes) -> Job:
        return self._by_blob[blob]

    def started(self, order: Order, worker: str) -> None:
        """See whether the server still has this task under this fence."""
        data = self.server.store.data
        record = data.get(PREFIX + b"tasks", {}).get(order.id.partition(":")[2].encode(), b"")
        claim = data.get(PREFIX + b"held", {}).get(record[2:14], b"")
        if claim.split(b" ")[0] != b"%d" % order.fence:
            self.late.append(Late(order.id, order.fence, worker, self.universe.now))

    def note(self, who: str, what: str, fields: Any = "") -> None:
        if self._tell:
            self.story.append((self.universe.now, f"{who}: {what} {fields}"))

    def _recorded(self, key: bytes, value: bytes) -> None:
        if key.startswith(RESULT):
            self.ended.append(ended_of(codec.unpack_outcome(value), self.universe.now, source="server"))

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_worker(self, host: str) -> None:
        if not self._closing:
            self.workers.append(Worker(self, next(self._numbers), host))

    def _replace(self, worker: Worker) -> None:
        self.universe.after(RESTART_S, self._start_worker, worker.host)

    def _strike(self, blow: Blow) -> None:
        kind, draw = blow.kind, blow.whom
        living = [worker for worker in self.workers if worker.living and worker.pools]
        worker = living[int(draw * len(living))] if living else None
        children = [c for w in living for pool in w.pools for c in pool.children if c.runs and not c.dead]
        child = children[int(draw * len(children))] if children else None
        name = worker.node.name if worker is not None else ""
        self.note("fault", f"{kind} {name or ''} for {blow.lasts_s:.2f}")
        now, server = self.universe.now, self.server
        match kind:
            case "kill worker" if worker is not None:
                self._fault(blow, worker=name, until=now)
                worker.kill()
                self._replace(worker)
            case "freeze worker" if worker is not None and not worker.node.frozen:
                worker.node.freeze()
                self._fault(blow, worker=name, over=worker.node.thaw)
            case "suspend worker" if worker is not None and not worker.node.frozen:
                # Its host sleeps: the processes of it, and no clock.
                worker.node.freeze()
                self._fault(replace(blow, kind="freeze worker"), worker=name, over=worker.node.thaw)
                for each in [c for pool in worker.pools for c in pool.children if not (c.dead or c.frozen)]:
                    each.frozen = True
                    self._fault(replace(blow, kind="freeze child"), pid=each.pid, worker=name, over=each.thaw)
            case "cut off worker" if worker is not None and name not in server.cut_off:
                server.cut_off[name] = ("both", "there", "back")[int(draw * 1000) % 3]
                self._fault(blow, worker=name, over=lambda: server.heal(name))
            case "drain worker" if worker is not None:
                self._fault(blow, worker=name, until=now + blow.lasts_s + 12.0)
                worker.term()
                if draw < 0.3:
                    self.universe.after(blow.lasts_s / 3, worker.term)
                self._replace(worker)
            case "quiet worker" if worker is not None:
                worker.node.signal(20)
                self._fault(blow, worker=name, over=lambda: worker.node.signal(18))
            case "kill fork server" if worker is not None:
                self._fault(blow, worker=name, until=now)
                worker.kill_fork_server()
            case "kill child" if child is not None:
                self._fault(blow, pid=child.pid, worker=child.pool.node.name, until=now)
                child.die("signal 9")
            case "freeze child" if child is not None and not child.frozen:
                child.frozen = True
                self._fault(blow, pid=child.pid, worker=child.pool.node.name, over=child.thaw)
            case "freeze server" if not (server.frozen or server.down):
                server.frozen = True
                self._fault(blow, over=server.thaw)
            case "restart server" if not (server.frozen or server.down):
                server.restart(blow.lasts_s)
                self._fault(blow)
            case "full server" if not server.store.full:
                server.store.full = True
                self._fault(blow, over=lambda: setattr(server.store, "full", False))
            case "refusing server" if not server.store.refuses:
                server.store.refuses = DISK_FULL
                self._fault(blow, over=lambda: setattr(server.store, "refuses", ""))
            case "kill clients":
                server.cut(lambda wire: draw < 0.5 or wire.node.name == name)
                self._fault(blow, until=now)
            case "flush scripts":
                server.store.loaded.clear()
                self._fault(blow, until=now)
            case "clock step":
                step_s = (-1 if draw < 0.5 else 1) * blow.lasts_s * (10 if draw * 10 % 1 < 0.3 else 1)
                server.clock_s += step_s
                self._fault(blow, until=now, step_s=step_s)
            case "kill producer":
                some = [producer for producer in self.producers if not producer.done]
                if some:
                    some[int(draw * len(some))].kill()
                    # What it had sent arrives all the same.
                    self._not_before = max(self._not_before, now + 2 * self.plan.weather.slow_s)
                    self._fault(blow, until=now)

    def _fault(
        self, blow: Blow, *, worker: str = "", pid: int = 0, until: float | None = None,
        step_s: float = 0.0, over: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        now = self.universe.now
        until = now + blow.lasts_s if until is None else until
        self.faults.append(Fault(blow.kind, now, until, pid, worker, step_s))
        if over is not None:
            self._open += 1
            self.universe.at(until, self._over, over)

    def _over(self, over: Callable[[], object]) -> None:
        self._open -= 1
        over()

    # ── its course ───────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> Verdict:
        universe, plan = self.universe, self.plan
        last = START_S + max([job.at + job.delay_s for job in plan.jobs] + [b.at + b.lasts_s for b in plan.blows])
        work_s = sum(_work_s(job) for job in plan.jobs)
        # A clock that steps back takes the due times with it.
        steps_s = sum(10 * blow.lasts_s for blow in plan.blows if blow.kind == "clock step")
        bound = last + work_s + steps_s + SETTLED_S + 8 * plan.lease_s
        violations: list[Violation] = []
        if not universe.run(bound, self._is_quiet):
            live = sorted(local.decode() for local in self.server.store.data.get(PREFIX + b"bodies", ()))
            text = f"not quiet {bound - last:.0f} s after the last fault; live: {', '.join(live) or 'nothing'}"
            violations.append(Violation("LIVE", "", text))
        quiet_at = universe.now
        self._closing = True
        for worker in self.workers:
            if worker.living:
                worker.term()
        if not universe.run(universe.now + 60.0, lambda: not any(worker.living for worker in self.workers)):
            names = ", ".join(worker.node.name for worker in self.workers if worker.living)
            violations.append(Violation("LIVE", "", f"workers that do not end: {names}"))
        history = self._history()
        if not violations:
            violations += judge(history)
        violations += [Violation("TROUBLE", "", text) for text in universe.troubles]
        violations += [
            Violation(rule.__name__.upper(), id_, text)
            for rule in (once, overlap, heeded, truthful)
            for id_, text in rule(history, plan, self.spans)
        ]
        violations += [Violation("LATE", id_, text) for id_, text in late(history, self.late)]
        return Verdict(plan, history, violations, self.story, quiet_at - START_S, self.server.calls)

    def bury(self) -> None:
        """Nothing of it is to run again: coroutines that are collected find their loops dead."""
        self.server.store.forget()
        for worker in self.workers:
            worker.node.kill()
        for producer in self.producers:
            producer.node.kill()

    def _is_quiet(self) -> bool:
        data = self.server.store.data
        if self._open or self.universe.now < self._not_before or BODIES in data or TASKS in data:
            return False
        return all(producer.done for producer in self.producers)

    def _history(self) -> History:
        data = self.server.store.data
        kept = frozenset(QUEUE + ":" + key.removeprefix(RESULT).decode() for key in data if key.startswith(RESULT))
        live = {"queued or held": len(data.get(PREFIX + b"bodies", ()))}
        counters = {name.decode(): int(count) for name, count in data.get(PREFIX + b"stats", {}).items()}
        others = [
            key.decode() for key in data
            if key.startswith(PREFIX) and not key.startswith(RESULT) and not _is_permanent(key.removeprefix(PREFIX))
        ]  # fmt: skip
        return History(
            tuple(self.lines), tuple(self.submitted), tuple(self.stopped), tuple(self.ended), tuple(self.faults),
            tuple(self.events), Quiet(live, counters, kept, tuple(others)), lease_s=self.plan.lease_s,
            note=f"{self.plan.seed}",
        )  # fmt: skip


def _is_permanent(name: bytes) -> bool:
    return name in PERMANENT or name.startswith((b"bell:", b"ready:"))


def _work_s(job: Job) -> float:
    """How long a task may take by itself, all its attempts together."""
    starts = 1 + job.retries + min(job.dies, 3)
    longest = min(job.lasts_s, 1e9 if job.timeout_s is None else job.timeout_s + job.grace_s)
    return job.delay_s + starts * (longest + 1.0)
