"""Half an hour at half load: memory, descriptors, threads and processes are the same at the end as after the warm-up.

    server + one worker that replaces its children ─► submits by the clock, a sample every few seconds
    ─► drained and expired ─► the server's memory ─► build/soak.json

PYTHONPATH=src:tests python -m support.history.soak --minutes 30      (make soak)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks.machine import facts
from benchmarks.processes import private_mib
from qworker import Future
from qworker.errors import QWorkerError
from support.daemon import Worker, start_worker
from support.promised import bound
from support.servers import any_kind, start_server
from support.waiting import wait_until

from .torture import versions

OUT = Path("build/soak.json")
APP = "support.apps.history_tasks"
SLOTS = {"process": 2, "thread": 2, "async": 2}
TASKS_PER_CHILD = 500
NAP_S = 0.01
TTL_S = 60  # nothing is forgotten sooner, whatever is asked for
LOAD = 0.5  # of the time of the slots
TICK_S = 0.1
MOST_PENDING = 500  # more than that: the machine has no time for the load, and what it is spared is told
KILLED_EVERY_S = 5.0  # one that ignores its timeout: its child is killed and replaced
SAMPLE_S = 2.0
WARM_S = 30.0  # before the server's memory is looked at for the first time
WARM = 0.2  # of the time: what grows then is caches
MOST_MIB = 0.3  # per ten minutes
MOST_SERVER = 0.05


def sample(worker: Worker) -> dict[str, float]:
    """What the worker, its fork server and its children hold now."""
    pid, *below = worker.processes()
    server, children = below[:1], below[1:]
    found: dict[str, float] = {"children": len(children)}
    for name, pids in (("worker", [pid]), ("fork server", server), ("children", children)):
        found[f"{name} MiB"] = round(private_mib(pids), 2)
        found[f"{name} fds"] = sum(_entries(each, "fd") for each in pids)
        found[f"{name} threads"] = sum(_entries(each, "task") for each in pids)
    return found


def _entries(pid: int, name: str) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/{name}").iterdir()))
    except OSError:
        return 0  # it was just replaced


def trend(samples: Sequence[float], every_s: float) -> dict[str, float]:
    """The level after the warm-up and at the end, as medians of a quarter of the time each, and what that is a time."""
    rest = samples[int(WARM * len(samples)) :]
    quarter = max(1, len(rest) // 4)
    first, last = statistics.median(rest[:quarter]), statistics.median(rest[-quarter:])
    between_s = max(every_s, every_s * (len(rest) - quarter))
    return {
        "first": first,
        "last": last,
        "most": max(rest),
        "per_10_minutes": round((last - first) * 600 / between_s, 3),
    }


def _course(samples: Sequence[float]) -> list[float]:
    """The median of each minute: what stays where it has grown to and what grows on can have the same two quarters."""
    size = int(60 / SAMPLE_S)
    return [round(statistics.median(samples[first : first + size]), 2) for first in range(0, len(samples), size)]


def wrong_with(result: dict[str, Any]) -> list[str]:
    """What a run should not have shown; nothing, if all is as promised."""
    found = grown_in(result)
    if result["unfinished"]:
        found.append(f"{result['unfinished']} tasks have not ended")
    return found


def grown_in(result: dict[str, Any]) -> list[str]:
    """What grew. Of what lasts less than ten minutes the growth itself counts, which a short time cannot enlarge."""
    found = []
    for name, seen in result["trends"].items():
        grew = seen["last"] - seen["first"]
        if name.endswith("MiB"):
            most = MOST_MIB
            grew = min(grew, seen["per_10_minutes"])
        elif name.startswith("child"):
            most = 0.25 * seen["first"]  # some of them are just being replaced
        else:
            most = 2.0
        if grew > most:
            found.append(f"{name}: from {seen['first']:g} to {seen['last']:g}")
    before, after = result["server"]["before_bytes"], result["server"]["after_bytes"]
    if after > (1 + MOST_SERVER) * before:
        found.append(f"the server holds {after:,} bytes after all has expired, and held {before:,}")
    return found


class Load:
    """Submits by the clock, and counts how it ended."""

    def __init__(self, tasks: Any) -> None:
        self._tasks = tasks
        self._pending: deque[Future[Any]] = deque()
        self._rate = {pool: LOAD * slots / NAP_S for pool, slots in SLOTS.items()}
        self._due = dict.fromkeys(SLOTS, 0.0)
        self.submitted = self.spared = 0
        self.outcomes: Counter[str] = Counter()

    def tick(self) -> None:
        """What is due in one tick, and what has ended since."""
        naps = {"process": self._tasks.nap, "thread": self._tasks.thread_nap, "async": self._tasks.async_nap}
        calls = []
        for pool, nap in naps.items():
            self._due[pool] += self._rate[pool] * TICK_S
            count = int(self._due[pool])
            self._due[pool] -= count
            calls += [nap.options(result_ttl=TTL_S).call(NAP_S)] * count
        if len(self._pending) > MOST_PENDING:
            self.spared += len(calls)
        else:
            self._send(calls)
        self.collect()

    def burst(self) -> None:
        """As many at once as there ever are."""
        self._send([self._tasks.nap.options(result_ttl=TTL_S).call(NAP_S)] * MOST_PENDING)

    def kill_one(self) -> None:
        self._send([self._tasks.hangs.options(timeout=0.2, grace=0.1, result_ttl=TTL_S).call(99)])

    def collect(self) -> None:
        """Let go of those in front that have ended."""
        while self._pending and self._pending[0].done():
            outcome = self._pending.popleft().outcome
            self.outcomes[outcome.state.value if outcome is not None else "lost"] += 1

    def drain(self, timeout_s: float = 60.0) -> int:
        """Wait for all of them, and return how many did not end."""
        ends = time.monotonic() + timeout_s
        for future in self._pending:
            try:
                future.exception(timeout=max(0.0, ends - time.monotonic()))
            except (QWorkerError, TimeoutError):
                continue
        self.collect()
        return len(self._pending)

    def _send(self, calls: Sequence[Any]) -> None:
        futures = self._tasks.app.submit_many(calls)
        self._pending += futures
        self.submitted += len(futures)


def soak(minutes: float, directory: Path) -> dict[str, Any]:
    """Do it, and return all that is to be known of it."""
    kind = any_kind()
    server = start_server(kind, directory / "server")
    slots = ",".join(f"{pool}={count}" for pool, count in SLOTS.items())
    worker = None
    try:
        worker = start_worker(
            server.url, f"{APP}:app", "-c", slots, "--max-tasks-per-child", str(TASKS_PER_CHILD),
            log_dir=directory, env={"EXECUTION_LOG": "/dev/null"},
        )  # fmt: skip
        with bound(server.url, APP) as tasks, redis.Redis.from_url(server.url) as client:
            load = Load(tasks)
            load.burst()  # a server, too, has buffers that are as large as was ever needed
            _drive(load, worker, WARM_S)
            load.drain()
            before = _memory_at_rest(client)
            samples = _drive(load, worker, 60 * minutes)
            unfinished = load.drain()
            after = _memory_at_rest(client)
        started = len(worker.events("child.started"))
    finally:
        if worker is not None:
            worker.close()
        server.stop()
    return {
        "command": f"make soak ARGS='--minutes {minutes:g}'",
        "minutes": minutes,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(kind),
        "machine": facts(),
        "slots": slots,
        "load": LOAD,
        "tasks_per_child": TASKS_PER_CHILD,
        "children_started": started,
        "tasks": load.submitted,
        "outcomes": dict(sorted(load.outcomes.items())),
        "spared": load.spared,
        "unfinished": unfinished,
        "samples": len(samples),
        "trends": {name: trend([each[name] for each in samples], SAMPLE_S) for name in samples[0]},
        "mib_by_minute": {
            name: _course([each[name] for each in samples]) for name in samples[0] if name.endswith("MiB")
        },
        "server": {"before_bytes": before, "after_bytes": after},
    }


def _drive(load: Load, worker: Worker, seconds: float) -> list[dict[str, float]]:
    """Keep the load up for so long, and look every few seconds."""
    began = time.monotonic()
    samples: list[dict[str, float]] = []
    killed = 0
    for tick in range(int(seconds / TICK_S)):
        time.sleep(max(0.0, began + tick * TICK_S - time.monotonic()))  # the load is a matter of time
        past = time.monotonic() - began
        load.tick()
        if past > killed * KILLED_EVERY_S:
            killed += 1
            load.kill_one()
        if past > len(samples) * SAMPLE_S:
            samples.append(sample(worker))
    return samples


def _memory_at_rest(client: redis.Redis) -> int:
    """What the server uses once every outcome has expired: the least of some looks, without what passes by.

    Tasks that were killed are kept for whoever looks into them, and commands that took the server long are in its
    slowlog, at most 128: both are meant.
    """

    def are_kept() -> bool:
        return any(True for _ in client.scan_iter("qw:*:result:*", count=1000))

    wait_until(lambda: not are_kept(), timeout=30 + TTL_S, description="all outcomes to expire")
    client.slowlog_reset()
    kept = sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter("qw:*:dead*"))
    return min(int(client.info("memory")["used_memory"]) for _ in range(20)) - kept


def main() -> int:
    """`make soak`: run, result file, and what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    result = soak(given.minutes, Path(tempfile.mkdtemp(prefix="qworker-soak-")))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    found = wrong_with(result)
    print("\n".join(found) or "nothing grew", f"written: {OUT}", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
