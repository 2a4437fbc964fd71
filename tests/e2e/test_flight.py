"""Where was it stuck: told by the error, by `qworker show` and by the worker's log, without a debugger."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from qworker import TaskCancelled, TaskTimedOut
from qworker.model import Sighting


def show(url: str, task: str, *flags: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "qworker", "show", task, "--url", url, *flags],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_task_that_was_stuck_in_c_says_where(start, tasks, url, pool) -> None:
    worker = start("-c", f"{pool}=1", "--pool", pool)
    future = tasks.stuck_in_c.options(timeout=0.5, grace=0.6).submit()

    with pytest.raises(TaskTimedOut) as raised:
        future.result(timeout=30)

    told = "\n".join(raised.value.__notes__)
    assert "where it was when it was asked to end" in told
    assert "basic.py" in told
    assert "in stuck_in_c" in told
    assert "shortly before it was ended by force" in told
    facts = json.loads(show(url, future.id, "--json"))
    assert [seen["why"] for seen in facts["flight"]] == ["asked", "forced"]
    assert Sighting(**facts["flight"][0]).stack.rstrip().endswith("in stuck_in_c")
    rows = show(url, future.id)
    assert "where it was when it was asked to end, after" in rows
    assert "in stuck_in_c" in rows
    ended = worker.wait_event("task.ended", task=future.id)
    assert re.fullmatch(r"/.*\.py:\d+ in \w+", ended["at"])


def test_a_retry_leaves_the_place_in_the_log(start, tasks) -> None:
    worker = start("-c", "process=1")
    future = tasks.stuck_in_c.options(timeout=0.3, grace=0.3, retries=1).submit()

    retry = worker.wait_event("task.retry", task=future.id)
    assert re.fullmatch(r"/.*\.py:\d+ in \w+", retry["at"])


def test_a_task_that_was_stopped_by_force_says_where(start, tasks) -> None:
    start("-c", "process=1")
    future = tasks.sleep_for_ever.options(timeout=60).submit()
    wait_running(future)

    assert future.stop(wait=20, grace=0.3)
    with pytest.raises(TaskCancelled) as raised:
        future.result(timeout=5)

    assert "in sleep_for_ever" in "\n".join(raised.value.__notes__)


def wait_running(future) -> None:
    from support.waiting import wait_until

    wait_until(lambda: future.status().state == "running", description="the task runs")
