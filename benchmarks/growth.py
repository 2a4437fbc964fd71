"""How what a task costs grows: with the window, the depth of the queue, its payload, workers, futures, and features.

    python -m benchmarks growth [--only a,b] [--rounds 3] [--quick] [--out docs/bench/growth.json] [--no-plots]

Processor time is that of all parties together (parties.py), of one task, and does not know what else the machine does;
wall time does. Every series is a private redis-server and workers with their defaults, but for what is varied. The file
keeps the series that were not measured this time, so one can be measured anew alone. About ten minutes for all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import environments, machine
from .account import drain, median, run_all
from .budget import no_longer_than
from .environments import MissingError
from .parties import QUEUE, ROOT, Place, by_script

OUT = ROOT / "docs" / "bench" / "growth.json"
PLOTTER = Path(__file__).with_name("growth_plots.py")

HANGS_AFTER_S = 180.0  # one series; `idle`, the slowest, took 110 on a busy machine

Series = dict[str, dict[str, Any]]  # what is varied -> figures


class Scale:
    """How much of everything is done."""

    def __init__(self, rounds: int, *, quick: bool) -> None:
        self.rounds = 1 if quick else rounds
        self.quick = quick

    def tasks(self, count: int) -> int:
        """Return how many tasks a run has."""
        return max(40, count // 20) if self.quick else count

    def upto(self, values: Iterable[int], most: int) -> list[int]:
        """Return the values of a series, without the large ones in a quick run."""
        return [value for value in values if not self.quick or value <= most]


# ── the series ───────────────────────────────────────────────────────────────────────────────────────────────────────


def window(scale: Scale) -> Series:
    """Drain 2 processes, with windows of a fixed size."""
    found: Series = {}
    for size in (1, 4, 16, 64, 256, 1024):
        count = scale.tasks(2_000 if size == 1 else 5_000 if size < 64 else 20_000)
        with Place(flags=("--window", str(size))) as place:
            found[str(size)] = median([drain(place, count) for _ in range(scale.rounds)])
    return found


def depth(scale: Scale) -> Series:
    """What claims take while so many tasks are queued: claimed and run from a queue that stays about as deep."""
    found: Series = {}
    with Place(workers=0) as place:
        place.order("submit", count=1)
        blob = place.server.client.hvals(QUEUE.prefix + "bodies")[0]
        place.tell_scripts_apart(True)
        for deep in scale.upto((0, 1_000, 10_000, 100_000, 1_000_000), 10_000):
            started = time.perf_counter()
            _pour(place, deep, blob)
            poured_s = time.perf_counter() - started
            taken = min(deep, scale.tasks(10_000)) * 9 // 10
            with place.measure() as meter:
                worker = place.start_worker(2, "--window", "256")
                if deep:
                    place.wait_left(deep - taken)
                else:
                    _wait(lambda: by_script(place.server).get("claim", (0, 0.0))[0] >= 3)
                worker.kill()
            place.workers.clear()
            claimed = _stat(place, "claimed")
            calls, seconds = meter.by_script.get("claim", (0, 0.0))
            found[str(deep)] = {
                "claim_us_per_call": seconds / max(1, calls) * 1e6,
                "claim_us_per_task": seconds / claimed * 1e6 if claimed else None,
                "tasks_per_claim": claimed / max(1, calls),
                "filled_in_s": poured_s,
            }
    return found


def payload(scale: Scale) -> Series:
    """Submit + run + all results, with bodies and values of so many bytes."""
    found: Series = {}
    with Place() as place:
        for size, count in ((10, 6000), (100, 6000), (1_000, 6000), (10_000, 3000), (100_000, 400), (1_000_000, 60)):
            count = scale.tasks(count)
            rounds = []
            for _ in range(scale.rounds):
                with place.measure() as meter:
                    place.order("submit", count=count, size=size)
                    place.order("collect")
                rounds.append(meter.cost(count))
            found[str(size)] = median(rounds)
    return found


def workers(scale: Scale) -> Series:
    """Drain with so many workers on one Redis, of one process each."""
    found: Series = {}
    for number in (1, 2, 4, 8):
        with Place(workers=number, slots=1) as place:
            found[str(number)] = median([drain(place, scale.tasks(20_000)) for _ in range(scale.rounds)])
    return found


def futures(scale: Scale) -> Series:
    """Round trips, and rest, while a client waits for so many others, which nobody runs."""
    found: Series = {}
    for waiting in scale.upto((0, 1_000, 10_000, 100_000), 1_000):
        with Place() as place:
            if waiting:
                place.order("submit", count=waiting, options={"queue": "nobody"})
            rounds, p50 = [], []
            for _ in range(scale.rounds):
                count = scale.tasks(300)
                with place.measure() as meter:
                    answer = place.order("trips", count=count)
                rounds.append(meter.cost(count))
                p50.append(statistics.median(answer["each"]) * 1e3)
            seconds = 1.0 if scale.quick else 6.0
            with place.measure() as rest:
                time.sleep(seconds)
            found[str(waiting)] = median(rounds) | {
                "round_trip_p50_ms": statistics.median(p50),
                "listener_cpu_at_rest": rest.cpu["listener"] / seconds,
                "redis_cpu_at_rest": rest.cpu["Redis"] / seconds,
            }
            place.order("forget")
    return found


def idle(scale: Scale) -> Series:
    """What so many idle workers of one process cost in a second."""
    found: Series = {}
    for number in scale.upto((1, 10, 50), 1):
        with Place(workers=0) as place:
            for _ in range(number):
                place.start_worker(1)
            _wait(lambda: place.server.client.zcard("qw:bench:workers") >= number, 120.0)  # noqa: B023 - used at once
            seconds = 2.0 if scale.quick else 20.0  # two beats of each
            time.sleep(3.0)  # what each does once is behind it
            before = _calls(place)
            with place.measure() as meter:
                time.sleep(seconds)
            found[str(number)] = {
                "redis_calls_per_worker": (_calls(place) - before) / seconds / number,
                "redis_cpu": meter.cpu["Redis"] / seconds,
                "worker_cpu": sum(meter.cpu[party] for party in ("supervisor", "fork server", "children"))
                / seconds
                / number,
            }
    return found


FEATURES: dict[str, dict[str, Any]] = {
    "retries=3": {"options": {"retries": 3}},
    "a given id": {"options": {"given_id": True}},
    "timeout=None": {"options": {"timeout": None}},
    "timeout=60": {"options": {"timeout": 60}},
    "deadline=60": {"options": {"deadline": 60}},
    "max_crashes=1": {"options": {"max_crashes": 1}},
    "delivery=at_most_once": {"options": {"delivery": "at_most_once"}},
    "priority=high": {"options": {"priority": "high"}},
    "delay of 10 ms": {"options": {"delay": 0.01}},
    "result_ttl=0": {"options": {"result_ttl": 0}},
    "in a group": {"options": {"grouped": True}},
    "current.progress": {"task": "progressing"},
    "current.check": {"task": "checking"},
}


def features(scale: Scale) -> Series:
    """Submit + run + all results with a feature, next to the same without it: the ratio is of neighbours in time."""
    found: Series = {}
    count = scale.tasks(4_000)
    with Place() as place:
        for name, how in FEATURES.items():
            place.order("submit", count=400, **how)  # a name that was never seen goes one by one at first
            place.order("collect")
            off, on = [], []
            for _ in range(scale.rounds):
                off.append(run_all(place, count))
                with place.measure() as meter:
                    place.order("submit", count=count, **how)
                    place.order("collect")
                on.append(meter.cost(count))
            found[name] = {
                "off": median(off),
                "on": median(on),
                "cpu_ratio": statistics.median(
                    one.total_us / other.total_us for one, other in zip(on, off, strict=True)
                ),
            }
    return found


def memory(scale: Scale) -> Series:
    """Bytes that Redis holds for a task that is queued, claimed, and finished with its result."""
    count = scale.tasks(20_000)
    with Place() as place:
        place.server.client.flushall()
        place.freeze(signal.SIGSTOP)
        before = place.server.used_memory()
        place.order("submit", count=count)
        queued = (place.server.used_memory() - before) / count
        place.drained()
        finished = (place.server.used_memory() - before) / count
        place.order("collect")
    held = 512
    with Place(slots=1, flags=("--window", str(held))) as place:
        place.freeze(signal.SIGSTOP)
        before = place.server.used_memory()
        place.order("submit", count=held, task="nap")
        place.freeze(signal.SIGCONT)
        _wait(lambda: _stat(place, "claimed") >= 400 + held)
        claimed = (place.server.used_memory() - before) / held
        place.order("forget")
        place.workers[0].kill()
    return {name: {"bytes": number} for name, number in (("queued", queued), ("claimed", claimed), ("ended", finished))}


def kill(scale: Scale) -> Series:
    """From the kill of a stuck child to the next task in its slot: benchmarks/kill.py."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--json", "--kills", str(8 if scale.quick else 60)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    told = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    return {name: {f"{key}_ms": value for key, value in row.items()} for name, row in told["ms"].items()}


