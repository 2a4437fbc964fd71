"""A chaos run: a seeded workload, seeded faults, real workers on a private server, and the judge at the end.

producer thread: batches, cancels and stops ─┐
main thread: faults, each at its share of the tasks ─► quiet ─► workers drained ─► History ─► judge

PYTHONPATH=src:tests python -m support.history.chaos --seed 7 --tasks 20000 --faults 60      (make chaos)
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qworker import Future, faultpoints
from support.daemon import Worker, spawn_worker
from support.promised import bound
from support.proxy import Proxy
from support.servers import KINDS, Servers, any_kind, start_server
from support.waiting import wait_until

from . import executions, faults, workload
from .bounds import judged, timed
from .client import Batch, Recorder, look
from .explain import Index, recoveries
from .judge import Violation, judge, report
from .records import TOLD, Event, Fault, History, save

APP = "support.apps.history_tasks"
MOST_PENDING = 2_000  # so that faults meet a queue, and cancels something to cancel
AHEAD = 0.03  # the share of all tasks that may be submitted beyond the next fault's: what that is done to
QUIET_S = 60.0
START_S = 60.0
STOPPED_AFTER_S = 5.0  # what has not started by then is stopped where it waits
LOOK_S = 0.05
DRAIN_S = 2.0  # shorter than what some tasks run
TRIES = 10  # a stop that got no answer is asked for again


@dataclass(frozen=True)
class Plan:
    """What a run does. The same plan draws the same batches and faults; what runs when is up to the machine."""

    seed: int
    tasks: int
    faults: Sequence[str] = ()
    workers: int = 2
    slots: str = "process=2,thread=2"
    lease_s: float = 2.0
    armed: Sequence[str] = ()  # the fault points of the first workers (qworker/faultpoints.py)
    env: Mapping[str, str] = field(default_factory=dict)  # of the workers
    queues: Sequence[str] = ("default",)
    wired: bool = False  # workers and producer reach the server through proxies of their own, whatever the faults are

    @property
    def needs_wires(self) -> bool:
        return self.wired or bool(faults.WIRE_KINDS & set(self.faults))


@dataclass
class Done:
    """What came of it."""

    history: History
    violations: list[Violation]
    took_s: float
    after_last_fault_s: float
    torn: int = 0

    @functools.cached_property
    def times(self) -> tuple[Counter[str], list[str]]:
        """What was held to a bound of its time, and what was later than that."""
        return judged(timed(Index(self.history)))

    def summary(self) -> str:
        """The run as a table."""
        history = self.history
        starts = Counter(line.id for line in history.lines if line.what == "start")
        rows = {
            "seed": history.note,
            "tasks": f"{len({submit.id for submit in history.submitted}):,}",
            "submits": _counted(submit.answer for submit in history.submitted),
            "outcomes": _counted({end.id: end.state for end in history.ended}.values()),
            "starts": f"{starts.total():,}, of {len(starts):,} tasks; {self.torn} lines torn",
            "faults": _counted(fault.kind for fault in history.faults),
            "again": self._recoveries() or "nothing",
            "took": f"{self.took_s:.1f} s, {self.after_last_fault_s:.1f} s of it after the last fault",
            "times": f"{_counted(self.times[0].elements())}: {len(self.times[1])} too late",
            "verdict": f"{len(self.violations)} violations",
        }
        return "\n".join(f"  {name:<9} {value}" for name, value in rows.items())

    def _recoveries(self) -> str:
        """What faults made start again, and how long the longest of it was gone."""
        return ", ".join(
            f"{len(gone_s)} by {kind} (gone {max(gone_s):.1f} s at most)"
            for kind, gone_s in sorted(recoveries(Index(self.history)).items())
        )


@dataclass
class Fleet:
    """The server and the workers of a run, and all that have been of it."""

    server: Servers
    plan: Plan
    directory: Path
    log: Path
    workers: list[Worker] = field(default_factory=list)
    gone: list[Worker] = field(default_factory=list)
    wires: dict[int, Proxy] = field(default_factory=dict)  # by the pid of the worker; 0: the producer's

    @property
    def lease_s(self) -> float:
        return self.plan.lease_s

    def url_of_producer(self) -> str:
        """Where the producer finds the server."""
        return self._wire(0) if self.plan.needs_wires else self.server.url

    def begin(self) -> None:
        """Start all workers and return when they serve; those with fault points may never do."""
        for n, armed in enumerate(self.plan.armed):
            more = {faultpoints.VARIABLE: armed, faultpoints.TALLY: str(self.tally(n))}
            self.workers.append(self._new(more))
        for _ in range(self.plan.workers - len(self.plan.armed)):
            self.workers.append(self._new())
        for worker in self.workers[len(self.plan.armed) :]:
            worker.wait_event("worker.started", timeout=START_S)

    def tally(self, n: int) -> Path:
        """Where the nth worker writes down the faults that happened in it."""
        return self.directory / f"faults-{n}"

    def replace(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.gone.append(worker)
        self.workers.append(self._new())

    def end(self) -> None:
        """Drain all workers."""
        for worker in self.workers:
            worker.term()
        for worker in self.workers:
            worker.wait()

    def close(self) -> None:
        for worker in [*self.workers, *self.gone]:
            worker.close()
        for wire in self.wires.values():
            wire.close()
        self.server.stop()

    def events(self) -> tuple[Event, ...]:
        """What all workers told, of what the judge asks for."""
        found = []
        for worker in [*self.workers, *self.gone]:
            for event in worker.events():
                if event.get("event") in TOLD:
                    count = event.get("rescued", event.get("count", 1))
                    found.append(Event(event["event"], str(worker.pid), event.get("task", ""), count))
        return tuple(found)

    def stood_still(self) -> list[tuple[str, float, float]]:
        """Which workers say that they stood still, until when, and for how long."""
        # The log has wall time. What it tells comes on top of the pause between two renewals, a second at most.
        ahead_s = time.time() - executions.now()
        return [
            (str(worker.pid), datetime.fromisoformat(event["time"]).timestamp() - ahead_s, event["stood_s"] + 1.0)
            for worker in [*self.workers, *self.gone]
            for event in worker.events("worker.stood_still")
        ]

    def unanswered(self) -> list[Fault]:
        """When which worker had no answer from the server, by its own account: on a busy machine, faults last longer.

        That explains no start by itself: only why what had ended by then was not settled yet.
        """
        ahead_s = time.time() - executions.now()
        found = []
        for worker in [*self.workers, *self.gone]:
            for event in worker.events("redis.back"):
                until = datetime.fromisoformat(event["time"]).timestamp() - ahead_s
                found.append(Fault("no answer", until - event["after_s"], until, worker=str(worker.pid)))
        return found

    def _new(self, more: Mapping[str, str] = MappingProxyType({})) -> Worker:
        env = {
            "EXECUTION_LOG": str(self.log), "QWORKER_LEASE": str(self.lease_s), "QWORKER_DRAIN_TIMEOUT": str(DRAIN_S),
            **self.plan.env, **more,
        }  # fmt: skip
        url = self._wire(-1) if self.plan.needs_wires else self.server.url
        queues = ",".join(self.plan.queues)
        worker = spawn_worker(url, f"{APP}:app", "-c", self.plan.slots, "-q", queues, log_dir=self.directory, env=env)
        if self.plan.needs_wires:
            self.wires[worker.pid] = self.wires.pop(-1)
        return worker

    def _wire(self, key: int) -> str:
        wire = self.wires[key] = Proxy(self.server.socket_path, tcp=True)
        return wire.url


class Producer(threading.Thread):
    """Submits all batches, never too far ahead; cancels what its plan says, and stops it as soon as it runs."""

    def __init__(self, client: Recorder, batches: Sequence[Batch], log: Path) -> None:
        super().__init__(name="producer", daemon=True)
        self._client, self._batches = client, batches
        self._log = executions.Tail(log)
        self._later: deque[tuple[float, Future[Any]]] = deque()  # what is to be stopped, and since when
        self._most = 0
        self.error: BaseException | None = None

    def go_on_to(self, most: int) -> None:
        """So many tasks may be submitted from now on."""
        self._most = most
        self._client.look_again()

    def run(self) -> None:
        client = self._client
        try:
            for batch in self._batches:
                while not client.wait(
                    lambda: client.pending < MOST_PENDING and len(client.futures) < self._most, LOOK_S
                ):
                    self._stop_started()
                futures = self._submit(batch)
                if batch.stop == "stop":
                    self._later += [(executions.now(), future) for future in futures]
                elif batch.stop:
                    for future in futures:
                        self._ask(future, batch.stop)
                self._stop_started()
            while self._later:
                client.wait(lambda: False, LOOK_S)
                self._stop_started()
        except BaseException as error:  # told by the main thread
            self.error = error

    def _submit(self, batch: Batch) -> list[Future[Any]]:
        """As one does whose server is full: what it refused is submitted again until there is room."""
        futures = self._client.submit(batch)
        while self._client.full:
            self._client.wait(lambda: False, LOOK_S)
            known = {future.id for future in futures}
            left = tuple(id_ for id_ in batch.ids if f"{batch.queue}:{id_}" not in known)
            futures += self._client.submit(dataclasses.replace(batch, ids=left, count=batch.count - len(futures)))
        return futures

    def _stop_started(self) -> None:
        if not self._later:
            return
        started = {line.id for line in self._log.read() if line.what == "start"}
        waiting = list(self._later)
        self._later.clear()
        for since, future in waiting:
            if future.id in started or executions.now() > since + STOPPED_AFTER_S:
                self._ask(future, "stop")
            else:
                self._later.append((since, future))

    def _ask(self, future: Future[Any], verb: str) -> None:
        """As one does who gets no answer: again. What is never stopped runs for a minute."""
        for _ in range(TRIES):
            if self._client.stop(future, verb):
                return


# What happens in a run while its fleet is up: it returns the faults that it did.
Scene = Callable[[Plan, Fleet, Recorder], list[Fault]]


def run(plan: Plan, directory: Path, *, scene: Scene | None = None, server: Servers | None = None) -> Done:
    """Do a whole run and judge it. Without a scene: all that the plan draws. A `server` given is stopped at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "executions.log"
    fleet = Fleet(server or start_server(any_kind(), directory / "server"), plan, directory, log)
    try:
        with bound(fleet.url_of_producer(), APP) as tasks:
            client = Recorder(tasks.app, tasks)
            fleet.begin()
            began = executions.now()
            done = (scene or disturb)(plan, fleet, client)
            last = max((fault.until for fault in done), default=began)
            _wait_quiet(client)
            quiet_at = executions.now()
        fleet.end()
        quiet, kept = look(fleet.server.url, fleet.server.urls, plan.queues)
        found = executions.read(log)
        done = [*done, *faults.by_the_machine(fleet.stood_still(), done), *fleet.unanswered()]
        history = History(
            found.lines, tuple(client.submitted), tuple(client.stopped), (*client.ended, *kept), tuple(done),
            fleet.events(), quiet, lease_s=plan.lease_s, note=f"{plan.seed}",
        )  # fmt: skip
        return Done(history, judge(history), quiet_at - began, quiet_at - last, len(found.torn))
    finally:
        fleet.close()


