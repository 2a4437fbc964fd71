"""How many no-op tasks per second a worker drains, next to a bare ProcessPoolExecutor in the same run.

    python benchmarks/drain.py [--tasks 20000] [--rounds 5] [--processes 2] [--no-aof] [--log-level info] [--json]

The two take turns, so that whatever else the machine does falls on both, and the order changes from round to round.

    qworker    N tasks are queued on a private server; the producer leaves; `qworker start --burst` drains them. The
               clock runs from the first outcome seen to the last, so the start of the worker does not count.
    executor   a warm ProcessPoolExecutor maps the same function over N numbers, one at a time, and collects.

The server is an embedded one in a temporary directory: with its append-only file, as users get it, unless --no-aof.
The worker logs one line per task into a file; --log-level warning shows what that costs.
The ratio is the median of the rounds' ratios. Exit code 1 when a task was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import redis

from qworker.broker import embedded
from qworker.broker.keys import QueueKeys

HERE = Path(__file__).parent
QUEUE = QueueKeys("bench", "default")
LOOK_EVERY_S = 0.005
DRAINED_WITHIN_S = 120.0


class LostError(Exception):
    """The worker ended and left tasks, or never got to them."""


def fill(url: str, tasks: int) -> float:
    """Queue the tasks from a process of their own, which then leaves; return the seconds that submitting took."""
    code = (
        "import sys, time; from noop import app, noop; count = int(sys.argv[1]);"
        "noop.submit().cancel(); started = time.perf_counter(); app.submit_many([noop.call()] * count);"
        "print(time.perf_counter() - started); app.close()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tasks)],
        cwd=HERE,
        env=environment(url),
        check=True,
        capture_output=True,
        text=True,
    )
    return float(shown.stdout)


def drain(url: str, tasks: int, processes: int, log_level: str, log_path: Path) -> float:
    """Start a worker on the full queue and return its tasks per second, once it has drained it."""
    command = [sys.executable, "-m", "qworker", "start", "noop:app"]
    command += ["-c", str(processes), "--pool", "process", "--burst", "--log-level", log_level]
    bodies = QUEUE.prefix + "bodies"
    with redis.Redis.from_url(url) as server, log_path.open("wb") as log:
        worker = subprocess.Popen(command, cwd=HERE, env=environment(url), stdout=log, stderr=log)
        try:
            rate = watch(lambda: int(server.hlen(bodies)), lambda: worker.poll() is None, tasks)
            worker.wait(30)
        finally:
            worker.kill()
            worker.wait()
    return rate


def watch(left: Callable[[], int], working: Callable[[], bool], tasks: int) -> float:
    """Look how many tasks are left until there are none; return the rate from the first look with fewer to the last."""
    ends = time.monotonic() + DRAINED_WITHIN_S
    first: tuple[float, int] | None = None
    while True:
        worked = working()  # asked before the count: what a worker settled before its end is then in the count
        remaining, now = left(), time.perf_counter()
        if first is None and remaining < tasks:
            first = (now, remaining)
        if remaining == 0:
            break
        if not worked or time.monotonic() > ends:
            raise LostError(f"the worker {'is stuck' if worked else 'ended'} with {remaining} of {tasks} tasks left")
        time.sleep(LOOK_EVERY_S)
    assert first is not None
    if first[1] == 0:
        raise LostError(f"{tasks} tasks are too few to time: all were done between two looks")
    return first[1] / (now - first[0])


def execute(tasks: int, processes: int) -> float:
    """Map the same nothing through a ProcessPoolExecutor and return its tasks per second."""
    sys.path.insert(0, str(HERE))
    from noop import nothing

    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(nothing, range(processes * 4)))
        started = time.perf_counter()
        list(pool.map(nothing, range(tasks)))
        return tasks / (time.perf_counter() - started)


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "QWORKER_URL": url, "PYTHONPATH": str(HERE.parent / "src")}


def summary(rates: list[float]) -> dict[str, float]:
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}


def measure(url: str, options: argparse.Namespace, log_path: Path) -> dict[str, object]:
    """Run all rounds and return the figures."""
    submitted: list[float] = []
    drained: list[float] = []
    executed: list[float] = []

    def ours() -> None:
        with redis.Redis.from_url(url) as server:
            server.flushall()
        submitted.append(options.tasks / fill(url, options.tasks))
        drained.append(drain(url, options.tasks, options.processes, options.log_level, log_path))

    def theirs() -> None:
        executed.append(execute(options.tasks, options.processes))

    for number in range(options.rounds):
        for turn in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            turn()
        if not options.json:
            ratio = drained[-1] / executed[-1]
            print(f"round {number + 1}: qworker {drained[-1]:9,.0f}/s  executor {executed[-1]:9,.0f}/s  {ratio:5.1f} x")
    ratios = [one / other for one, other in zip(drained, executed, strict=True)]
    return {
        "tasks": options.tasks,
        "rounds": options.rounds,
        "processes": options.processes,
        "append_only_file": options.aof,
        "log_level": options.log_level,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "unit": "tasks per second",
        "submit": summary(submitted),
        "qworker": summary(drained),
        "executor": summary(executed),
        "ratio": summary(ratios),
    }


def show(figures: dict[str, object]) -> None:
    print(f"{'tasks/s':<10}{'median':>10}{'min':>10}{'max':>10}")
    for name in ("submit", "qworker", "executor"):
        row = figures[name]
        assert isinstance(row, dict)
        print(f"{name:<10}{row['median']:>10,.0f}{row['min']:>10,.0f}{row['max']:>10,.0f}")
    row = figures["ratio"]
    assert isinstance(row, dict)
    print(f"{'ratio':<10}{row['median']:>10.1f}{row['min']:>10.1f}{row['max']:>10.1f}   qworker / executor, each round")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-aof", dest="aof", action="store_false", help="switch the append-only file off")
    parser.add_argument("--log-level", default="info", help="of the worker")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as directory:
        root = Path(directory)
        server = embedded.ensure(root=root)
        try:
            if not options.aof:
                with redis.Redis.from_url(server.url) as client:
                    client.config_set("appendonly", "no")
            figures = measure(server.url, options, root / "worker.log")
        except LostError as error:
            print(f"{error}; the end of its log:\n{(root / 'worker.log').read_text()[-2000:]}", file=sys.stderr)
            return 1
        finally:
            embedded.stop(root)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
