"""Groups inside of tasks inside of groups: a level costs a few round trips, and never a pause."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from e2e.conftest import TREE, executions
from support.waiting import wait_until


@pytest.mark.parametrize(("pool", "name"), [("process", "splits"), ("thread", "splits"), ("async", "asplits")])
def test_a_deep_tree_that_is_stopped_ends_at_once_and_leaves_nothing(start, tree, execution_log, pool, name) -> None:
    start("-c", f"{pool}=2", "--pool", pool, target=TREE)

    with tree.app.group() as g:
        top = g.submit(getattr(tree, name), 6, 60)
        wait_until(lambda: executions(execution_log, "leaf"), description="a leaf, six levels down", timeout=30)
        stopped = time.monotonic()
        g.stop()

    # A pause at each level, growing from 50 ms, outlasted the grace of those above: they were ended by force.
    assert time.monotonic() - stopped < 2.0
    assert (top.outcome.state, top.outcome.still_running) == ("cancelled", False)
    assert g.survivors == ()


def test_groups_in_groups_of_coroutines_are_left_without_a_pause(start, tree) -> None:
    start("-c", "async=2", "--pool", "async", target=TREE)
    assert tree.asplits.submit(1, 0).result(timeout=20) == 2  # its child has connected
    began = time.monotonic()

    with tree.app.group() as g:
        top = g.submit(tree.asplits, 3, 0)

    assert top.result() == 8
    assert time.monotonic() - began < 2.0  # each of three levels paused for 2 s


def test_what_survives_of_the_tasks_of_tasks_is_listed_once_with_its_end(start, tree, tmp_path: Path) -> None:
    start("-c", "thread=3", "--pool", "thread", target=TREE)
    gate = tmp_path / "gate"

    with tree.app.group() as g:
        below = tree.app.future(g.submit(tree.leaves_a_deaf_thread, str(gate)).result(timeout=20))
        wait_until(lambda: below.status().state == "running", description="the thread")
        assert not below.stop(wait=5)  # it is a survivor before the block is left

    survivors = g.survivors
    gate.touch()
    assert [(one.id, one.how, one.still_running) for one in survivors] == [(below.id, "left_running", True)]
