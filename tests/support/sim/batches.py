"""Many histories, in as many processes as there are processors.

batches(first, …) ─► make(first, BATCH), make(first + BATCH, BATCH), … ─► Batch: how many, and those that are bad
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

from support.history.judge import report

from .plans import draw
from .world import simulate

BATCH = 50  # histories that a process makes before it tells of them


class Batch(NamedTuple):
    """What came of some histories."""

    count: int
    virtual_s: float
    calls: int
    cpu_s: float
    bad: list[str]


def replay(seed: int, *, small: bool = False) -> str:
    """The command that makes a history again."""
    return f"PYTHONPATH=src:tests python -m support.sim{' --small' if small else ''} --seed {seed}"


def make(first: int, count: int, *, small: bool) -> Batch:
    """Make some histories, one after the other."""
    used, virtual_s, calls, made = time.process_time(), 0.0, 0, 0
    bad: list[str] = []
    for seed in range(first, first + count):
        try:
            verdict = simulate(draw(seed, small=small))
        except Exception as exc:
            exc.add_note(f"seed {seed} raised\nagain: {replay(seed, small=small)}")
            raise
        made, virtual_s, calls = made + 1, virtual_s + verdict.took_s, calls + verdict.calls
        if verdict.violations:
            bad.append(f"seed {seed}: {report(verdict.violations, most=3)}\nagain: {replay(seed, small=small)}")
    return Batch(made, virtual_s, calls, time.process_time() - used, bad)


def batches(first: int, *, count: int | None, ends: float, jobs: int, small: bool) -> Iterator[Batch]:
    """Make so many, or as many as there is time for (`ends`, by time.monotonic()), in so many processes."""
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("forkserver"), initializer=be_calm
    ) as processes:  # fmt: skip
        under_way: deque[Future[Batch]] = deque()
        begun = 0
        while under_way or begun == 0:
            while len(under_way) < 2 * jobs and (begun < count if count is not None else time.monotonic() < ends):
                size = BATCH if count is None else min(BATCH, count - begun)
                under_way.append(processes.submit(make, first + begun, size, small=small))
                begun += size
            if not under_way:
                return
            yield under_way.popleft().result()


def be_calm() -> None:
    """Collect only between histories, and nothing of what was there before them."""
    gc.disable()
    gc.freeze()
