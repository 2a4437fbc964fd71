"""Task groups on real workers: whoever leaves the block can rely on it as on asyncio.TaskGroup."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from e2e.conftest import TREE, executions
from qworker import App, GroupStopped
from support.waiting import wait_until


def test_the_block_ends_when_all_of_its_tasks_have_ended(start, tree) -> None:
    start("-c", "2", target=TREE)

    with tree.app.group(name="sums") as g:
        futures = [g.submit(tree.add, n, n) for n in range(5)]
        futures += g.submit_many([tree.add.call(n, 1) for n in range(5)])

    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8, 1, 2, 3, 4, 5]
    assert [receipt.id for receipt in g.receipts] == [future.id for future in futures]
    assert g.survivors == ()
    with pytest.raises(GroupStopped, match="its block was left"):
        g.submit(tree.add, 1, 1)


def test_the_first_failure_stops_the_siblings_wherever_they_are(start, tree, execution_log) -> None:
    start("-c", "process=2,thread=1", target=TREE)

    with pytest.raises(ExceptionGroup) as caught, tree.app.group() as g:
        running = g.submit(tree.polite, 60, tag="running")
        wait_until(lambda: executions(execution_log), description="the first start")
        queued = g.submit_many([tree.polite.call(60, tag="queued") for _ in range(20)])
        failing = g.submit(tree.fail.options(priority="high", pool="thread"), "broken")

    assert [(type(error), str(error)) for error in caught.value.exceptions] == [(ValueError, "broken")]
    assert caught.value.exceptions[0].__notes__[-1] == f"raised by {failing.shown}"
    assert (running.outcome.state, running.outcome.how) == ("cancelled", "noticed")
    assert all(future.cancelled() for future in queued)
    assert g.survivors == ()
    assert len([line for line in executions(execution_log) if "queued" in line[5]]) <= 2


def test_a_callback_that_takes_its_time_does_not_hold_up_the_stop_of_the_siblings(start, tree) -> None:
    start("-c", "2", target=TREE)
    may_end, called = threading.Event(), threading.Event()

    with pytest.raises(ExceptionGroup), tree.app.group() as g:
        first = g.submit(tree.add, 1, 1)
        first.add_done_callback(lambda _: called.set() or may_end.wait(30))
        assert first.result(20) == 2
        assert called.wait(20)
        sibling = g.submit(tree.polite, 60)
        g.submit(tree.fail)
        assert sibling.wait(20), "stopped by who hears of the failure: the block is not left yet"
        may_end.set()

    assert sibling.cancelled()


def test_a_group_of_another_app_in_between_leaves_the_outer_one_as_it_was(tree, url) -> None:
    with App(url, namespace="elsewhere") as other, tree.app.group(timeout=60) as outer:
        with other.group() as foreign:
            assert foreign.path == ()
            with tree.app.group() as inner:
                assert inner.path == (outer.id,)
        with tree.app.group() as after:
            assert after.path == (outer.id,)
            assert 0 < after.remaining() <= 60


def test_a_stopped_group_ends_without_any_worker(tree) -> None:
    with tree.app.group() as g:
        futures = [g.submit(tree.add, 1, 1) for _ in range(10)]
        g.stop()
        with pytest.raises(GroupStopped, match="it was stopped"):
            g.submit(tree.add, 1, 1)

    assert {(receipt.outcome, receipt.how) for receipt in g.receipts} == {("cancelled", "never_started")}
    assert all(future.cancelled() for future in futures)


def test_leaving_by_an_exception_stops_the_tasks_and_joins_the_errors(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    with pytest.raises(ExceptionGroup) as caught, tree.app.group() as g:
        running = g.submit(tree.polite, 60)
        wait_until(lambda: executions(execution_log), description="its start")
        raise KeyError("body")

    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert running.cancelled()


def test_an_interrupt_of_the_body_comes_out_bare_after_the_tasks_have_ended(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    with pytest.raises(KeyboardInterrupt), tree.app.group() as g:
        running = g.submit(tree.polite, 60)
        wait_until(lambda: executions(execution_log), description="its start")
        raise KeyboardInterrupt

    assert running.cancelled()


def test_failures_up_to_the_allowed_number_are_no_error(start, tree) -> None:
    start("-c", "1", target=TREE)

    with tree.app.group(max_failures=2) as g:
        bad = [g.submit(tree.fail, str(n)) for n in range(2)]
        good = g.submit(tree.add, 1, 2)

    assert good.result() == 3
    assert [str(future.exception()) for future in bad] == ["0", "1"]


def test_what_a_task_submits_belongs_to_the_tree(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)
    start("-c", "2", target=TREE)

    with tree.app.group() as g:
        parent = g.submit(tree.submits, 0.5, 3)

    below = [tree.app.future(task) for task in parent.result()]
    assert [future.status().state for future in below] == ["succeeded"] * 3


def test_a_stop_reaches_groups_inside_of_tasks(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)
    start("-c", "2", target=TREE)

    with tree.app.group() as g:
        parent = g.submit(tree.opens_a_group, 60, 2)
        wait_until(lambda: len(executions(execution_log)) == 3, description="three starts")
        began = time.monotonic()
        g.stop()

    assert parent.cancelled()
    assert time.monotonic() - began < 5
    below = [line[1] for line in executions(execution_log) if "below" in line[5]]
    assert [tree.app.future(task).status().state for task in below] == ["cancelled"] * 2


def test_a_task_lends_its_slot_while_it_waits_at_the_end_of_its_block(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    assert tree.adds_up.submit(list(range(8))).result(timeout=40) == 28
    assert tree.aadds_up.submit(list(range(4))).result(timeout=40) == 6


def test_a_second_interrupt_leaves_receipts_that_claim_nothing(start, tree, execution_log, tmp_path) -> None:
    start("-c", "process=1,thread=1", target=TREE)
    gate = tmp_path / "gate"
    with pytest.raises(KeyboardInterrupt), tree.app.group() as g:
        running = g.submit(tree.deaf_thread.options(grace=60), str(gate))
        wait_until(lambda: executions(execution_log), description="the start")
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        raise KeyboardInterrupt

    [receipt] = g.survivors

    assert receipt.still_running is None
    assert receipt.note.startswith("the wait for it was interrupted: whether its code runs is not known")
    assert running.status().state == "running"
    gate.touch()
    assert running.wait(10)
