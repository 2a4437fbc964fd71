"""Fail when qworker does more per task than it did: `make bench-guard`.

    python -m benchmarks guard [--record] [--only WORDS] [--rounds N] [--json]

Counted, never timed: Redis commands and bytes, bytecode instructions and calls into C in the hot paths, blocks of
memory held, system calls, and what an idle worker asks of Redis. A busy machine counts the same as a quiet one. Each
figure is what one more task costs: the difference between a run of 2N tasks and one of N, so that no start-up is in it.

The bounds are in guard.json; a figure without one is shown as skipped. What is above its bound is counted twice more,
and the least counts. `--record` writes the most of all rounds, and 5 %, as the new bounds: say in the commit why they
moved.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from . import counting, rig
from .processes import die_with_parent
from .server import Server

HERE = Path(__file__).resolve().parent
BOUNDS = HERE / "guard.json"
PATH = os.pathsep.join([str(HERE.parent), str(HERE.parent / "src")])
HEADROOM = 1.05
IDLE_HEADROOM = 1.15  # what comes by the clock falls into the window once more or once less
WAKING_HEADROOM = 1.2  # a child that wakes for the body of its order looks once more for the token
IDLE_S = 10.0
STARTING_CALLS = 5  # of a worker, after which it is known to have begun
SETTLED_S = 2.0  # and what it does once is behind it
_INSTANT = "an instant of the guard"
WINDOW = 64
ROUNDS = 3
WITHIN_S = 60.0

Counts = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One figure beside its bound."""

    name: str
    measured: float
    bound: float | None

    @property
    def verdict(self) -> str:
        """`ok`, `GREW`, or why nothing can be said."""
        if self.bound is None:
            return "skipped: no bound is recorded"
        return "ok" if self.measured <= self.bound else "GREW"


# ── what runs, and what is counted of it ─────────────────────────────────────────────────────────────────────────────


class Rig:
    """Starts the processes of rig.py on one server, and reads what they have counted."""

    def __init__(self, server: Server, folder: Path, *, strace: bool) -> None:
        self.server, self.folder, self.strace = server, folder, strace
        self._made = 0

    def run(self, role: str, *args: str, count: bool, pass_fds: Iterable[int] = ()) -> Running:
        """Start one; `count`: its instructions, else its system calls, where that can be done."""
        self._made += 1
        told = self.folder / f"{self._made}-{role}.json"
        command = [sys.executable, "-m", "benchmarks.rig", role, *args, str(told)]
        traced = self.folder / f"{self._made}-{role}.strace" if self.strace and not count else None
        if traced:
            command = counting.under_strace(command, traced)
        env = os.environ | {
            "QWORKER_URL": self.server.url,
            "PYTHONPATH": PATH,
            "PYTHONHASHSEED": "0",
            "RIG_COUNT": "1" if count else "0",
        }
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=env, stdout=subprocess.PIPE, text=True, pass_fds=tuple(pass_fds),
            preexec_fn=die_with_parent,
        )  # fmt: skip
        return Running(process, told, traced)

    def counted(self) -> Counts:
        """Return what the server has counted."""
        return {f"Redis {name}": number for name, number in counting.server_counts(self.server.client).items()}