SERIES: dict[str, Callable[[Scale], Series]] = {
    one.__name__: one for one in (window, depth, payload, workers, futures, idle, features, memory, kill)
}


# ── help ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pour(place: Place, count: int, blob: bytes) -> None:
    """Fill an empty server with copies of one task, by itself: a million in a few seconds."""
    client = place.server.client
    client.flushall()
    script = """
        for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
            local id = string.format('%026d', n)
            redis.call('HSET', KEYS[1], id, ARGV[3])
            redis.call('RPUSH', KEYS[2], id)
        end
    """
    for first in range(0, count, 10_000):
        last = min(first + 10_000, count) - 1
        client.eval(script, 2, QUEUE.prefix + "bodies", QUEUE.prefix + "ready:default:normal", first, last, blob)


def _stat(place: Place, name: str) -> int:
    return int(place.server.client.hget(QUEUE.prefix + "stats", name) or 0)


def _calls(place: Place) -> int:
    """How many scripts were called and how often the bell was waited for: what idle workers ask for."""
    stats: dict[str, Any] = place.server.client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "blpop"))


def _wait(done: Callable[[], bool], within_s: float = 60.0) -> None:
    ends = time.monotonic() + within_s
    while not done():
        if time.monotonic() > ends:
            raise RuntimeError("what was waited for did not happen")
        time.sleep(0.01)


