"""The cost account: microseconds of processor time that one task costs, and who spends them.

    python -m benchmarks account [--rounds 3] [--quick] [--profile SECONDS] [--json] [--out FILE]

Five loads on one worker of two processes, with its defaults and a private redis-server: bulk submit, submit one by one,
a drain with results, submit + run + all results, and round trips. Each figure is the median of the rounds. The lower
table is what SLOWLOG notes of each script in them: by the clock, so on a busy machine too much. Outcomes stay for an
hour, so a later round finds more of them; docs/performance.md says what that costs.

--profile adds the functions in which each Python party spends its time, as py-spy sees them from outside (it must be
on PATH, or beside this interpreter, and may have to run as root).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import machine
from .parties import PARTIES, Cost, Place
from .processes import children

WAITING = (".wait", ".select", "poll")  # py-spy cannot always tell that a thread sleeps
Load = Callable[[Place, int], Cost]


def bulk(place: Place, count: int) -> Cost:
    """Submit in bulk; nobody runs them yet."""
    return _submitting(place, count, "many")


def one_by_one(place: Place, count: int) -> Cost:
    """Submit one at a time; nobody runs them yet."""
    return _submitting(place, count, "one")


def _submitting(place: Place, count: int, how: str) -> Cost:
    place.queued(0)
    with place.measure() as meter:
        place.order("submit", count=count, how=how)
    place.drained()
    place.order("collect")
    return meter.cost(count)


def drain(place: Place, count: int) -> Cost:
    """Run what is queued; the outcomes are pushed to the client, which waits for nothing."""
    place.queued(count)
    with place.measure() as meter:
        place.drained()
    place.order("collect")
    return meter.cost(count)


def run_all(place: Place, count: int) -> Cost:
    """Submit in bulk and wait for all results."""
    with place.measure() as meter:
        place.order("submit", count=count)
        place.order("collect")
    return meter.cost(count)


def round_trips(place: Place, count: int) -> Cost:
    """Submit one and wait for its result, and so on."""
    with place.measure() as meter:
        place.order("trips", count=count)
    return meter.cost(count)


LOADS: dict[str, tuple[Load, int]] = {
    "bulk submit": (bulk, 20_000),
    "one by one": (one_by_one, 3_000),
    "drain": (drain, 20_000),
    "run all": (run_all, 10_000),
    "round trip": (round_trips, 1_000),
}


def median(costs: list[Cost]) -> dict[str, Any]:
    """Return the medians of several costs of one load, field by field."""
    return _median([cost.told() for cost in costs])


def _median(many: list[Any]) -> Any:
    if isinstance(many[0], dict):
        names = {name: None for one in many for name in one}
        return {name: _median([one[name] for one in many if name in one]) for name in names}
    return statistics.median(many)


def table(figures: dict[str, Any]) -> str:
    """Return the account as lines for people."""
    rows: dict[str, list[float]] = {
        **{party: [one["cpu_us"][party] for one in figures.values()] for party in PARTIES},
        "all": [one["total_cpu_us"] for one in figures.values()],
        "by the clock": [one["wall_us"] for one in figures.values()],
    }
    lines = [f"{'CPU, µs per task':<16}" + "".join(f"{load:>13}" for load in figures)]
    lines += [f"{name:<16}" + "".join(f"{number:>13.1f}" for number in row) for name, row in rows.items()]
    lines += ["", "Redis, µs (calls) per task, by script"]
    for load, one in figures.items():
        spent = sorted(one["scripts"].items(), key=lambda item: -item[1]["us_per_task"])
        shown = [f"{name} {row['us_per_task']:.2f} ({row['calls_per_task']:.3g})" for name, row in spent[:6]]
        lines.append(f"  {load:<14}" + "  ".join(shown))
    return "\n".join(lines)


# ── where in the code ────────────────────────────────────────────────────────────────────────────────────────────────


def profile(place: Place, seconds: float) -> dict[str, list[tuple[float, str]]]:
    """Return the functions in which each Python party spends most, while tasks are submitted, run and awaited."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        raise SystemExit("--profile: no py-spy on PATH: pip install py-spy")
    worker = place.workers[0].pid
    forker = children()[worker][0]
    parties = {"producer": place.producer.process.pid, "supervisor": worker, "child": children()[forker][0]}
    running = {}
    for party, pid in parties.items():
        command = [spy, "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", "500"]
        command += ["--function", "--format", "raw", "--output", str(place.folder / party)]
        running[party] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while any(one.poll() is None for one in running.values()):
        place.order("submit", count=5_000)
        place.order("collect")
    found = {}
    for party, one in running.items():
        _, said = one.communicate()
        if one.returncode:
            raise SystemExit(f"py-spy could not look at the {party}: {said.strip().splitlines()[-1]}")
        found[party] = hottest((place.folder / party).read_text())
    return found


def hottest(raw: str, most: int = 12) -> list[tuple[float, str]]:
    """Return the functions that were at the top of most stacks, each with its share; those that wait are left out."""
    own: Tally[str] = Tally()
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        function = stack.rpartition(";")[2]
        if not function.partition(" ")[0].endswith(WAITING):
            own[function] += int(samples)
    total = sum(own.values())
    return [(samples / total, function) for function, samples in own.most_common(most)]


def add_to(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command line."""
    one = verbs.add_parser("account", help="who spends how many microseconds of processor time per task")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--quick", action="store_true", help="few tasks: shows that all works, the figures mean nothing")
    one.add_argument("--profile", type=float, metavar="SECONDS", help="the hottest functions, too, by py-spy")
    one.add_argument("--json", action="store_true")
    one.add_argument("--out", type=Path, help="write the figures into this file, too")
    one.set_defaults(verb=main)


def main(given: argparse.Namespace) -> int:
    """Measure and print."""
    profiles = None
    costs: dict[str, list[Cost]] = {load: [] for load in LOADS}
    with Place() as place:
        place.tell_scripts_apart(True)
        for _ in range(given.rounds):
            for load, (run, count) in LOADS.items():
                costs[load].append(run(place, count // 20 if given.quick else count))
        place.tell_scripts_apart(False)
        if given.profile:
            profiles = profile(place, given.profile)
    figures = {load: median(rounds) for load, rounds in costs.items()}
    told = {"machine": machine.facts(), "loads": figures} | ({"profile": profiles} if profiles else {})
    if given.out:
        given.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(told, ensure_ascii=False) if given.json else table(figures))
    for party, functions in (profiles or {}).items() if not given.json else ():
        print(f"\n{party}: where it was (share of its samples, without those in which it waited)")
        for share, function in functions:
            print(f"  {share:6.1%}  {function}")
    return 0
