"""A deadline, and the time of a group, bound everything below: in the queue, in a retry, in what a task submits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from e2e.conftest import TREE, executions
from qworker import BadOption, GroupStopped, TaskExpired


def test_what_a_task_submits_has_no_more_time_than_itself(start, tree) -> None:
    start("-c", "2", target=TREE)

    told = tree.tells_its_time.options(deadline=20, timeout=None).submit().result(timeout=20)

    assert 0 < told["below"] <= told["own"] + 1 <= 21
    assert told["apart"] is None


def test_the_time_of_a_group_bounds_its_tasks_and_theirs(start, tree) -> None:
    start("-c", "2", target=TREE)

    with tree.app.group(timeout=15) as g:
        left = g.submit(tree.tells_its_time)
        assert 14 < (g.remaining() or 0) <= 15
        with tree.app.group(timeout=60) as inner:
            assert (inner.remaining() or 99) <= 15

    assert 0 < left.result()["below"] <= 15
    assert left.result()["apart"] is None


def test_a_task_whose_groups_time_is_up_in_the_queue_never_starts_with_no_worker_at_all(tree) -> None:
    with pytest.raises(ExceptionGroup) as caught, tree.app.group(timeout=0.5) as g:
        future = g.submit(tree.add, 1, 2)

    assert [type(error) for error in caught.value.exceptions] == [TaskExpired]
    assert (future.outcome.state, future.outcome.how) == ("expired", "never_started")


def test_a_running_task_is_asked_when_the_groups_time_is_up(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    began = time.monotonic()
    with pytest.raises(ExceptionGroup) as caught, tree.app.group(timeout=1.5) as g:
        future = g.submit(tree.polite, 60)

    assert [type(error) for error in caught.value.exceptions] == [TaskExpired]
    assert (future.outcome.state, future.outcome.how) == ("expired", "noticed")
    assert time.monotonic() - began < 6


def test_a_retry_that_does_not_fit_into_the_groups_time_is_not_made(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    with pytest.raises(ExceptionGroup) as caught, tree.app.group(timeout=2) as g:
        g.submit(tree.fails_again_and_again.options(retries=1, backoff=60))

    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert len(executions(execution_log)) == 1


def test_nothing_is_submitted_when_no_time_is_left(tree) -> None:
    with tree.app.group(timeout=1) as g:
        with pytest.raises(BadOption, match=r"a delay of 5.0 s is beyond the time of group g-.* which is up in"):
            g.submit(tree.add.options(delay=5), 1, 2)
        time.sleep(1.01)
        with pytest.raises(GroupStopped, match=r"the time of group g-.* was up .* ago; nothing was queued"):
            g.submit(tree.add, 1, 2)
        with pytest.raises(GroupStopped, match="cannot open group"), tree.app.group():
            pass


def test_a_task_past_its_own_deadline_cannot_submit(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    assert tree.submits_too_late.options(deadline=1, grace=5).submit().result(timeout=15) == "late"

    said = Path(f"{execution_log}.gate").read_text()
    assert said.startswith("BadOption: cannot submit support.apps.tree.add: the time of task default:")
    assert "which submits it, was up" in said


def test_a_detached_task_is_in_no_group(tree) -> None:
    with tree.app.group() as g, pytest.raises(BadOption, match="its option detached=True keeps it out of all groups"):
        g.submit(tree.add.options(detached=True), 1, 2)


def test_a_task_that_runs_out_of_time_on_its_way_to_a_worker_never_starts(start, tree, execution_log) -> None:
    """The worker hears of it late: its answer is held up, as in a worker that is frozen."""
    start("-c", "1", "--burst", target=TREE).wait()  # the server has the script from then on
    future = tree.polite.options(deadline=2).submit(0.0)
    start("-c", "1", target=TREE, env={"QWORKER_FAULT": "claim.reply:sleep=3:1"})

    with pytest.raises(TaskExpired):
        future.result(timeout=20)

    assert (future.outcome.how, executions(execution_log)) == ("never_started", [])
