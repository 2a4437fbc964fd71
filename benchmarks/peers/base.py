"""What an adapter is: how one contestant submits, runs and returns the tasks of work.py, at its own best settings.

    harness ── one JSON line per order ──► python peer_NAME.py ──► the contestant's own client, in its own environment
            ◄── one JSON line per answer ─
    harness ── Peer.command(…) ──────────► the contestant's own worker

An adapter is written as a user of that project would write it who has read its page on throughput: `settings` says
which of its settings are not its defaults, and names the page. The clock runs in the adapter's process, around the
contestant's calls alone. Only the standard library here, so that it runs in every contestant's environment.

The environment of both processes:

    BENCH_URL      redis://127.0.0.1:PORT/0
    BENCH_MODE     process | thread | async: what kind of slots the worker has
    BENCH_SLOTS    how many of them
    BENCH_RESULTS  1: results are stored and can be fetched; 0: the contestant's own way of not storing them
    BENCH_AHEAD    1: tasks may wait in the worker; 0: short tasks come among long ones, so better not
    BENCH_STOPS    1: running tasks will be stopped, so the worker has what the contestant needs for that
    BENCH_LEASE    seconds after which the tasks of a lost worker come back; empty: the contestant's default
    BENCH_COUNTER  the file in which executed tasks are counted (work.py)
    BENCH_TIMES    the file in which timed tasks are noted (work.py)
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import os
import platform
import select
import sys
import time
import traceback
from typing import Any, ClassVar

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
MODE = os.environ.get("BENCH_MODE", "process")
SLOTS = int(os.environ.get("BENCH_SLOTS", "2"))
RESULTS = os.environ.get("BENCH_RESULTS", "1") == "1"
AHEAD = os.environ.get("BENCH_AHEAD", "1") == "1"
STOPS = os.environ.get("BENCH_STOPS", "0") == "1"
LEASE_S = float(os.environ.get("BENCH_LEASE") or 0)


class NotOfferedError(Exception):
    """The contestant has no such thing; the table says so."""


class Peer:
    """One contestant. A verb that it does not have is left as it is here."""

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]  # whose versions are printed
    modes: ClassVar[tuple[str, ...]] = ("process",)  # the kinds of slots that its worker can have
    settings: ClassVar[str] = ""  # what is not default, and which page of its documentation recommends it
    pace: ClassVar[int] = 5000  # roughly how many no-op tasks it runs in a second: so that no run takes minutes
    native: ClassVar[bool] = False  # what fetches and records is not written in Python
    cannot_stop: ClassVar[dict[str, str]] = {}  # by kind of slots: why a running task cannot be stopped there
    not_soon_back: ClassVar[str] = ""  # why what a killed worker ran does not run again within a minute, by default
    lease: ClassVar[bool] = False  # BENCH_LEASE says when it comes back, however long its tasks take
    local: ClassVar[bool] = False  # a pool in this very process: it has no worker and no server

    def open(self) -> None:
        """Connect, as a producer does once."""

    def close(self) -> None:
        """Let go of what `open` took."""

    def submit(self, task: str, body: str) -> Any:
        """Submit one task and return its handle, once the contestant says that it is queued."""
        raise NotOfferedError("no submit")

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        """Submit many by the contestant's own call for that."""
        raise NotOfferedError("no bulk submit")

    async def asubmit(self, task: str, body: str) -> Any:
        """Submit one from a coroutine, where the contestant has a client for asyncio."""
        raise NotOfferedError("no client for asyncio")

    def result(self, handle: Any) -> str:
        """Wait for one result, in the quickest way that the contestant offers."""
        raise NotOfferedError("no results")

    def results(self, handles: list[Any]) -> list[str]:
        """Wait for all: one by one, unless the contestant has something better."""
        return [self.result(handle) for handle in handles]

    def cancel(self, handle: Any) -> None:
        """Ask a running task to end, or end it: the same task as in `submit`, under BENCH_STOPS."""
        raise NotOfferedError("no cancel of a running task")

    def command(self) -> list[str]:
        """Return the command line of a worker for MODE, SLOTS and RESULTS, quiet enough not to pay for logging."""
        raise NotOfferedError("no worker")


