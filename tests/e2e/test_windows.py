"""Windows breathe: what a worker cannot start soon is where a free slot finds it. An ideal scheduler stands beside."""

from __future__ import annotations

import ast
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.ideal import waits
from e2e.conftest import executions
from qworker import call
from support.daemon import descendants
from support.schedule import Span, cost_between, longest_idle, makespan, percentile
from support.waiting import wait_until


def spans_of(log: Path, workers: dict[str, list[int]]) -> dict[str, Span]:
    """What tasks recorded, by their tags. `workers`: the pids of the children of each."""
    home = {pid: name for name, pids in workers.items() for pid in pids}
    ends = {line[1]: float(line[4]) for line in executions(log, "end")}
    spans = {}
    for line in executions(log):
        tag = ast.literal_eval(line[5])["tag"]
        spans[tag] = Span(home[int(line[3])], float(line[4]), ends[line[1]], int(line[3]))
    return spans


def mixed(long_s: float) -> list[float]:
    """40 long and 400 short ones, as they may come."""
    durations = [long_s] * 40 + [0.005] * 400
    random.Random(7).shuffle(durations)
    return durations


@pytest.mark.parametrize("long_s", [0.05, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_mixed_load_waits_hardly_longer_than_under_an_ideal_scheduler(
    start, tasks, execution_log, long_s: float, workers: int
) -> None:
    durations = mixed(long_s)
    pids = {}
    for n in range(workers):
        worker = start("-c", str(2 // workers))
        pids[f"w{n}"] = descendants(worker.pid)
    slots = dict.fromkeys(pids, 2 // workers)
    for future in tasks.nap.submit_many([call(0.005, tag=f"warm {n}") for n in range(20)]):
        future.result(timeout=20)

    begun = time.monotonic()
    futures = tasks.nap.submit_many([call(duration, tag=str(n)) for n, duration in enumerate(durations)])
    for future in futures:
        future.result(timeout=60)

    spans = spans_of(execution_log, pids)
    of_load = [spans[str(n)] for n in range(len(durations))]
    first = min(span.start for span in of_load)
    real = [span.start - first for span in of_load]
    # The ideal one runs on this machine, too: with the durations as they came out, and what each task costs besides.
    cost = cost_between(of_load)
    took = [span.end - span.start + cost for span in of_load]
    ideal = waits(took, 2)
    short = [n for n, duration in enumerate(durations) if duration < long_s]
    assert makespan(real, took) <= 1.1 * makespan(ideal, took) + 1.0
    assert percentile([real[n] for n in short], 0.95) <= 1.1 * percentile([ideal[n] for n in short], 0.95) + 1.0
    assert longest_idle(of_load, slots, submitted=first, serving=begun) < 1.0


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_worker_that_hoards_gives_back_what_a_second_one_could_start(
    start, tasks: SimpleNamespace, execution_log, pool: str
) -> None:
    """It has learned that tasks are short, and took a hundred at once; then each of them takes a while."""
    first = start("-c", "1", "--pool", pool)
    for _ in range(3):  # windows that drain in no time: the next is a large one
        for future in tasks.noop.submit_many([call() for _ in range(1500)]):
            future.result(timeout=20)
    pids = {"first": descendants(first.pid)}
    begun = time.monotonic()
    futures = tasks.nap.submit_many([call(0.15, tag=str(n)) for n in range(40)])
    wait_until(lambda: executions(execution_log), description="the first start")

    second = start("-c", "1", "--pool", pool)
    serving = time.monotonic()
    pids["second"] = descendants(second.pid)
    for future in futures:
        future.result(timeout=30)

    spans = spans_of(execution_log, pids)
    slots = dict.fromkeys(pids, 1)
    assert longest_idle(list(spans.values()), slots, submitted=begun, serving=serving) < 1.0
    by_second = sum(span.worker == "second" for span in spans.values())
    left = sum(span.start > serving for span in spans.values())
    assert by_second >= left // 3, f"of {left} tasks that were left, the second worker ran {by_second}"
