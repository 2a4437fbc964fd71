"""A worker is lost with all its processes while its slots are full; a second worker is there. When is all done?

The lost tasks sleep for a minute in their first execution, and end at once in the next one: what is measured is how
long it takes until they run again. Where the second worker is *apart*, it is in a PID namespace of its own, as in
another container or on another host. All contestants do this at the same time, each on a server of its own: they wait.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import time
from functools import partial
from typing import Any

from ..adapter import CannotError, FailedError, NotOfferedError
from ..peers import work
from ..stage import Shape, Stage
from .base import Facts, Figure, Goal, Scenario

IN_FLIGHT_WITHIN_S = 20.0
SECOND_READY_AFTER_S = 5.0
CAP_S = 72.0  # some come back after a minute
TUNED_S = 5.0
NAMESPACE = ("--pid", "--fork", "--mount-proc", "--kill-child")


def lost(stage: Stage, lease_s: float | None = None, *, apart: bool = True) -> dict[str, float]:
    """From the kill until every task has ended."""
    elsewhere = namespace() if apart else []
    mode = next(mode for mode in ("async", "thread", "process") if mode in stage.facts["modes"])
    slots = 10 if mode == "process" else 100
    adapter = stage.adapter(Shape(mode, slots, lease_s=lease_s))
    worker = stage.warm_worker(adapter)
    assert worker is not None
    before = work.counted(str(stage.counter))
    adapter.order("fill_bodies", task="once", bodies=[str(number) for number in range(slots)])
    _wait_until_begun(stage, slots)
    second = stage.start_worker(adapter, [*elsewhere, *adapter.order("worker")["command"]])
    time.sleep(SECOND_READY_AFTER_S)  # nothing that it does would show that it is there: nothing is queued
    worker.kill()
    killed = time.perf_counter()
    while (ended := work.counted(str(stage.counter)) - before) < slots:
        if second.ended:
            raise FailedError(f"the second worker ended{second.said()}")
        if time.perf_counter() - killed > CAP_S:
            raise FailedError(f"{ended} of {slots} tasks had ended {CAP_S:g} s after the kill")
        time.sleep(0.01)
    return {"seconds": time.perf_counter() - killed, "tasks": slots}


def _wait_until_begun(stage: Stage, count: int) -> None:
    ends = time.monotonic() + IN_FLIGHT_WITHIN_S
    while (begun := len(list(stage.folder.glob(f"{stage.times.name}.*")))) < count:
        if time.monotonic() > ends:
            raise FailedError(f"{begun} of {count} tasks ran {IN_FLIGHT_WITHIN_S:g} s after they were queued")
        time.sleep(0.01)


@functools.cache
def namespace() -> list[str]:
    """Return the start of a command line that runs the rest in a PID namespace of its own.

    Raises:
        NotOfferedError: this machine does not let us.
    """
    for user in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *user, *NAMESPACE]
        if (
            shutil.which("unshare")
            and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
        ):
            return command
    raise NotOfferedError("needs a PID namespace, and this user may not make one")


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def refuse(facts: Facts) -> None:
    """At defaults."""
    if facts["local"]:
        raise NotOfferedError("a local pool: there is no queue")
    if facts["not_soon_back"]:
        raise CannotError(facts["not_soon_back"])


def refuse_tuned(facts: Facts) -> None:
    """At a lease."""
    if facts["local"]:
        raise NotOfferedError("a local pool: there is no queue")
    if not facts["lease"]:
        raise CannotError("no lease that is renewed while a task runs: " + facts["not_soon_back"])


def _scenario(name: str, title: str, measure: Any, goal: Goal, bars: Any = refuse) -> Scenario:
    figures = (Figure("seconds", "s", "least"), Figure("tasks", "tasks"))
    return Scenario(name, title, figures, measure, goals=(goal,), rounds=2, shares="crash", waits=True, refuse=bars)


HALF = Goal("seconds", 0.5, "queue")
SCENARIOS = (
    _scenario(
        "crash", "Worker killed -9 with 100 tasks in flight: all have ended after", partial(lost, apart=False), HALF
    ),
    _scenario("crash-apart", "The same, the second worker in another container or on another host", lost, HALF),
    _scenario(
        "crash-tuned", f"The same, there, with a lease of {TUNED_S:g} s", partial(lost, lease_s=TUNED_S),
        Goal("seconds", TUNED_S + 1), refuse_tuned,
    ),
)  # fmt: skip
