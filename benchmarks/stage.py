"""What a scenario measures with: one contestant, an empty server, an empty counter. All that it starts ends with it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from . import environments
from .adapter import Adapter, FailedError, NotOfferedError
from .peers import work
from .processes import Process, sweep
from .server import Server

LOOK_EVERY_S = 0.005
STALLED_AFTER_S = 20.0
STOP_WITHIN_S = 0.0  # what a worker does at its end is measured by nobody
SMALL = "0123456789abcdef"  # the body of tasks whose size does not matter
RUN_LASTS_S = 0.7  # what a run of no-op tasks should take at a contestant's usual pace
WARMS_UP = 100  # tasks


@dataclass(frozen=True)
class Shape:
    """What kind of worker, with how many slots, whether it stores results, and whether tasks may wait in it.

    Short tasks gain by being fetched ahead; a short one behind a long one loses by it, and every project that fetches
    ahead says what to set then. `stops`: the worker has what this project needs to stop a running task. `lease_s`: what
    a lost worker ran comes back after so many seconds, instead of the project's default.
    """

    mode: str = "process"
    slots: int = 2
    results: bool = True
    ahead: bool = True
    stops: bool = False
    lease_s: float | None = None


@dataclass(frozen=True)
class Watched:
    """What the counter showed: the first look with any task executed, with a fifth of them, and with all."""

    first: int
    first_at: float
    fifth: int
    fifth_at: float
    count: int
    ended_at: float

    @property
    def rate(self) -> float:
        """Tasks per second from the first look that showed any to the last."""
        return (self.count - self.first) / (self.ended_at - self.first_at)

    @property
    def settled_rate(self) -> float:
        """The same from a fifth of the tasks on: it is higher where processes came up one after the other."""
        return (self.count - self.fifth) / (self.ended_at - self.fifth_at)


class Stage:
    """The place of one measurement, or of several that share a worker, one after the other. A context manager."""

    def __init__(self, contestant: str, facts: dict[str, Any], server: Server, *, quick: bool = False) -> None:
        self.contestant = contestant
        self.facts = facts
        self.server = server
        self.quick = quick
        self._folder = tempfile.TemporaryDirectory(prefix="qworker-bench-")
        self.folder = Path(self._folder.name)
        self.counter, self.times = self.folder / "counter", self.folder / "times"
        self._started = ExitStack()
        self._logs = 0
        self._warm: dict[Shape, tuple[Adapter, Process | None]] = {}
        self._producer: Adapter | None = None

    def __enter__(self) -> Stage:
        self.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._started.close()
        sweep()
        self._folder.cleanup()

    def clear(self) -> None:
        """End all that was started, and begin again with an empty server and an empty counter."""
        self._warm, self._producer = {}, None
        self._started.close()
        sweep()
        self.server.revive()
        self.server.empty()
        work.make_counter(str(self.counter))

    def meet(self) -> dict[str, Any]:
        """Ask the contestant who it is and what it offers."""
        return self._start_adapter(self.contestant, Shape()).facts

    def adapter(self, shape: Shape | None = None) -> Adapter:
        """Start the contestant's adapter.

        Raises:
            NotOfferedError: the contestant has no workers of that shape.
        """
        shape = shape or Shape(mode=self.facts["modes"][0])
        if shape.mode not in self.facts["modes"]:
            raise NotOfferedError(f"no {shape.mode} slots")
        return self._start_adapter(self.contestant, shape)

    def bare_pool(self, slots: int) -> Adapter:
        """Start the standard library's ProcessPoolExecutor in the contestant's own interpreter, to compare with."""
        return self._start_adapter("processpool", Shape(slots=slots))

    def _start_adapter(self, whose: str, shape: Shape) -> Adapter:
        python = environments.python_of(self.contestant)
        command = [str(python), str(environments.adapter_of(whose))]
        env = self._environment(shape, python)
        adapter = Adapter(command, env=env, cwd=environments.PEERS, log=self._log("adapter"))
        self._started.callback(adapter.stop)
        return adapter

    def worker(self, adapter: Adapter) -> Process:
        """Start the contestant's worker for the adapter's shape."""
        return self.start_worker(adapter, adapter.order("worker")["command"])

    def start_worker(self, adapter: Adapter, command: list[str]) -> Process:
        """Start it by a command that was asked for before: for what times the start."""
        worker = Process(command, env=adapter.env, cwd=environments.PEERS, log=self._log("worker"))
        self._started.callback(worker.stop, STOP_WITHIN_S)
        return worker

    def producer(self) -> Adapter:
        """Return an adapter for what needs no worker: the one that is there, or a new one."""
        self._producer = self._producer or self.adapter()
        return self._producer

    def warm(self, shape: Shape) -> tuple[Adapter, Process | None]:
        """Return an adapter and its worker that has run some tasks: those that are there, or new ones."""
        if shape not in self._warm:
            adapter = self.adapter(shape)
            self._warm[shape] = adapter, self.warm_worker(adapter)
        return self._warm[shape]

    def keep(self, shape: Shape, adapter: Adapter, worker: Process) -> None:
        """Let what comes next on this stage have them."""
        self._warm[shape] = adapter, worker

    def warm_worker(self, adapter: Adapter) -> Process | None:
        """Start a worker and let it run some tasks, so that all its processes are there. Local pools have none."""
        worker = None if adapter.facts["local"] else self.worker(adapter)
        self.run_some(adapter, worker)
        return worker

    def run_some(self, adapter: Adapter, worker: Process | None) -> None:
        """Let a worker run some tasks, with their results."""
        some = partial(adapter.order, "run_all", task="noop", count=WARMS_UP, body=SMALL, worker=worker)
        try:
            some()
        except FailedError:
            some()  # a worker that comes up may lose a task (peer_saq.py); when it is there it must not

    def run_filled(self, adapter: Adapter, task: str, bodies: list[str]) -> Watched:
        """Queue tasks, start the worker, and watch it run them all. A local pool starts with the first task."""
        same = len(set(bodies)) == 1
        verb = "fill" if same else "fill_bodies"
        arguments: dict[str, Any] = {"count": len(bodies), "body": bodies[0]} if same else {"bodies": bodies}
        if adapter.facts["local"]:
            adapter.begin(verb, task=task, **arguments)
            watched = self.watch(len(bodies), adapter.process)
            adapter.answer()
            return watched
        adapter.order(verb, task=task, **arguments)
        return self.watch(len(bodies), self.worker(adapter))

    def watch(self, count: int, worker: Process, *, timed: bool = True) -> Watched:
        """Look at the counter until so many tasks were executed. Not `timed`: they may be too few for a rate."""
        started = time.perf_counter()
        looks: list[tuple[int, float]] = []  # those that showed something new
        while True:
            ended = worker.ended  # asked before the count, so that what ran before its end is in the count
            done, now = work.counted(str(self.counter)), time.perf_counter()
            if done > (looks[-1][0] if looks else 0):
                looks.append((done, now))
            if done >= count:
                break
            since = looks[-1][1] if looks else started
            if ended or now - since > STALLED_AFTER_S:
                what = "ended" if ended else f"executed nothing more for {STALLED_AFTER_S:g} s"
                raise FailedError(f"the worker {what} after {done} of {count} tasks{worker.said()}")
            time.sleep(LOOK_EVERY_S)
        fifth = next(look for look in looks if look[0] >= count / 5)
        if timed and fifth[0] >= count:
            raise FailedError(f"{count} tasks are too few to time: most were done between two looks")
        return Watched(*looks[0], *fifth, *looks[-1])

    def paced(self, seconds: float = RUN_LASTS_S) -> int:
        """Return about as many no-op tasks as the contestant runs in so many seconds."""
        return self.scaled(round(self.facts["pace"] * seconds))

    def lasting(self, seconds: float, rate: float, least: int, most: int) -> int:
        """Return how many tasks take about so long at this rate: fewer for those who are slow, and never too few."""
        return self.scaled(max(least, min(most, round(rate * seconds))), least=20)

    def scaled(self, count: int, least: int = 20) -> int:
        """Return a count, or much less of it in a quick run, which only shows that all works."""
        return max(least, count // 20) if self.quick else count

    def _environment(self, shape: Shape, python: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "QWORKER_"))}
        ours = [str(environments.HERE.parent / "src")] if python == Path(sys.executable) else []
        path = [str(environments.PEERS), *ours]
        return {
            **kept,
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(path),
            "BENCH_URL": self.server.url,
            "BENCH_MODE": shape.mode,
            "BENCH_SLOTS": str(shape.slots),
            "BENCH_RESULTS": "1" if shape.results else "0",
            "BENCH_AHEAD": "1" if shape.ahead else "0",
            "BENCH_STOPS": "1" if shape.stops else "0",
            "BENCH_LEASE": "" if shape.lease_s is None else f"{shape.lease_s:g}",
            "BENCH_COUNTER": str(self.counter),
            "BENCH_TIMES": str(self.times),
        }

    def _log(self, name: str) -> Path:
        self._logs += 1
        return self.folder / f"{self._logs}-{name}.log"