def disturb(plan: Plan, fleet: Fleet, client: Recorder, *, tell: Callable[[str], None] = lambda _: None) -> list[Fault]:
    """Let the producer submit, and do each fault when its share of the tasks has ended."""
    producer = Producer(client, workload.plan(plan.seed, plan.tasks, plan.queues), fleet.log)
    ways = faults.Faults(fleet, executions.Tail(fleet.log), seed=plan.seed)
    producer.start()
    for share, kind in faults.plan(plan.seed, sorted(set(plan.faults)), len(plan.faults)):
        producer.go_on_to(int((share + AHEAD) * plan.tasks))
        until = executions.now() + QUIET_S
        while not client.wait(lambda share=share: client.done >= share * plan.tasks, 0.05):
            ways.tend()
            if executions.now() > until:
                said = "\n".join(worker.log() for worker in fleet.workers)
                raise AssertionError(f"{client.done} of {plan.tasks} tasks have ended, and nothing more does:\n{said}")
        ways.tend()
        fault = ways.do(kind)
        tell(f"{client.done:>7,} tasks: {fault or kind + ': nothing to do it to'}")
    wait_until(ways.tend, timeout=10 * plan.lease_s, description="all frozen workers to be thawed")
    producer.go_on_to(plan.tasks)
    producer.join()
    if producer.error is not None:
        raise producer.error
    return ways.done


