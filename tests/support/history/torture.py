"""The long run: a million tasks, a random fault every second, and every one of its rounds judged by the ten rules.

    calm ─► round 1 … round n, each a server, workers, faults by the clock, and the judge ─► calm ─► build/torture.json

Rounds take turns with the kinds of servers that are installed.
A round is what fits into the memory of a laptop; nothing of it but counts is kept, unless it is bad. The calm rounds
are the same work over the same wires without a fault: what the throughput among faults is compared with.

PYTHONPATH=src:tests python -m support.history.torture --tasks 1000000 --minutes 90      (make torture)
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

import qworker
from benchmarks.machine import facts
from support.servers import KINDS, Kind, find_server, start_server
from support.waiting import wait_until

from . import chaos, executions, faults, workload
from .client import Recorder
from .judge import report
from .records import Fault, save
from .tally import STOP, Tally, tally

ROUND = 50_000
LEFT = 0.02  # of a round: for so few that are left, no fault is done any more
LEAST_OF_CALM = 0.4  # of its throughput, while a fault comes every second
STOP_P99_MS = 50.0  # from a stop to the code that looks, calm (DESIGN §4, 8)
OUT = Path("build/torture.json")


def storm(
    plan: chaos.Plan,
    fleet: chaos.Fleet,
    client: Recorder,
    *,
    per_s: float,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Fault]:
    """Let the producer submit as fast as it may, and do faults by the clock until nearly all has ended.

    One that lasts longer than the time between two makes the next ones late; they follow at once.
    """
    producer = chaos.Producer(client, workload.plan(plan.seed, plan.tasks), fleet.log)
    ways = faults.Faults(fleet, executions.Tail(fleet.log), seed=plan.seed)
    draw = random.Random(plan.seed)
    deck: list[str] = []
    producer.go_on_to(plan.tasks)
    producer.start()
    due = executions.now()
    moved, ended = due, 0

    def over() -> bool:
        return not producer.is_alive() and client.pending < LEFT * plan.tasks

    while not over():
        due += 1 / per_s
        while not over() and executions.now() < due:
            ways.tend()
            client.wait(over, min(0.1, max(0.0, due - executions.now())))
        if over():
            break
        deck = deck or draw.sample(plan.faults, len(plan.faults))  # all kinds equally often
        kind = deck.pop()
        ways.tend()
        fault = ways.do(kind)
        tell(f"{client.done:>7,} tasks: {fault or kind + ': nothing to do it to'}")
        if client.done > ended:
            moved, ended = executions.now(), client.done
        elif executions.now() > moved + chaos.QUIET_S:
            said = "\n".join(worker.log() for worker in fleet.workers)
            raise AssertionError(f"{ended} of {plan.tasks} tasks have ended, and nothing more does:\n{said}")
    wait_until(ways.tend, timeout=10 * plan.lease_s, description="all frozen workers to be thawed")
    producer.join()
    if producer.error is not None:
        raise producer.error
    return ways.done


class Torture:
    """Round after round, summed up."""

    def __init__(self, given: argparse.Namespace, directory: Path) -> None:
        self._given, self._directory = given, directory
        self.calm, self.storm = Tally(), Tally()
        self.rounds: list[dict[str, Any]] = []
        self.bad: list[str] = []  # where the history of each bad round is
        self.began = time.time()

    def run(self) -> None:
        """All rounds, or as many as there is time for."""
        given = self._given
        calm = min(given.round, given.tasks)  # as much as a round: how it begins and ends counts alike
        ends = time.monotonic() + 60 * given.minutes
        self.calm.add(self._round("calm", given.seed, calm))
        while self.storm.tasks < given.tasks and time.monotonic() < ends:
            count = min(given.round, given.tasks - self.storm.tasks)
            self.storm.add(self._round("faults", given.seed + 1 + len(self.rounds), count))
            self.write()
        self.calm.add(self._round("calm", given.seed + 1 + len(self.rounds), calm))
        self.write()

    def _round(self, what: str, seed: int, count: int) -> Tally:
        given = self._given
        kinds = () if what == "calm" else tuple(given.kinds.split(","))
        plan = chaos.Plan(seed, count, kinds, given.workers, wired=True)
        directory = self._directory / str(len(self.rounds))
        tell = functools.partial(print, flush=True) if given.verbose else lambda _: None
        scene = functools.partial(storm, per_s=given.faults_per_second, tell=tell) if kinds else None
        kind = given.servers.split(",")[len(self.rounds) % len(given.servers.split(","))]
        done = chaos.run(plan, directory, scene=scene, server=start_server(kind, directory / "server"))
        found = tally(done.history, done.violations, done.took_s, done.torn)
        if done.violations or found.late:
            save(done.history, directory / "history.jsonl")
            self.bad.append(str(directory))
            print(report(done.violations), *found.late[:10], f"kept: {directory}", sep="\n")
        else:
            shutil.rmtree(directory)
        counts = {"tasks": found.tasks, "faults": found.faults.total(), "duplicates": found.duplicates.total()}
        counts |= {"late": len(found.late), "lost": found.lost, "violations": found.violations.total()}
        self.rounds.append(
            {"what": what, "server": kind, "seed": seed, **counts, "tasks_per_s": round(found.tasks / found.took_s, 1)}
        )
        print(f"round {len(self.rounds)}: {self.rounds[-1]}", flush=True)
        return found

    def result(self) -> dict[str, Any]:
        """Everything that is to be known of it."""
        given = self._given
        storm, calm = self.storm.as_json(), self.calm.as_json()
        names = ("tasks", "faults_per_second", "minutes", "seed", "round", "workers")
        command = [word for name in names for word in (f"--{name.replace('_', '-')}", f"{getattr(given, name)}")]
        if given.kinds != ",".join(faults.KINDS):
            command += ["--kinds", given.kinds]
        if given.servers != ",".join(installed()):
            command += ["--servers", given.servers]
        asked = shlex.join(command)
        return {
            "command": f"make torture ARGS={shlex.quote(asked)}",
            "seed": given.seed,
            "asked_tasks": given.tasks,
            "faults_per_second": given.faults_per_second,
            "workers": given.workers,
            "date": time.strftime("%Y-%m-%d", time.gmtime(self.began)),
            "note": given.note,
            "versions": versions(*given.servers.split(",")),
            "machine": facts(),
            "judge_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "calm": calm,
            "faults": storm,
            "share_of_calm": round(storm["tasks_per_s"] / calm["tasks_per_s"], 3) if calm["tasks_per_s"] else 0.0,
            "rounds": self.rounds,
        }

    def write(self) -> dict[str, Any]:
        """Keep what is known so far: an hour that is cut short is not lost."""
        result = self.result()
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(result, indent=1) + "\n")
        return result


def installed() -> list[Kind]:
    """The kinds of servers that are here."""
    return [kind for kind in KINDS if find_server(kind) is not None]


def versions(*servers: Kind) -> dict[str, str]:
    """Of all that took part."""
    found = {"qworker": qworker.__version__, "python": sys.version.split()[0], "redis-py": redis.__version__}
    for kind in servers:
        said = subprocess.run([find_server(kind) or kind, "--version"], capture_output=True, text=True, check=True)
        words = said.stdout.split()
        found[kind] = next((word.removeprefix("v=") for word in words if word.startswith("v=")), said.stdout.strip())
    return found


def wrong_with(result: dict[str, Any]) -> list[str]:
    """What a run should not have shown; nothing, if all is as promised."""
    found = []
    for what in ("calm", "faults"):
        counts = result[what]
        if counts["lost"]:
            found.append(f"{counts['lost']} tasks were lost ({what})")
        if counts["violations"]:
            found.append(f"rules are broken ({what}): {counts['violations']}")
        accepted = counts["submits"].get("accepted", 0)
        ended, unknown = sum(counts["outcomes"].values()), counts["submits"].get("unknown", 0)
        if not accepted <= ended <= accepted + unknown:
            found.append(f"{accepted} tasks were accepted, {unknown} perhaps, and {ended} have ended ({what})")
        if sum(counts["submits"].values()) != counts["tasks"]:
            found.append(f"{counts['tasks']} tasks, and their answers do not add up to that ({what})")
    if not result["faults"]["tasks"]:
        found.append("no round with faults was run")
    return found + late_in(result)


def late_in(result: dict[str, Any]) -> list[str]:
    """What was beyond its bound, while nothing was lost and no rule was broken."""
    found = [
        f"{len(late)} times were beyond their bounds ({what}): {'; '.join(late[:5])}"
        for what in ("calm", "faults") if (late := result[what].get("late"))
    ]  # fmt: skip
    p99_ms = result["calm"]["latencies"].get(STOP, {}).get("p99_ms", 0.0)
    if p99_ms > STOP_P99_MS:
        found.append(f"the 99th of 100 stops took {p99_ms:g} ms to its code, calm, and {STOP_P99_MS:g} is promised")
    return found


def missed_by(result: dict[str, Any]) -> list[str]:
    """What it fell short of without breaking a promise."""
    share = result["share_of_calm"]
    if share >= LEAST_OF_CALM:
        return []
    return [f"throughput among faults was {share:.0%} of calm, and {LEAST_OF_CALM:.0%} is aimed at"]


def main() -> int:
    """`make torture`: all rounds, the result file, and what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--faults-per-second", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=90, help="begin no round after so many")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--round", type=int, default=ROUND, help="so many tasks are judged at once")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(faults.KINDS), help="which faults, by comma")
    parser.add_argument("--servers", default=",".join(installed()), help="in turn, by comma: redis, valkey")
    parser.add_argument("--note", default="", help="a word on the circumstances, for the page")
    parser.add_argument("--verbose", action="store_true", help="tell every fault")
    torture = Torture(parser.parse_args(), Path(tempfile.mkdtemp(prefix="qworker-torture-")))
    torture.run()
    result = torture.write()
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))
    found = wrong_with(result)
    print("\n".join([*found, *torture.bad, *missed_by(result)]) or "all as promised", f"written: {OUT}", sep="\n")
    return 1 if found or missed_by(result) else 0


if __name__ == "__main__":
    sys.exit(main())