def add_to(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command line."""
    one = verbs.add_parser(
        "growth", help="what a task costs against window, depth, payload, workers, futures, features"
    )
    one.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(SERIES)}")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--quick", action="store_true", help="few tasks: shows that all works, the figures mean nothing")
    one.add_argument("--out", type=Path, default=OUT)
    one.add_argument("--no-plots", action="store_true")
    one.set_defaults(verb=main)


def main(given: argparse.Namespace) -> int:
    """Measure, save after each series, and draw."""
    wanted = [name for name in given.only.split(",") if name] or list(SERIES)
    if unknown := set(wanted) - SERIES.keys():
        raise SystemExit(f"no series {', '.join(sorted(unknown))}; there are: {', '.join(SERIES)}")
    known = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    scale, facts, failed = Scale(given.rounds, quick=given.quick), machine.facts(), 0
    for name in wanted:
        started = time.monotonic()
        try:
            with no_longer_than(HANGS_AFTER_S):
                series = SERIES[name](scale)
        except Exception as error:  # whatever it is: the other series are still measured
            failed = 1
            print(f"{name}: failed: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        known[name] = {"machine": facts, "at": time.strftime("%Y-%m-%d"), "quick": given.quick, "series": series}
        given.out.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {(SERIES[name].__doc__ or '').splitlines()[0]} ({time.monotonic() - started:.0f} s)")
        print(table(series), flush=True)
    return (0 if given.no_plots else draw(given.out)) or failed


def table(series: Series) -> str:
    """Return a series as lines for people: one line per value of what is varied."""
    return "\n".join(f"  {value:<22} {_shown(row)}" for value, row in series.items())


def _shown(row: dict[str, Any]) -> str:
    if "on" in row:
        off, on = row["off"]["total_cpu_us"], row["on"]["total_cpu_us"]
        return f"CPU {on:.1f} µs on, {off:.1f} off: {row['cpu_ratio']:.2f} x"
    return "  ".join(f"{name} {number:,.3g}" for name, number in row.items() if isinstance(number, int | float))


def draw(figures: Path) -> int:
    """Draw the plots, in the environment that has matplotlib."""
    try:
        python = environments.python_of(environments.PLOTS)
    except MissingError as error:
        print(f"no plots: {error}", file=sys.stderr)
        return 0
    return subprocess.run([str(python), str(PLOTTER), str(figures)], check=False).returncode