def _wait_quiet(client: Recorder) -> None:
    """Wait until all that is known to be queued has ended; what has not is for the judge."""
    while client.pending:
        before = client.done
        if not client.wait(lambda before=before: client.done > before or not client.pending, QUIET_S):
            return


def _counted(words: object) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in sorted(Counter(words).items())) or "none"  # type: ignore[call-overload]


def main() -> int:
    """`make chaos`: one run, its summary, and the history kept if it is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(faults.KINDS), help="which faults, by comma")
    parser.add_argument("--server", choices=KINDS, help="default: whichever is here, redis first")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    plan = Plan(given.seed, given.tasks, [kinds[n % len(kinds)] for n in range(given.faults)], given.workers)
    directory = Path(tempfile.mkdtemp(prefix="qworker-chaos-"))
    scene = functools.partial(disturb, tell=functools.partial(print, flush=True))
    kind = given.server or any_kind()
    done = run(plan, directory, scene=scene, server=start_server(kind, directory / "server"))
    print(done.summary())
    late = done.times[1]
    if done.violations or late:
        save(done.history, directory / "history.jsonl")
        print(report(done.violations), *late, sep="\n")
        print(f"kept: {directory}\nagain: python -m support.history.chaos --seed {given.seed} --tasks {given.tasks} "
              f"--faults {given.faults} --workers {given.workers} --kinds '{given.kinds}' --server {kind}")  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
