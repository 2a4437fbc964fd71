"""How much of the slots' time goes into the tasks: sleeps, CPU work, and long tasks among short ones."""

from __future__ import annotations

import random
import subprocess
from functools import partial

from .. import environments, ideal
from ..adapter import FailedError, NotOfferedError
from ..figures import percentile
from ..stage import Shape, Stage
from .base import Figure, Goal, Scenario

NAP_S, AT_ONCE, NAPS = 0.05, 100, 3_000
BURN_S, BURNS = 0.005, 400
SHORT_S, SHORTS = 0.005, 210
LONG_S, LONGS = 0.5, 7
SLOTS = 2

SHARE = (Figure("share", "of ideal"),)
SLEEPS = (Goal("share", 0.97),)


def sleeps(stage: Stage, modes: tuple[str, ...]) -> dict[str, float]:
    """Tasks that sleep 50 ms, 100 at once; the time from the first one's start by that of 100 perfect slots."""
    mode = next((mode for mode in modes if mode in stage.facts["modes"]), None)
    if mode is None:
        raise NotOfferedError(f"no {' or '.join(modes)} slots")
    naps = stage.scaled(NAPS)
    watched = stage.run_filled(stage.adapter(Shape(mode, AT_ONCE)), "nap", [str(NAP_S)] * naps)
    took_s = watched.ended_at - watched.first_at + NAP_S  # the first one began so long before it was counted
    return {"share": naps * NAP_S / AT_ONCE / took_s}


def burns(stage: Stage) -> dict[str, float]:
    """CPU work of 5 ms on 2 processes; the rate by that of a bare ProcessPoolExecutor of the same interpreter.

    The bare pool runs half of its tasks before and half after, so that a drift of the machine falls on both.
    """
    body = str(_numbers_for(BURN_S, stage))
    burns = stage.scaled(BURNS)
    before = _bare(stage, body, burns // 2)
    rate = stage.run_filled(stage.adapter(Shape("process", 2)), "burn", [body] * burns).rate
    stage.clear()
    after = _bare(stage, body, burns // 2)
    return {"share": rate / ((before + after) / 2), "rate": rate}


def _bare(stage: Stage, body: str, count: int) -> float:
    """Return the rate of the bare pool."""
    rate = stage.run_filled(stage.bare_pool(2), "burn", [body] * count).rate
    stage.clear()
    return rate


def _numbers_for(seconds: float, stage: Stage) -> int:
    """Return how many numbers the contestant's interpreter adds up in so long, at its quickest."""
    code = (
        "import time, work\n"
        "def timed():\n"
        "    started = time.perf_counter(); work.add_up(20_000); return time.perf_counter() - started\n"
        "print(min(timed() for _ in range(50)))\n"
    )
    python = environments.python_of(stage.contestant)
    command = [str(python), "-c", code]
    done = subprocess.run(command, cwd=environments.PEERS, capture_output=True, text=True, check=True)
    return round(20_000 * seconds / float(done.stdout))


def mixed(stage: Stage) -> dict[str, float]:
    """A few long tasks among many short ones on 2 processes: how long the short ones wait, by an ideal scheduler's."""
    seconds = [LONG_S] * stage.scaled(LONGS, least=2) + [SHORT_S] * stage.scaled(SHORTS)
    random.Random(4).shuffle(seconds)
    bodies = [f"{number} {length}" for number, length in enumerate(seconds)]
    stage.run_filled(stage.adapter(Shape("process", SLOTS, ahead=False)), "timed", bodies)
    noted = [line.split() for line in stage.times.read_text().splitlines()]
    spans = {int(key): (float(start), float(end)) for key, start, end in noted}
    at_once = ideal.most_at_once(list(spans.values()))
    if at_once > SLOTS:
        raise NotOfferedError(f"its {SLOTS} processes ran {at_once} tasks at once")
    if len(spans) != len(bodies):
        raise FailedError(f"{len(spans)} of {len(bodies)} tasks ran")
    first = min(start for start, _ in spans.values())
    waited = percentile([spans[key][0] - first for key, length in enumerate(seconds) if length == SHORT_S], 95)
    perfect = ideal.waits(seconds, SLOTS)
    least = percentile([wait for wait, length in zip(perfect, seconds, strict=True) if length == SHORT_S], 95)
    return {"by_ideal": waited / least, "p95": waited * 1e3}


SCENARIOS = (
    Scenario(
        "sleeps", "50 ms sleeps, 100 at once: coroutines, else threads", SHARE,
        partial(sleeps, modes=("async", "thread")), important=True, goals=SLEEPS,
    ),
    Scenario("sleeps-threads", "50 ms sleeps, 100 threads", SHARE, partial(sleeps, modes=("thread",)), goals=SLEEPS),
    Scenario(
        "cpu", "5 ms CPU tasks, 2 processes, by a bare ProcessPoolExecutor's rate",
        (Figure("share", "of the bare pool"), Figure("rate", "tasks/s")), burns, important=True,
        goals=(Goal("share", 0.98),),
    ),
    Scenario(
        "mixed", f"{LONGS} tasks of 0.5 s among {SHORTS} of 5 ms, 2 processes: p95 wait of the short ones",
        (Figure("by_ideal", "by the ideal one", "least"), Figure("p95", "ms", "least")), mixed, important=True,
        goals=(Goal("by_ideal", 1.1),),
    ),
)  # fmt: skip
