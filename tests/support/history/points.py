"""Every fault point with every action: a small run each, with real workers, judged like any other.

    sweep(seed) ─► [Case] ─► run(case): armed workers, a healthy one, 200 tasks ─► the faults that happened ─► judge

python -m support.history.points                                   all of them, several at once      (make points)
python -m support.history.points child.mid_frame:kill9:3           one run; each word arms a worker of its own
python -m support.history.points --seed 7                          all, at other passings of their points
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import redis

from qworker import faultpoints
from qworker.broker import scripts
from qworker.faultpoints import ACTIONS, POINTS
from support.daemon import Worker, alive
from support.servers import KINDS, Kind, start_server
from support.waiting import wait_until

from . import chaos, sender, workload
from .client import Batch, Recorder
from .executions import now
from .judge import Violation, report
from .records import Fault, Submitted, save
from .strikes import Watch

LEASE_S = 1.0
FROZEN_S = 1.7 * LEASE_S  # a worker: its lease lapses meanwhile
HELD_UP_S = 0.5  # any other process: for longer than a loop may stand still
TASKS = 200
WITHIN_S = 60.0
AGAIN_S = 6.0
FEWEST_PENDING = 20
MORE = Batch("short", "nap", (0.004,), 16)
LONG = Batch("long", "nap", (1.2,), 6)  # a start that is recorded
# How often a point is passed in such a run at least: at which of them its fault happens is drawn.
PASSINGS = {"submit": 6, "claim": 4, "start": 2, "renew": 4, "settle": 6, "dispatch": 4, "spawn": 4, "child": 12}


class Case(NamedTuple):
    """One run: what its armed workers (or its producer) carry, each a value of QWORKER_FAULT."""

    armed: tuple[str, ...]
    seed: int = 0
    server: Kind | None = None  # None: whichever is here

    @property
    def points(self) -> list[str]:
        return [fault.point for armed in self.armed for fault in faultpoints.parse(armed)]

    @property
    def sends(self) -> bool:
        """Whether it is a producer that is armed."""
        return any(POINTS[point].process == "producer" for point in self.points)

    def has(self, *names: str) -> bool:
        return any(point.startswith(names) for point in self.points)

    def __str__(self) -> str:
        server = f" --server {self.server}" if self.server else ""
        return f"{' '.join(self.armed)} --seed {self.seed}{server}"


@dataclass(frozen=True)
class Verdict:
    """What came of a case. Without an error and violations it was clean."""

    case: Case
    took_s: float
    violations: list[Violation] = field(default_factory=list)
    error: str = ""
    kept: str = ""

    @property
    def text(self) -> str:
        """What was wrong, with what runs it again; empty if nothing was."""
        if not self.violations and not self.error:
            return ""
        again = f"again: PYTHONPATH=src:tests python -m support.history.points {self.case}"
        return f"{self.error or report(self.violations)}\nkept: {self.kept}\n{again}"


def fault(point: str, action: str, seed: int) -> str:
    """A fault as the variable names it, at a passing of its point that the seed draws."""
    process = POINTS[point].process
    nth = random.Random(f"{seed} {point} {action}").randint(1, PASSINGS.get(point.partition(".")[0], 1))
    if action == "sleep":
        action = f"sleep={FROZEN_S if process == 'worker' else HELD_UP_S:g}"
    return f"{point}:{action}:{nth}"


def sweep(seed: int = 0) -> list[Case]:
    """Every point with every action that makes sense there."""
    return [
        Case((fault(point, action, seed),), seed)
        for point in POINTS
        for action in ACTIONS
        if not faultpoints.senseless(point, action)
    ]


def together(*faults: str) -> Case:
    """A case in which one process does all of these to itself."""
    return Case((",".join(faults),))


# Every point, once killed and once (where there is a connection) cut, in as few runs as may be.
QUICK = (
    together("claim.sent:cut:2", "claim.reply:cut:4", "start.sent:cut", "start.reply:cut:2",
             "renew.sent:cut:2", "renew.reply:cut:4", "settle.sent:cut:2", "settle.reply:cut:5"),
    together("release.sent:cut", "release.reply:cut"),
    together("rescue.sent:cut", "rescue.reply:cut"),
    together("submit.sent:cut:2", "submit.reply:cut:5"),
    together("child.before_fn:kill9:5", "child.after_fn:kill9:9", "child.mid_frame:kill9:14",
             "child.mid_frame:cut:25", "spawn.forked:kill9:6"),
    Case(("claim.sent:kill9:2", "claim.reply:kill9:3", "dispatch:kill9:2")),
    Case(("settle.sent:kill9:3", "settle.reply:kill9:5", "renew.sent:kill9:3")),
    Case(("start.sent:kill9", "start.reply:kill9", "renew.reply:kill9:2")),
    Case(("spawn.sent:kill9:3", "stop.begin:kill9", "stop.end:kill9")),
    Case(("release.sent:kill9", "release.reply:kill9", "drain.begin:kill9", "drain.end:kill9")),
    Case(("rescue.sent:kill9", "rescue.reply:kill9")),
    Case(("submit.sent:kill9:3",)),
    Case(("submit.reply:kill9:3",)),
)  # fmt: skip


def run(case: Case, directory: Path) -> Verdict:
    """Do one case and judge it."""
    began = time.monotonic()
    armed = () if case.sends else case.armed
    plan = chaos.Plan(
        case.seed, TASKS, workers=len(armed) + 1 + case.has("rescue"), slots="process=2,thread=2,async=4",
        lease_s=LEASE_S, armed=armed,
    )  # fmt: skip
    try:
        scene = functools.partial(_send if case.sends else _strike, case)
        server = None if case.server is None else start_server(case.server, directory / "server")
        done = chaos.run(plan, directory, scene=scene, server=server)
    except AssertionError as error:
        return Verdict(case, time.monotonic() - began, error=str(error), kept=str(directory))
    history = done.history
    # Those that kill their own child, and those that may start only once: one death of others is theirs, too.
    dying = {submit.id for submit in history.submitted if submit.kind in ("dies", "poison") or submit.once}
    violations = done.violations + [
        Violation("P5", end.id, "an innocent ended as crashed", (str(end),))
        for end in history.ended
        if end.state == "crashed" and end.id not in dying
    ]
    if violations:
        save(history, directory / "history.jsonl")
    return Verdict(case, time.monotonic() - began, violations, kept=str(directory))


# ── scenes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _strike(case: Case, plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
    """Workers that carry faults: submit, lead each to its points, and wait for all that is to happen."""
    _load_scripts(fleet)
    tallies = [fleet.tally(n) for n in range(len(case.armed))]
    watch = _watch(case, tallies, fleet)
    armed = fleet.workers[: len(case.armed)]
    batches = list(workload.plan(plan.seed, plan.tasks))
    if case.has("start", "spawn", "stop"):
        # What dies makes suspects and new children, and what runs for a second has its start recorded.
        batches[:0] = [Batch("dies", "dies", (1,), 4), LONG]
    producer = chaos.Producer(client, batches, fleet.log)
    producer.go_on_to(sys.maxsize)
    leads = [lead(watch, armed, fleet, client) for names, lead in LEADS.items() if case.has(*names)]
    done: list[Fault] = []
    producer.start()

    def look() -> bool:
        for lead in leads:
            done.extend(next(lead, ()))
        if watch.happened < len(case.points) and not producer.is_alive() and client.pending < FEWEST_PENDING:
            # Who passes a point how often is up to the machine: the work lasts until all has happened.
            client.submit(LONG if case.has("start") else MORE)
        return watch.look(armed)

    _until(look, watch, case, fleet)
    for lead in leads:
        lead.close()
    producer.join()
    if producer.error is not None:
        raise producer.error
    return [*done, *watch.done]


Lead = Generator[tuple[Fault, ...], None, None]
NAPS = Batch("long", "nap", (0.15,), 60)


def _stop(watch: Watch, armed: list[Worker], fleet: chaos.Fleet, client: Recorder) -> Lead:
    """Stop tasks that run in the armed workers."""
    futures = client.submit(Batch("stopped", "polite", (60.0,), 12, {"grace": 0.5}))
    ids = {future.id for future in futures}
    try:
        while any(w.process.poll() is None and ids.isdisjoint(line.id for line in watch.runs_in(w)) for w in armed):
            yield ()
    finally:  # also when all has happened by what others stop: each of these runs for a minute
        for future in futures:
            client.stop(future, "stop")


def _drain(watch: Watch, armed: list[Worker], fleet: chaos.Fleet, client: Recorder) -> Lead:
    """End each armed worker in order while it has more than it can start."""
    client.submit(NAPS)
    left, fed = dict.fromkeys(armed, 10), set()  # how many have to have started in it by then
    while left:
        for worker, least in list(left.items()):
            started = len(watch.runs_in(worker))
            if started < least:
                continue
            if worker in fed:
                worker.term()
                del left[worker]
            else:
                # On a busy machine this is seen late, when nothing may be left that it could give back.
                client.submit(NAPS)
                fed.add(worker)
                left[worker] = started + 4
        yield ()


def _kill_another(watch: Watch, armed: list[Worker], fleet: chaos.Fleet, client: Recorder) -> Lead:
    """Kill the last worker, so that the armed ones find it dead; another one, where its neighbours were quicker."""
    client.submit(Batch("long", "nap", (0.3,), 30))
    while True:
        last = fleet.workers[-1]
        while not watch.runs_in(last):
            yield ()
        at = now()
        last.kill()
        below = {line.pid for line in watch.lines if line.worker == str(last.pid)}
        wait_until(lambda: not any(map(alive, below)), description="the children of the killed worker to be gone")  # noqa: B023
        yield (Fault("kill worker", at, now(), worker=str(last.pid)),)
        while now() < at + AGAIN_S:
            yield ()
        fleet.replace(last)


LEADS: dict[tuple[str, ...], Callable[[Watch, list[Worker], chaos.Fleet, Recorder], Lead]] = {
    ("stop",): _stop,
    ("drain", "release"): _drain,
    ("rescue",): _kill_another,
}


def _send(case: Case, plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
    """A producer that carries a fault; who comes after it submits again what it has no answer for."""
    _load_scripts(fleet)
    tally, answers = fleet.tally(0), fleet.directory / "answers.jsonl"
    watch = _watch(case, [tally], fleet)
    env = {**os.environ, "QWORKER_URL": fleet.server.url, faultpoints.VARIABLE: case.armed[0],
           faultpoints.TALLY: str(tally), "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    command = [sys.executable, "-m", sender.__name__, str(plan.seed), str(plan.tasks), str(answers)]
    with subprocess.Popen(command, env=env) as process:
        try:
            _until(lambda: watch.look([None]) and process.poll() is not None, watch, case, fleet)
        finally:
            process.kill()
    told = [Submitted(**json.loads(line)) for line in answers.read_text().splitlines()]
    client.submitted += told
    accepted = {submitted.id for submitted in told if submitted.answer == "accepted"}
    for id_ in accepted:
        client.adopt(id_)
    for batch in sender.batches(plan.seed, plan.tasks):
        left = tuple(id_ for id_ in batch.ids if f"default:{id_}" not in accepted)
        if left:
            client.submit(replace(batch, ids=left))
    return watch.done


def _watch(case: Case, tallies: list[Path], fleet: chaos.Fleet) -> Watch:
    return Watch(tallies, expected=len(case.points), log=fleet.log, frozen_s=FROZEN_S, held_up_s=HELD_UP_S)


def _load_scripts(fleet: chaos.Fleet) -> None:
    """So that no call that a fault is waiting for is one that the server does not know yet."""
    with redis.Redis.from_url(fleet.server.url) as client:
        for name in scripts.names():
            client.script_load(scripts.load(name).text)


def _until(look: Callable[[], bool], watch: Watch, case: Case, fleet: chaos.Fleet) -> None:
    try:
        wait_until(look, timeout=WITHIN_S, description=f"what is armed to happen: {case}")
    except AssertionError as error:
        said = "\n".join(worker.log()[-2000:] for worker in fleet.workers)
        raise AssertionError(f"{error}; {watch.happened} of {len(case.points)} have happened\n{said}") from None


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Run cases, several at once; tell what was bad, and what was left out, and why."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("armed", nargs="*", help="values of QWORKER_FAULT, one for each armed worker; else all points")
    parser.add_argument("--seed", type=int, default=0, help="draws the tasks, and at which passing each fault happens")
    parser.add_argument("--quick", action="store_true", help="only what the quick suite runs")
    parser.add_argument("--only", default="", help="of all points, only those whose fault has this in its name")
    parser.add_argument("--jobs", type=int, default=3, help="runs at once: most of their time is waiting")
    parser.add_argument("--server", choices=KINDS, help="default: whichever is here, redis first")
    given = parser.parse_args()
    if given.armed:
        cases = [Case(tuple(given.armed), given.seed)]
    else:
        cases = [case for case in (QUICK if given.quick else sweep(given.seed)) if given.only in str(case)]
    cases = [case._replace(server=given.server) for case in cases]
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="qworker-points-"))
    bad = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=given.jobs, mp_context=spawn) as executor:
        runs = [executor.submit(run, case, directory / f"{n}") for n, case in enumerate(cases)]
        for done in as_completed(runs):
            verdict = done.result()
            print(f"{'BAD' if verdict.text else 'clean':<6}{verdict.took_s:5.1f} s  {verdict.case}", flush=True)
            bad += [verdict] if verdict.text else []
    for verdict in bad:
        print(f"\n{verdict.case}\n{verdict.text}")
    if not given.armed:
        print(f"\nleft out:\n{left_out()}")
    print(f"\n{len(cases)} runs in {time.monotonic() - began:.0f} s, {len(bad)} of them bad")
    if not bad:
        shutil.rmtree(directory)
    return 1 if bad else 0


def left_out() -> str:
    """Which actions make no sense where, and why."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for point in POINTS:
        for action in ACTIONS:
            if why := faultpoints.senseless(point, action):
                reasons.setdefault((action, why), []).append(point)
    return "\n".join(f"  {action} at {', '.join(points)}: {why}" for (action, why), points in reasons.items())


if __name__ == "__main__":
    sys.exit(main())