def run(peer: Peer) -> None:
    """Answer orders until stdin ends. An adapter calls it under `if __name__ == "__main__"`."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the contestant prints must not mix with the answers
    peer.open()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = _VERBS[order.pop("verb")](peer, **order)
        except NotOfferedError as error:
            answer = {"not_offered": str(error)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
    peer.close()


def _facts(peer: Peer) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in peer.distributions}
    return {
        "name": peer.name,
        "versions": versions,
        "python": platform.python_version(),
        "modes": peer.modes,
        "settings": peer.settings,
        "pace": peer.pace,
        "native": peer.native,
        "local": peer.local,
        "cannot_stop": peer.cannot_stop,
        "not_soon_back": peer.not_soon_back,
        "lease": peer.lease,
    }


def _worker(peer: Peer) -> dict[str, Any]:
    return {"command": peer.command()}


def _submit_each(peer: Peer, task: str, count: int, body: str) -> dict[str, Any]:
    with _Clock() as clock:
        for _ in range(count):
            peer.submit(task, body)
    return clock.told


def _submit_bulk(peer: Peer, task: str, count: int, body: str) -> dict[str, Any]:
    with _Clock() as clock:
        peer.submit_many(task, [body] * count)
    return clock.told


def _submit_async(peer: Peer, task: str, count: int, body: str, at_once: int = 100) -> dict[str, Any]:
    async def one_after_another(times: int) -> None:
        for _ in range(times):
            await peer.asubmit(task, body)

    async def all_of_them() -> dict[str, Any]:
        await peer.asubmit(task, body)  # connects; also what says that there is no such client
        with _Clock() as clock:
            await asyncio.gather(*(one_after_another(count // at_once) for _ in range(at_once)))
        return clock.told

    return asyncio.run(all_of_them())


def _fill(peer: Peer, task: str, count: int, body: str) -> dict[str, Any]:
    """Queue tasks for a scenario that does not time the submitting: in bulk where that is offered."""
    try:
        return _submit_bulk(peer, task, count, body)
    except NotOfferedError:
        return _submit_each(peer, task, count, body)


def _fill_bodies(peer: Peer, task: str, bodies: list[str]) -> dict[str, Any]:
    try:
        peer.submit_many(task, bodies)
    except NotOfferedError:
        for body in bodies:
            peer.submit(task, body)
    return {}


def _run_all(peer: Peer, task: str, count: int, body: str) -> dict[str, Any]:
    with _Clock() as clock:
        try:
            handles = peer.submit_many(task, [body] * count)
        except NotOfferedError:
            handles = [peer.submit(task, body) for _ in range(count)]
        got = peer.results(handles)
    if len(got) != count or any(value != body for value in got):
        raise RuntimeError(f"{sum(value == body for value in got)} of {count} results came back right")
    return clock.told


def _round_trips(peer: Peer, task: str, body: str, least: int, most: int, seconds: float) -> dict[str, Any]:
    """As many as fit into the time, between the least and the most; the first ones are not counted."""
    times: list[float] = []
    warm = min(20, least // 4)
    gc.collect()
    ends = time.perf_counter() + seconds
    while len(times) < warm + least or (len(times) < warm + most and time.perf_counter() < ends):
        started = time.perf_counter()
        value = peer.result(peer.submit(task, body))
        times.append(time.perf_counter() - started)
        if value != body:
            raise RuntimeError(f"the result is {value!r:.80}")
    return {"seconds": times[warm:]}


def _steady(peer: Peer, task: str, body: str, per_second: int, seconds: float) -> dict[str, Any]:
    """Submit at an even pace and fetch nothing: the load beside what another adapter measures."""
    started = time.perf_counter()
    for number in range(round(per_second * seconds)):
        time.sleep(max(0.0, started + number / per_second - time.perf_counter()))
        peer.submit(task, body)
    return {"seconds": time.perf_counter() - started}


def _cancels(peer: Peer, least: int, most: int, seconds: float, warm: int = 1) -> dict[str, Any]:
    """Stop running tasks, one after the other: the seconds until each of them saw it, or its process was gone."""
    took: list[float] = []
    killed, ends = 0, time.monotonic() + seconds
    while len(took) < warm + least or (len(took) < warm + most and time.monotonic() < ends):
        key = str(len(took))
        handle = peer.submit("linger", key)
        _, pid = _noted(f"{key}-began")
        process = os.pidfd_open(int(pid))
        try:
            asked = time.monotonic()
            peer.cancel(handle)
            saw = _saw(f"{key}-saw", process)
        finally:
            os.close(process)
        took.append((saw or time.monotonic()) - asked)
        killed += saw is None and len(took) > warm
    return {"seconds": took[warm:], "killed": killed}


def _saw(key: str, process: int, within_s: float = 30.0) -> float | None:
    """Wait until a task has noted this, and return when; None as soon as its process has ended without that."""
    poll, ends = select.poll(), time.monotonic() + within_s
    poll.register(process, select.POLLIN)
    while time.monotonic() < ends:
        gone = poll.poll(1)  # ms
        if noted := _look_up(key):
            return noted[0]
        if gone:
            return None
    raise TimeoutError(f"no task noted {key!r} within {within_s:g} s")


def _noted(key: str, within_s: float = 30.0) -> tuple[float, float]:
    """Wait until a task has noted this, and return the two numbers: instants are of the machine's monotonic clock."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if noted := _look_up(key):
            return noted
        time.sleep(0.001)
    raise TimeoutError(f"no task noted {key!r} within {within_s:g} s")


def _look_up(key: str) -> tuple[float, float] | None:
    with open(os.environ["BENCH_TIMES"]) as stream:
        for line in stream:
            if line.startswith(f"{key} "):
                _, first, second = line.split()
                return float(first), float(second)
    return None


class _Clock:
    """Wall and CPU time of what is done within, in this process."""

    told: dict[str, Any]

    def __enter__(self) -> _Clock:
        gc.collect()
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.told = {
            "seconds": time.perf_counter() - self._started[0],
            "cpu_seconds": time.process_time() - self._started[1],
        }


_VERBS = {
    "facts": _facts,
    "worker": _worker,
    "submit_each": _submit_each,
    "submit_bulk": _submit_bulk,
    "submit_async": _submit_async,
    "fill": _fill,
    "fill_bodies": _fill_bodies,
    "run_all": _run_all,
    "round_trips": _round_trips,
    "steady": _steady,
    "cancels": _cancels,
}
