"""Thread slots behind a real worker: survivors are told, listed, and gone after recycling; a held GIL costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from e2e.conftest import executions
from qworker import TaskTimedOut
from support.waiting import wait_until

THREADS = ("-c", "thread=3", "--pool", "thread")


def dessert(url: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "qworker", "dessert", "--url", url, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    return found["survivors"] if isinstance(found, dict) else found


def test_a_thread_that_ignores_its_end_is_told_and_listed_and_its_slot_replaced(
    start, tasks, execution_log, url
) -> None:
    worker = start(*THREADS)
    future = tasks.sleep_for_ever.submit()

    with pytest.raises(TaskTimedOut, match=r"still running|runs on"):
        future.result(timeout=15)

    worker.wait_event("task.ended", task=future.id, how="left_running")
    listed = wait_until(lambda: dessert(url), description="the survivor in `qworker dessert`")
    assert listed[0]["id"] == future.id
    # All three slots serve again: three naps at once take the time of one.
    begun = time.monotonic()
    naps = [tasks.nap.submit(1.0) for _ in range(3)]
    assert [nap.result(timeout=10) for nap in naps] == ["", "", ""]
    assert time.monotonic() - begun < 1.9


def test_survivors_are_gone_after_recycling(start, tasks, execution_log, url) -> None:
    worker = start(*THREADS, "--max-survivors", "2", "--recycle-timeout", "1")
    futures = [tasks.sleep_for_ever.submit() for _ in range(2)]
    for future in futures:
        with pytest.raises(TaskTimedOut):
            future.result(timeout=15)

    worker.wait_event("child.recycled")
    wait_until(lambda: not dessert(url), timeout=15, description="no survivor to be listed")
    assert tasks.add.submit(1, 1).result(timeout=10) == 2


def test_a_task_that_holds_the_gil_is_replaced_within_a_second_and_costs_no_lease(start, tasks, execution_log) -> None:
    worker = start(*THREADS, env={"QWORKER_LEASE": "3"})
    stuck = tasks.stuck_in_c.options(timeout=6, grace=1).submit()
    wait_until(lambda: executions(execution_log), description="its start")

    begun = time.monotonic()
    assert tasks.add.submit(1, 1).result(timeout=10) == 2
    assert time.monotonic() - begun < 2.0
    worker.wait_event("child.wedged")
    with pytest.raises(TaskTimedOut):
        stuck.result(timeout=20)
    assert not worker.events("claim.lost")
    assert not worker.events("lease.uncertain")
    assert len(executions(execution_log)) == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_holding_the_gil_for_20_s_costs_no_default_lease(start, tasks, execution_log) -> None:
    worker = start(*THREADS)
    stuck = tasks.stuck_in_c.options(timeout=20, grace=0).submit()
    wait_until(lambda: executions(execution_log), description="its start")
    begun = time.monotonic()

    served = 0
    while not stuck.wait(0.5):
        assert tasks.add.submit(served, 1).result(timeout=5) == served + 1
        served += 1

    assert time.monotonic() - begun > 19
    assert served > 20
    with pytest.raises(TaskTimedOut):
        stuck.result()
    worker.wait_event("child.wedged")
    assert not worker.events("claim.lost") + worker.events("lease.uncertain")
    assert len(executions(execution_log)) == 1
