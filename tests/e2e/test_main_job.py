"""Submit, window, run, record, answer: a real producer, a real worker, a real server."""

from __future__ import annotations

import asyncio
import concurrent.futures

import pytest

from qworker import ResultExpired, TaskFailed, WaitTimeout, call


def test_a_task_runs_and_answers(start, tasks) -> None:
    start("-c", "2")

    assert tasks.add.submit(2, 3).result(timeout=10) == 5


def test_values_come_back_as_they_went(start, tasks) -> None:
    start("-c", "1")
    value = {"t": (1, 2), "s": {1, 2}, "b": b"\xff", "n": None, "l": [1.5, "ü"]}

    assert tasks.echo.submit(value).result(timeout=10) == value


def test_many_tasks_are_all_answered(start, tasks) -> None:
    start("-c", "2")

    futures = tasks.add.submit_many([call(n, y=1) for n in range(2_000)])

    _, pending = concurrent.futures.wait(futures, timeout=30)
    assert not pending
    assert [future.result() for future in futures] == [n + 1 for n in range(2_000)]


def test_await_works_in_a_loop_of_the_callers(start, tasks) -> None:
    start("-c", "2")

    async def main() -> list[int]:
        futures = [await tasks.add.asubmit(n, 1) for n in range(20)]
        return [await future for future in futures]

    assert asyncio.run(main()) == list(range(1, 21))


def test_an_exception_comes_back_as_itself_with_its_remote_traceback(start, tasks) -> None:
    start("-c", "1")

    with pytest.raises(ValueError, match="no") as caught:
        tasks.fail.submit().result(timeout=10)

    assert "basic.py" in str(caught.value.__cause__)


def test_a_failing_task_is_retried_until_it_succeeds(start, tasks, execution_log) -> None:
    start("-c", "1")

    assert tasks.flaky.submit(2).result(timeout=10) == 3


def test_a_task_that_keeps_failing_ends_as_failed_after_its_retries(start, tasks, execution_log) -> None:
    from e2e.conftest import executions

    start("-c", "1")

    with pytest.raises(RuntimeError, match="attempt 4 fails"):
        tasks.flaky.submit(99).result(timeout=10)
    assert len(executions(execution_log)) == 4


def test_a_task_may_ask_for_its_own_retry(start, tasks) -> None:
    start("-c", "1")

    assert tasks.asks_for_retry.submit(2, 0.05).result(timeout=10) == 3


def test_a_delayed_task_runs_when_it_is_due_and_not_before(start, tasks) -> None:
    start("-c", "1")
    future = tasks.add.options(delay=0.6).submit(1, 1)

    with pytest.raises(WaitTimeout, match="scheduled"):
        future.result(timeout=0.2)
    assert future.result(timeout=10) == 2


def test_a_coroutine_function_runs_on_a_loop_in_its_slot(start, tasks) -> None:
    start("-c", "1")

    assert tasks.async_nap.submit(0.01).result(timeout=10) == "slept"


def test_a_task_that_needs_a_thread_gets_one(start, tasks) -> None:
    start("-c", "process=1,thread=2")

    assert tasks.in_thread.submit().result(timeout=10)
    assert tasks.add.submit(1, 1).result(timeout=10) == 2


def test_a_value_that_is_not_kept_is_said_to_be_gone(start, tasks) -> None:
    start("-c", "1")

    with pytest.raises(ResultExpired):
        tasks.forget_value.submit().result(timeout=10)


def test_a_value_that_cannot_be_encoded_fails_its_task_and_nothing_else(start, tasks) -> None:
    start("-c", "1")

    with pytest.raises((TaskFailed, TypeError), match="generator"):
        tasks.unencodable.submit().result(timeout=10)
    assert tasks.add.submit(1, 1).result(timeout=10) == 2


