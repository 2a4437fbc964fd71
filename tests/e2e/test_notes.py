"""What tasks tell of themselves through real workers: cursors that outlive them, progress that reaches who waits."""

from __future__ import annotations

import os
import signal

import pytest

from e2e.conftest import executions
from qworker import App, Progress, WaitTimeout, cli
from support.daemon import alive, descendants
from support.waiting import wait_until


def rows_done(path) -> list[int]:
    """The rows that were completed, in their order."""
    return [int(line[5].partition(": ")[2].rstrip("}")) for line in executions(path, "row")]


def some_rows(path, count: int) -> None:
    wait_until(lambda: len(rows_done(path)) >= count, description=f"{count} rows")


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_a_drained_task_goes_on_after_its_last_row_and_burns_no_attempt(start, tasks, execution_log, kind) -> None:
    first = start("-c", "1", "--drain-timeout", "0.2")
    task = {"process": tasks.rows, "thread": tasks.rows_in_thread, "async": tasks.rows_async}[kind]
    future = task.submit(40, 0.05)
    some_rows(execution_log, 5)

    first.term()
    first.wait()
    before = rows_done(execution_log)
    start("-c", "1")

    assert future.result(timeout=20) == 40
    assert len(before) < 40
    assert rows_done(execution_log) == list(range(40)), "the row that was begun was not completed"
    assert {line[2] for line in executions(execution_log)} == {"1"}


def test_a_killed_child_costs_no_row_that_was_done_long_ago_and_no_retry(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.rows.options(retries=0).submit(20, 0.01, hang_at=10)
    line = wait_until(lambda: executions(execution_log, "hangs"), description="it to hang")[0]
    # The last row before the hang may be younger than the 50 ms between two savings.
    os.kill(int(line[3]), signal.SIGKILL)

    assert future.result(timeout=15) == 20
    done = rows_done(execution_log)
    assert sorted(set(done)) == list(range(20))
    assert len(done) <= 20 + 6
    assert done[:10] == list(range(10))


def test_a_timed_out_attempt_goes_on_where_it_was_killed(start, tasks, execution_log, one_server, key_audit) -> None:
    start("-c", "1")
    future = tasks.rows.options(timeout=0.5, grace=0, retries=1, backoff=0).submit(8, 0.06, hang_at=5)

    assert future.result(timeout=15) == 8
    assert rows_done(execution_log) == list(range(8))


def test_after_a_kill_of_the_whole_worker_it_goes_on_from_the_last_renewal(start, tasks, execution_log) -> None:
    first = start("-c", "1")
    future = tasks.rows.submit(60, 0.05)
    wait_until(lambda: future.status().progress is not None, description="a renewal with progress")
    some_rows(execution_log, 30)
    below = descendants(first.pid)

    first.kill()
    wait_until(lambda: not any(alive(pid) for pid in below), description="its children to be gone")
    killed_at = len(rows_done(execution_log))
    start("-c", "1")

    assert future.result(timeout=20) == 60
    done = rows_done(execution_log)
    assert sorted(set(done)) == list(range(60))
    again = killed_at - done[killed_at]
    assert 0 <= again <= 25, "what was done again is what a second holds"


def test_progress_reaches_the_future_and_its_callbacks_and_others_who_ask(start, tasks, url) -> None:
    start("-c", "1")
    heard: list[Progress] = []
    elsewhere: list[Progress] = []
    future = tasks.tell.submit(6, 0.5)
    future.add_progress_callback(heard.append)
    with App(url) as other:
        handle = other.future(future.id)
        handle.add_progress_callback(elsewhere.append)
        wait_until(lambda: future.progress() is not None, description="the first progress")
        shown = handle.progress()
        assert shown is not None
        assert shown.total == 6
        assert future.status().progress is not None

        assert future.result(timeout=15) == "told"
        last = future.progress()

    assert last is not None
    assert last.text == f"step {last.done:g}"
    assert heard[-1] == last
    assert len(set(heard)) == len(heard) >= 2, "only changes are told"
    assert len(elsewhere) >= 2


def test_a_waiter_whose_time_is_up_may_take_the_task_with_him(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.polite.submit(60)
    wait_until(lambda: executions(execution_log), description="its start")

    with pytest.raises(WaitTimeout) as caught:
        future.result(timeout=0.2, then="stop")

    receipt = caught.value.receipt
    assert receipt is not None
    assert (receipt.outcome, receipt.still_running) == ("cancelled", False)
    assert "; it was stopped: its code does not run, after " in str(caught.value)
    assert future.cancelled()


def test_watch_shows_what_a_task_prints_until_it_ends(start, tasks, execution_log, capfd) -> None:
    start("-c", "1")
    future = tasks.tell.submit(4, 0.8)
    wait_until(lambda: executions(execution_log), description="its start")

    assert cli.run(["watch", future.id]) == 0

    out, err = capfd.readouterr()
    assert out == '"told"\n'
    assert "  | line 1\n" in err
    assert " of 4 done: step " in err
