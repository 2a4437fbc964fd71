"""Stop and cancel of a task in each state: every receipt is true."""

from __future__ import annotations

import time

import pytest

from e2e.conftest import executions
from qworker import TaskCancelled, TaskTimedOut
from support.waiting import wait_until


def test_a_queued_task_that_is_cancelled_never_starts(start, tasks, execution_log) -> None:
    future = tasks.nap.submit(0.0)

    assert future.cancel() is True
    start("-c", "1", "--burst").wait()

    assert future.cancelled()
    assert executions(execution_log) == []
    with pytest.raises(TaskCancelled):
        future.result(timeout=5)


def test_stop_of_a_queued_task_says_that_it_never_started(tasks) -> None:
    receipt = tasks.nap.submit(0.0).stop(wait=2)

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "never_started", False)


def test_stop_of_a_claimed_but_unstarted_task_says_that_it_never_started(start, tasks, execution_log) -> None:
    start("-c", "1", "--window", "4")
    running = tasks.nap.submit(1.0, tag="first")
    wait_until(lambda: executions(execution_log), description="the first start")
    behind = tasks.nap.submit(0.0, tag="behind")

    receipt = behind.stop(wait=3)

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "never_started", False)
    assert running.result(timeout=10) == "first"
    assert len(executions(execution_log)) == 1


def test_cancel_leaves_a_running_task_alone(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.nap.submit(0.5, tag="alone")
    wait_until(lambda: executions(execution_log), description="its start")

    assert future.cancel() is False
    assert future.result(timeout=10) == "alone"


def test_stop_of_a_cooperative_task_is_noticed(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.polite.submit(30)
    wait_until(lambda: executions(execution_log), description="its start")

    receipt = future.stop(wait=3)

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "noticed", False)
    assert receipt.took < 1.5


def test_stop_of_an_uncooperative_task_kills_it_after_its_grace(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.nap.submit(60)
    wait_until(lambda: executions(execution_log), description="its start")

    receipt = future.stop(wait=5, grace=0.2)

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "killed", False)
    with pytest.raises(TaskCancelled):
        future.result(timeout=5)


def test_stop_that_does_not_wait_long_enough_says_that_it_still_runs(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.nap.submit(60)
    wait_until(lambda: executions(execution_log), description="its start")

    receipt = future.stop(wait=0.2, grace=30)

    assert receipt.outcome is None
    assert receipt.still_running is True
    assert future.stop(wait=5, grace=0).still_running is False


def test_stop_of_a_finished_task_says_how_it_ended(start, tasks) -> None:
    start("-c", "1")
    future = tasks.add.submit(1, 2)
    future.result(timeout=10)

    receipt = future.stop(wait=1)

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("succeeded", "returned", False)


def test_stop_of_an_unknown_task_says_that_nobody_knows_it(tasks) -> None:
    receipt = tasks.app.future("default:nobody-knows-me").stop(wait=0.5)

    assert receipt.outcome is None
    assert receipt.state is None
    assert receipt.still_running is None


def test_a_value_that_comes_after_the_ask_is_a_success(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.swallow_interrupt.submit(30)
    wait_until(lambda: executions(execution_log), description="its start")

    receipt = future.stop(wait=5)

    assert receipt.outcome == "succeeded"
    assert future.result(timeout=5) == "late value"


def test_a_stop_reaches_a_running_task_while_every_slot_is_busy(start, tasks, execution_log) -> None:
    start("-c", "2")
    futures = [tasks.polite.submit(30) for _ in range(2)]
    wait_until(lambda: len(executions(execution_log)) == 2, description="both starts")

    begun = time.monotonic()
    assert futures[0].stop(wait=3).how == "noticed"
    assert time.monotonic() - begun < 2
    assert futures[1].stop(wait=3).how == "noticed"


def test_a_stop_that_meets_a_retry_wins(start, tasks) -> None:
    start("-c", "1")
    future = tasks.asks_for_retry.submit(5, 30.0)
    wait_until(lambda: future.status().state == "scheduled", description="its retry to wait")

    assert future.stop(wait=3).outcome == "cancelled"


@pytest.mark.parametrize("name", ["sleep_for_ever", "busy_loop", "stuck_in_c"])
def test_a_hung_task_is_timed_out_and_killed_and_its_slot_serves_on(start, tasks, execution_log, name) -> None:
    worker = start("-c", "1")
    future = getattr(tasks, name).submit()

    with pytest.raises(TaskTimedOut) as caught:
        future.result(timeout=15)

    assert not isinstance(caught.value, TimeoutError)
    ended = worker.wait_event("task.ended", task=future.id)
    assert (ended["outcome"], ended["how"]) == ("timed_out", "killed")
    assert 1.9 < ended["ran_s"] < 2.6
    assert tasks.add.submit(1, 1).result(timeout=5) == 2