@dataclass
class Running:
    """A process of the rig."""

    process: subprocess.Popen[str]
    told: Path
    traced: Path | None

    def counts(self) -> Counts:
        """Wait for its end and return what it counted."""
        try:
            self.process.wait(WITHIN_S)
        finally:
            self.stop()
        if self.process.returncode:
            raise SystemExit(f"a counted process failed: {self.process.args} ended with {self.process.returncode}")
        found: Counts = json.loads(self.told.read_text())
        return found | (counting.system_calls(self.traced) if self.traced else {})

    def stop(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def submit_one(rig_: Rig, tasks: int, count: bool) -> Counts:
    return _submit(rig_, "one", tasks, count)


def submit_many(rig_: Rig, tasks: int, count: bool) -> Counts:
    return _submit(rig_, "many", tasks, count)


def _submit(rig_: Rig, mode: str, tasks: int, count: bool) -> Counts:
    with rig_.run("client", mode, str(tasks), count=count) as client:
        return _named("producer", client.counts()) | rig_.counted()


def drain(rig_: Rig, tasks: int, count: bool) -> Counts:
    """Tasks that are queued when the worker starts; their producer waits for all results."""
    with rig_.run("client", "collect", str(tasks), count=count) as client:
        assert client.process.stdout is not None
        if client.process.stdout.readline() != "queued\n":
            raise SystemExit("the producer did not queue its tasks")
        rig_.server.client.config_resetstat()
        with rig_.run("worker", str(WINDOW), "burst", count=count) as worker:
            theirs = _named("worker", worker.counts())
        return _named("client", client.counts()) | theirs | rig_.counted()


def round_trip(rig_: Rig, tasks: int, count: bool) -> Counts:
    """One task at a time: submitted, run, its result awaited."""
    with rig_.run("worker", str(WINDOW), "stay", count=count) as worker:
        with rig_.run("client", "trip", str(tasks), count=count) as client:
            theirs = _named("client", client.counts())
        worker.process.terminate()
        return theirs | _named("worker", worker.counts()) | rig_.counted()


def child_drain(rig_: Rig, tasks: int, count: bool) -> Counts:
    return _child(rig_, "drain", tasks, count)


def child_trip(rig_: Rig, tasks: int, count: bool) -> Counts:
    return _child(rig_, "trip", tasks, count)


def _child(rig_: Rig, mode: str, tasks: int, count: bool) -> Counts:
    running: list[Running] = []

    def start(ends: Iterable[int]) -> subprocess.Popen[str]:
        running.append(rig_.run("child", *map(str, ends), count=count, pass_fds=ends))
        return running[0].process

    try:
        rig.feed(mode, tasks, start)
        return _named("child", running[0].counts())
    finally:
        for one in running:
            one.stop()


def _named(party: str, counts: Counts) -> Counts:
    """Name counts after their party. Its main thread and its listener are one: either of them may read a push."""
    named: Counts = {}
    for name, number in counts.items():
        thread, _, what = name.partition(": ")
        known = f"{party}: {what if thread in ('MainThread', 'qworker-io') else name}"
        named[known] = named.get(known, 0) + number
    return named


# N, and the scenario: run with N and with 2N tasks.
SCENARIOS: Mapping[str, tuple[int, Callable[[Rig, int, bool], Counts]]] = {
    "submit one by one": (512, submit_one),
    "submit_many": (1024, submit_many),
    "drain with results": (1024, drain),
    "round trip": (160, round_trip),
    "child, drain": (128, child_drain),
    "child, one at a time": (64, child_trip),
}


def measure(rig_: Rig, scenario: str) -> Counts:
    """Return what one more task costs in a scenario."""
    tasks, run = SCENARIOS[scenario]
    found: Counts = {}
    for count in (True, False):
        some, more = (_run(rig_, run, times * tasks, count) for times in (1, 2))
        for name in some.keys() | more.keys():
            if not count and name.startswith("Redis"):
                continue  # counted already
            if name.endswith("waits") and ("drain" in scenario or not name.startswith("producer")):
                continue  # it waits as often as others are late
            if "drain" in scenario and name.startswith("client") and name.endswith(counting.LIBRARY):
                continue  # little, and as much as the pushes come in pieces
            if name == "worker: blocks":
                if scenario.startswith("drain"):
                    found[f"{scenario}: {name} held"] = more[name] / WINDOW  # of a full window, however many there were
            else:
                found[f"{scenario}: {name}"] = (more.get(name, 0) - some.get(name, 0)) / tasks
    return {_keyed(name): number for name, number in sorted(found.items()) if number > 0.0005}


def _run(rig_: Rig, run: Callable[[Rig, int, bool], Counts], tasks: int, count: bool) -> Counts:
    rig_.server.empty()
    return run(rig_, tasks, count)


def _keyed(name: str) -> str:
    """Say with a figure what else it depends on: the Python, redis-py, the event loop."""
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    if name.endswith((counting.OURS, counting.LIBRARY, "blocks", "blocks held")):
        name += f" [Python {sys.version_info.major}.{sys.version_info.minor}]"
    if f"in {counting.LIBRARY}" in name:
        name = name.replace(counting.LIBRARY, f"{counting.LIBRARY} {importlib.metadata.version('redis')}")
    if name.endswith(("reads and writes", "waits")):
        name += f" [{platform.system()}, {loop}]"
    return name


def idle(server: Server, seconds: float = IDLE_S) -> Counts:
    """Return how often an idle worker of two processes asks the server for something, per second."""
    env = os.environ | {"QWORKER_URL": server.url, "PYTHONPATH": PATH}
    command = [sys.executable, "-m", "qworker", "start", "benchmarks.rig:app", "-c", "2", "--log-level", "error"]
    worker = subprocess.Popen(command, cwd=HERE.parent, env=env, preexec_fn=die_with_parent)
    calls = 0
    try:
        with redis.Redis.from_url(server.url, socket_timeout=WITHIN_S).monitor() as heard:
            heard_calls = (seen for seen in heard.listen() if seen["client_type"] != "lua")
            # The instants come as commands of ours, so that nobody waits for a worker that asks for nothing.
            for _ in range(STARTING_CALLS):
                next(heard_calls)
            timers = [threading.Timer(SETTLED_S + after, server.client.echo, [_INSTANT]) for after in (0.0, seconds)]
            for timer in timers:
                timer.start()
            instants = 0
            while instants < len(timers):
                if _INSTANT in next(heard_calls)["command"]:
                    instants += 1
                else:
                    calls += instants
            for timer in timers:
                timer.join()
    finally:
        worker.terminate()
        worker.wait(30)
    return {"idle worker: calls to Redis per second": calls / seconds}


# ── bounds and verdicts ──────────────────────────────────────────────────────────────────────────────────────────────


def judged(measured: Counts, bounds: Mapping[str, float]) -> list[Row]:
    """Put each figure beside its bound."""
    return [Row(name, number, bounds.get(name)) for name, number in measured.items()]


def bound_for(name: str, measured: float) -> float:
    """Return the bound to record for a figure: a little above it, in three digits."""
    bound = measured * HEADROOM + 0.02
    if name.startswith("idle"):
        bound = measured * IDLE_HEADROOM + 2 / IDLE_S
    elif name.startswith("child, one at a time") and "Linux" in name:
        bound = measured * WAKING_HEADROOM
    digits = 2 - math.floor(math.log10(bound))
    return math.ceil(bound * 10**digits) / 10**digits


def least(one: Counts, other: Counts) -> Counts:
    """Return the smaller of two measurements of each figure."""
    return {name: min(number, other.get(name, number)) for name, number in one.items()}


def table(rows: Iterable[Row]) -> str:
    """Return the rows as lines for people."""
    lines = [f"{'what one task costs':<88}{'measured':>12}{'bound':>12}  verdict"]
    for row in rows:
        bound = "-" if row.bound is None else f"{row.bound:,.3f}"
        lines.append(f"{row.name:<88}{row.measured:>12,.3f}{bound:>12}  {row.verdict}")
    return "\n".join(lines)


def run(wanted: str = "", *, bounds: Mapping[str, float], rounds: int = ROUNDS, settle: bool = False) -> Counts:
    """Measure; what is above its bound is measured again. `settle`: measure all in every round, and take the most."""
    names = [name for name in SCENARIOS if wanted in name]
    found: Counts = {}
    with tempfile.TemporaryDirectory(prefix="qworker-guard-") as folder, ThreadPoolExecutor(1) as idlers:
        servers = [Server(_folder(folder, name)) for name in ("counted", "idle")]
        try:
            beside = idlers.submit(idle, servers[1]) if wanted in "idle worker" else None
            rig_ = Rig(servers[0], Path(folder), strace=counting.strace_works())
            if not rig_.strace:
                print("system calls: skipped, for strace is not here or may not trace", file=sys.stderr)
            for name in names:
                counts = measure(rig_, name)
                for _ in range(rounds - 1):
                    if settle:
                        again = measure(rig_, name)
                        counts = {key: max(counts.get(key, 0), again.get(key, 0)) for key in counts | again}
                    elif any(row.verdict == "GREW" for row in judged(counts, bounds)):
                        counts = least(counts, measure(rig_, name))
                found |= counts
            if beside is not None:
                found |= beside.result()
        finally:
            for server in servers:
                server.stop()
    return found


def _folder(parent: str, name: str) -> Path:
    folder = Path(parent, name)
    folder.mkdir()
    return folder


def add_to(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command line."""
    one = verbs.add_parser("guard", help="count, and fail when a count grew past its bound (make bench-guard)")
    one.add_argument("--record", action="store_true", help="write what is measured as the new bounds")
    one.add_argument("--only", default="", metavar="WORDS", help="only the scenarios whose name contains this")
    one.add_argument("--rounds", type=int, default=ROUNDS, help="how often to look before something has grown")
    one.add_argument("--bounds", type=Path, default=BOUNDS, help="the file of the bounds")
    one.add_argument("--json", action="store_true")
    one.set_defaults(verb=main)


def main(given: argparse.Namespace) -> int:
    """Count, compare, and say so; exit code 1 when something grew."""
    known: dict[str, Any] = json.loads(given.bounds.read_text()) if given.bounds.exists() else {}
    bounds = known.get("bounds", {})
    found = run(given.only, bounds=bounds, settle=given.record, rounds=given.rounds)
    if given.record:
        bounds |= {name: bound_for(name, number) for name, number in found.items()}
        recorded = {"measured_with": "python -m benchmarks guard --record", "bounds": dict(sorted(bounds.items()))}
        given.bounds.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
    rows = judged(found, bounds)
    print(json.dumps([[row.name, row.measured, row.bound, row.verdict] for row in rows]) if given.json else table(rows))
    grew = [row for row in rows if row.verdict == "GREW"]
    if grew:
        print(
            f"\n{len(grew)} of {len(rows)} counts grew past their bounds. If that is meant, say why in the commit that"
            " records new ones: python -m benchmarks guard --record",
            file=sys.stderr,
        )
    return 1 if grew else 0
