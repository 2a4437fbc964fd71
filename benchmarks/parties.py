"""Who takes part in a task, and the processor time that each of them has used: read from outside, from /proc.

    producer    the main thread of the process that submits        listener    its other threads
    Redis       the server, all threads                            script      of that, what each script took (SLOWLOG)
    supervisor  the worker's own process                           fork server, children    what is below it

The kernel counts in nanoseconds (schedstat) where it can, else in ticks of 10 ms.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections import Counter as Tally
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from qworker.broker import scripts
from qworker.broker.keys import QueueKeys

from .adapter import Adapter
from .processes import Process, children, descendants
from .server import Server

ROOT = Path(__file__).resolve().parent.parent
QUEUE = QueueKeys("bench", "default")
PARTIES = ("producer", "listener", "Redis", "supervisor", "fork server", "children")
_TICK_NS = 1e9 / os.sysconf("SC_CLK_TCK")
ENDS_WITHIN_S = 120.0
SCRIPTS_TAKE_US = 8  # at least: the shortest one of a load, a lone submit, takes 11

Cpu = dict[str, float]  # party -> seconds


@dataclass(frozen=True)
class Cost:
    """What a load cost: seconds of each party, of the clock, and of each script in Redis, for so many tasks."""

    tasks: int
    cpu: Cpu
    wall_s: float
    by_script: dict[str, tuple[int, float]]  # calls, seconds

    @property
    def cpu_us(self) -> dict[str, float]:
        """Microseconds of each party for one task."""
        return {party: seconds / self.tasks * 1e6 for party, seconds in self.cpu.items()}

    @property
    def total_us(self) -> float:
        """Microseconds of all parties for one task."""
        return sum(self.cpu_us.values())

    @property
    def wall_us(self) -> float:
        """Microseconds of the clock for one task."""
        return self.wall_s / self.tasks * 1e6

    def told(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        each = {
            name: {"calls_per_task": calls / self.tasks, "us_per_task": seconds / self.tasks * 1e6}
            for name, (calls, seconds) in self.by_script.items()
        }
        return {
            "tasks": self.tasks, "wall_us": self.wall_us, "total_cpu_us": self.total_us, "cpu_us": self.cpu_us,
            "scripts": each,
        }  # fmt: skip


class Place:
    """A server, a producer, and workers, all ended at the end. A context manager."""

    def __init__(self, *, workers: int = 1, slots: int = 2, flags: tuple[str, ...] = ()) -> None:
        self._stack = ExitStack()
        self._plan = workers, slots, flags
        self.workers: list[Process] = []

    def __enter__(self) -> Place:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="qworker-bench-")))
        try:
            self.server = Server(self.folder)
            self._stack.callback(self.server.stop)
            self.tell_scripts_apart(False)
            self.env = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")} | {
                "QWORKER_URL": self.server.url,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            }
            self.producer = Loads(self.env, self.folder)
            self._stack.callback(self.producer.stop)
            workers, slots, flags = self._plan
            for _ in range(workers):
                self.start_worker(slots, *flags)
            if workers:
                self.order("submit", count=400, how="many")
                self.order("collect")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def start_worker(self, slots: int = 2, *flags: str) -> Process:
        """Start one more worker."""
        command = [sys.executable, "-m", "qworker", "start", "benchmarks.loads:app", "-c", str(slots), *flags]
        command += ["--log-level", "warning"]
        log = self.folder / f"worker-{len(self.workers)}.log"
        worker = Process(command, env=self.env, cwd=ROOT, log=log)
        self.workers.append(worker)
        self._stack.callback(worker.stop)
        return worker

    def tell_scripts_apart(self, on: bool) -> None:
        """Have the server note what each script took: INFO commandstats knows only EVALSHA.

        What takes less is not noted: of the commands within scripts, nearly all. To note those, too, took the server
        3.5 µs more for a task, a third of what it spends on one.
        """
        self.server.client.config_set("slowlog-max-len", 1_000_000)
        self.server.client.config_set("slowlog-log-slower-than", SCRIPTS_TAKE_US if on else -1)

    def order(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Have the producer do something."""
        return self.producer.order(verb, **arguments)

    def queued(self, count: int, **how: Any) -> None:
        """Queue tasks while no worker looks: each is stopped for as long."""
        self.freeze(signal.SIGSTOP)
        self.order("submit", count=count, **how)

    def freeze(self, number: signal.Signals) -> None:
        """Stop the workers (SIGSTOP), or let them go on (SIGCONT)."""
        for worker in self.workers:
            os.kill(worker.pid, number)

    def drained(self) -> None:
        """Let the workers go on, and wait until nothing is left."""
        self.freeze(signal.SIGCONT)
        self.wait_left(0)

    def wait_left(self, most: int) -> None:
        """Wait until so few tasks are left."""
        ends = time.monotonic() + ENDS_WITHIN_S
        while self.left() > most:
            if time.monotonic() > ends or any(worker.ended for worker in self.workers):
                said = "\n".join(worker.last_lines() for worker in self.workers)
                raise RuntimeError(f"{self.left()} tasks are left and nothing is done about it:\n{said}")
            time.sleep(0.01)

    def left(self) -> int:
        """How many tasks have not ended."""
        return int(self.server.client.hlen(QUEUE.prefix + "bodies"))

    def cpu(self) -> Cpu:
        """Return the seconds that each party has used so far."""
        found: Cpu = dict.fromkeys(PARTIES, 0.0)
        for thread, seconds in threads(self.producer.process.pid).items():
            found["producer" if thread == self.producer.process.pid else "listener"] += seconds
        found["Redis"] = sum(threads(self.server.process.pid).values())
        whose = children()
        for worker in self.workers:
            found["supervisor"] += sum(threads(worker.pid).values())
            for forker in whose.get(worker.pid, []):
                found["fork server"] += sum(threads(forker).values())
                for child in descendants(forker):
                    found["children"] += sum(threads(child).values())
        return found

    def measure(self) -> Meter:
        """Measure what is done within: `with place.measure() as meter: …; meter.cost(tasks)`."""
        return Meter(self)


class Loads(Adapter):
    """The process of loads.py, which answers as the adapters of the contestants do."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.loads"]
        super().__init__(command, env=env, cwd=ROOT, log=folder / "producer.log")


class Meter:
    """What is used while it is entered."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> Meter:
        self._place.server.client.slowlog_reset()
        self._before, self._started = self._place.cpu(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._started
        after = self._place.cpu()
        self.cpu = {party: after[party] - self._before[party] for party in PARTIES}
        self.by_script = by_script(self._place.server)

    def cost(self, tasks: int) -> Cost:
        """Return it for so many tasks."""
        return Cost(tasks, self.cpu, self.wall_s, self.by_script)


def threads(pid: int) -> dict[int, float]:
    """Return the seconds of each thread of a process; nothing of one that is gone."""
    found: dict[int, float] = {}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found[int(task.name)] = _seconds(task)
    except OSError:
        pass
    return found


def _seconds(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_NS / 1e9


def by_script(server: Server) -> dict[str, tuple[int, float]]:
    """Return calls and seconds of each script since SLOWLOG was reset."""
    names = {scripts.load(name).sha: name for name in scripts.names()}
    calls: Tally[str] = Tally()
    took: Tally[str] = Tally()
    for entry in server.client.slowlog_get(-1):
        words = entry["command"].split(b" ", 2)
        if words[0].upper() == b"EVALSHA":  # commands inside a script have entries of their own
            name = names.get(words[1].decode(), "?")
            calls[name] += 1
            took[name] += entry["duration"]
    return {name: (calls[name], took[name] / 1e6) for name, _ in took.most_common()}