def test_a_value_above_the_limit_fails_its_task_and_says_why(start, tasks) -> None:
    start("-c", "1")

    with pytest.raises(Exception, match=r"1 MiB|1048576|too large|1,048,576"):
        tasks.huge.submit(3 << 20).result(timeout=10)
    assert len(tasks.huge.submit(900_000).result(timeout=10)) == 900_000


def test_what_a_task_prints_and_logs_becomes_events_with_its_id(start, tasks) -> None:
    worker = start("-c", "1")
    future = tasks.talk.submit()
    future.result(timeout=10)

    worker.wait_event("task.output", task=future.id, text="hello from a task")
    worker.wait_event("task.output", task=future.id, text="logged 7", level="warning")


def test_each_claim_has_a_larger_fence(start, tasks) -> None:
    start("-c", "1", "--window", "1")

    fences = [tasks.who.submit().result(timeout=10)[2] for _ in range(5)]

    assert fences == sorted(set(fences))


def test_burst_ends_by_itself_when_the_queue_is_empty(start, tasks) -> None:
    futures = tasks.add.submit_many([call(n, 1) for n in range(50)])
    worker = start("-c", "2", "--burst")

    assert worker.wait() == 0
    assert [future.result(timeout=10) for future in futures] == [n + 1 for n in range(50)]


def test_burst_leaves_nothing_behind_a_thousand_cancelled_tasks(start, tasks) -> None:
    """Their entries stay in the line, and one claim passes over a thousand of them at most."""
    cancelled = tasks.add.submit_many([call(n, 1) for n in range(1_100)])
    last = tasks.add.submit(20, 22)
    assert all(future.cancel() for future in cancelled)

    assert start("-c", "1", "--burst").wait() == 0

    assert last.result(timeout=10) == 42


def test_queues_are_served_in_strict_order(start, tasks, execution_log) -> None:
    from e2e.conftest import executions

    low = tasks.nap.options(queue="low").submit_many([call(0.01, tag="low") for _ in range(5)])
    high = tasks.nap.options(queue="high").submit_many([call(0.01, tag="high") for _ in range(5)])
    start("-c", "1", "-q", "high,low", "--window", "1", "--burst").wait()

    assert {future.result(timeout=10) for future in low + high} == {"low", "high"}
    tags = [line[5] for line in executions(execution_log)]
    assert ["high" in tag for tag in tags] == [True] * 5 + [False] * 5


def test_priorities_go_first_within_a_queue(start, tasks, execution_log) -> None:
    from e2e.conftest import executions

    for priority in ("low", "normal", "high"):
        tasks.nap.options(priority=priority).submit(0.0, tag=priority)
    start("-c", "1", "--window", "1", "--burst").wait()

    assert [line[5].split("'")[3] for line in executions(execution_log)] == ["high", "normal", "low"]


def test_a_given_id_is_one_task_however_often_it_is_submitted(start, tasks, execution_log) -> None:
    from e2e.conftest import starts_by_id

    start("-c", "1")
    futures = [tasks.nap.options(id="only-once").submit(0.05, tag="x") for _ in range(5)]

    assert {future.result(timeout=10) for future in futures} == {"x"}
    assert starts_by_id(execution_log) == {"default:only-once": 1}


def test_a_handle_from_elsewhere_finds_the_task_by_its_id(start, tasks) -> None:
    start("-c", "1")
    submitted = tasks.add.submit(20, 22)

    assert tasks.app.future(submitted.id).result(timeout=10) == 42


def test_children_are_replaced_after_max_tasks_per_child(start, tasks) -> None:
    start("-c", "1", "--max-tasks-per-child", "2")

    pids = [tasks.pid.submit().result(timeout=10) for _ in range(5)]

    assert len(set(pids)) >= 3


def test_an_unknown_name_waits_and_is_visible(start, tasks) -> None:
    worker = start("-c", "1")
    future = tasks.app.submit("nowhere.known", 1)

    worker.wait_event("task.unknown", name="nowhere.known")
    with pytest.raises(WaitTimeout):
        future.result(timeout=0.3)
    assert future.cancel()
