"""How soon a stop and a timeout reach the code, in each kind of slot, while the worker has other work.

    python benchmarks/stop.py [--cancels 1000] [--timeouts 300] [--json]

One real worker (`qworker start`, embedded server with its append-only file) per kind of slot: 4 processes, 20 threads
or 100 coroutines. All slots but those that are measured run short tasks from a queue that never gets empty. Then, in
milliseconds:

    seen       `fut.stop()` was called ─► the running task sees it           promised: 50 at the 99th percentile
    told       `fut.stop()` was called ─► its outcome is known to the caller
    asked      the task's limit ─► it is asked to end                        promised: 50 at the 99th percentile
    forced     the end of its grace ─► its outcome is told (process slots)   promised: 50 at the 99th percentile

Exit code 1 when an outcome was not what it has to be.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qworker import App, Future, How, State, TaskCancelled, TaskTimedOut
from qworker.broker import embedded

HERE = Path(__file__).parent
SLOTS = {"process": 4, "thread": 20, "async": 100}
SHARE = {"process": 0.4, "thread": 0.3, "async": 0.3}
AT_ONCE = 2  # measured tasks that run at the same time
LIMIT_S, GRACE_S = 0.25, 0.2


class Listener:
    """Hears what tasks tell: (word, number) -> instant."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "told")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._told: dict[tuple[str, int], float] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, word: str, number: int, timeout_s: float = 30.0) -> float:
        """Return when a task told this word; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: (word, number) in self._told, timeout_s):
                raise TimeoutError(f"task {number} did not tell that it {word} within {timeout_s:g} s")
            return self._told.pop((word, number))

    def _listen(self) -> None:
        while True:
            word, number, instant_ns = self._socket.recv(256).split()
            with self._changed:
                self._told[word.decode(), int(number)] = int(instant_ns) / 1e9
                self._changed.notify_all()


class Feeder:
    """Keeps tasks waiting in the queue, so that no slot is ever idle."""

    def __init__(self, app: App, kind: str) -> None:
        task = app.named("stoppable.light_load" if kind == "async" else "stoppable.load")
        self._task = task if kind == "async" else task.options(pool=kind)
        self._app = app
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Feed no more."""
        self._ended.set()
        self._thread.join()

    def _feed(self) -> None:
        newest: list[Future[Any]] = []
        while not self._ended.wait(0.05):
            newest = [future for future in newest if not future.done()]
            if len(newest) < 200:
                newest += self._app.submit_many([self._task.call(0.005)] * 200)


@contextmanager
def worker(url: str, kind: str, log_path: Path) -> Iterator[None]:
    """Run one worker with slots of one kind."""
    command = [sys.executable, "-m", "qworker", "start", "stoppable:app", "--pool", kind]
    command += ["-c", f"{kind}={SLOTS[kind]}", "--log-level", "warning", "--drain-timeout", "0"]
    environ = {**os.environ, "QWORKER_URL": url, "PYTHONPATH": str(HERE.parent / "src")}
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, cwd=HERE, env=environ, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def cancels(app: App, kind: str, listener: Listener, count: int, first: int) -> dict[str, list[float]]:
    """Stop running tasks that listen; how soon they saw it, and the caller knew."""
    figures: dict[str, list[float]] = {"seen": [], "told": []}
    name = "stoppable.awaiting" if kind == "async" else "stoppable.listening"
    task = app.named(name).options(priority="high", grace=2, pool=kind)
    for start in range(first, first + count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, first + count))
        futures = [task.submit(listener.address, number) for number in numbers]
        for number in numbers:
            listener.wait("began", number)
        for number, future in zip(numbers, futures, strict=True):
            asked = time.monotonic()
            receipt = future.stop(wait=10)
            told = time.monotonic()
            if not receipt or receipt.outcome is not State.CANCELLED or not isinstance(ended(future), TaskCancelled):
                raise AssertionError(f"{kind} {number}: {receipt}")
            figures["seen"].append((listener.wait("saw", number) - asked) * 1e3)
            figures["told"].append((told - asked) * 1e3)
    return figures


def timeouts(app: App, kind: str, listener: Listener, count: int, first: int) -> dict[str, list[float]]:
    """Let tasks run out of their time; how late they were asked, and how late force came."""
    figures: dict[str, list[float]] = {"asked": []}
    listening = "stoppable.awaiting" if kind == "async" else "stoppable.listening"
    for start in range(first, first + count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, first + count))
        waits = []
        for number in numbers:
            # Every second one hears nothing; only a process can be ended alone.
            name = "stoppable.deaf" if kind == "process" and number % 2 else listening
            grace_s = GRACE_S if name.endswith("deaf") else 2.0
            task = app.named(name).options(priority="high", timeout=LIMIT_S, grace=grace_s, pool=kind)
            waits.append((number, name, task.submit(listener.address, number)))
        for number, name, future in waits:
            error, outcome = ended(future), future.outcome
            assert outcome is not None
            how = (How.KILLED,) if name.endswith("deaf") else (How.INTERRUPTED, How.NOTICED)
            if not isinstance(error, TaskTimedOut) or outcome.how not in how or outcome.still_running:
                raise AssertionError(f"{kind} {number}: {outcome.state} {outcome.how} {error!r}")
            figures["asked"].append(((outcome.asked_after_s or 0) - LIMIT_S) * 1e3)
            if name.endswith("deaf"):
                figures.setdefault("forced", []).append(((outcome.took_s or 0) - GRACE_S) * 1e3)
    return figures


def ended(future: Future[Any]) -> BaseException | None:
    """Return what the task ended with."""
    try:
        return future.exception(timeout=30)
    except TaskCancelled as error:
        return error


def measure(given: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measure all kinds, one after the other."""
    figures: dict[str, dict[str, list[float]]] = {}
    first = 0
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as directory:
        root = Path(directory)
        server = embedded.ensure(root=root)
        listener = Listener(root)
        try:
            for kind in SLOTS:
                with App(server.url, namespace="bench") as app, worker(server.url, kind, root / "worker.log"):
                    feeder = Feeder(app, kind)
                    try:
                        count = round(given.cancels * SHARE[kind])
                        figures[kind] = cancels(app, kind, listener, count, first)
                        first += count
                        count = round(given.timeouts * SHARE[kind])
                        figures[kind] |= timeouts(app, kind, listener, count, first)
                        first += count
                    finally:
                        feeder.end()
        except BaseException:
            print((root / "worker.log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            embedded.stop(root)
    return figures


def row_of(values: list[float]) -> dict[str, float]:
    """Sum up one figure."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"n": len(values), "p50": cuts[49], "p99": cuts[98], "max": max(values)}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cancels", type=int, default=1000)
    parser.add_argument("--timeouts", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    try:
        figures = measure(given)
    except AssertionError as error:
        print(f"not what it has to be: {error}", file=sys.stderr)
        return 1
    rows = {kind: {name: row_of(values) for name, values in found.items()} for kind, found in figures.items()}
    if given.json:
        print(json.dumps({"ms": rows, "load_before": before}))
        return 0
    print(f"ms, under load   n      p50      p99      max     (load before: {before:.1f})")
    for kind, found in rows.items():
        for name, row in found.items():
            print(f"{kind:<8}{name:<7}{row['n']:>4}{row['p50']:>9.1f}{row['p99']:>9.1f}{row['max']:>9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
