"""Fault points as a user of them meets them: refused when misspelt, never armed unseen; and what they found."""

from __future__ import annotations

import pytest

from e2e.conftest import BASIC, executions
from qworker import TaskCancelled
from support.daemon import spawn_worker
from support.waiting import wait_until


def test_a_misspelt_fault_point_is_a_wrong_setting(url, tmp_path) -> None:
    worker = spawn_worker(url, BASIC, log_dir=tmp_path, env={"QWORKER_FAULT": "claim.send:cut"})

    assert worker.wait() == 2
    (line,) = worker.log().splitlines()
    assert line.startswith("qworker start: QWORKER_FAULT: 'claim.send:cut': there is no fault point 'claim.send'; ")


def test_a_worker_with_fault_points_says_so_at_its_start_whatever_its_log_level(url, tmp_path) -> None:
    env = {"QWORKER_FAULT": "drain.end:exit0", "QWORKER_FAULT_TALLY": str(tmp_path / "tally")}
    worker = spawn_worker(url, BASIC, "--log-level", "error", log_dir=tmp_path, env=env)
    try:
        assert worker.wait_event("worker.fault_points")["armed"] == "drain.end:exit0:1"
    finally:
        worker.close()


def test_a_failure_where_an_outcome_is_taken_in_ends_the_worker_and_not_only_that_outcome(
    start, tasks, execution_log, tmp_path
) -> None:
    """It comes out of a callback of the loop, which alone would log it: the task was held, and renewed, for ever."""
    env = {"QWORKER_FAULT": "stop.end:raise", "QWORKER_FAULT_TALLY": str(tmp_path / "tally")}
    worker = start("-c", "1", env=env)
    future = tasks.nap.options(grace=0).submit(60.0)
    wait_until(lambda: executions(execution_log), description="the task's start")

    future.stop(wait=0)

    assert worker.wait() == 1
    assert "stop.end:raise:1" in worker.wait_event("worker.failed")["error"]
    start("-c", "1")
    with pytest.raises(TaskCancelled):
        future.result(timeout=10)
    assert len(executions(execution_log)) == 1


@pytest.mark.parametrize("nth", [1, 2])
def test_a_worker_that_fails_while_it_orders_its_children_ends(url, tmp_path, nth) -> None:
    """It waited for the end of a child of which nobody would ever tell."""
    env = {"QWORKER_FAULT": f"spawn.sent:raise:{nth}", "QWORKER_FAULT_TALLY": str(tmp_path / "tally")}
    worker = spawn_worker(url, BASIC, "-c", "2", log_dir=tmp_path, env=env)
    try:
        assert worker.wait() == 1
        assert worker.events("worker.failed")
    finally:
        worker.close()
