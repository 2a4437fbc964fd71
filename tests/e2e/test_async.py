"""Async slots behind a real worker: who goes there, how they end, and that thousands may wait at once."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qworker import TaskCancelled, TaskExpired, TaskTimedOut
from qworker.lifecycle import How
from support.waiting import wait_until

TARGET = "support.apps.coroutines:app"


@pytest.fixture
def tasks(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("QWORKER_URL", url)
    sys.modules.pop("support.apps.coroutines", None)
    module = importlib.import_module("support.apps.coroutines")
    yield module
    module.app.close()


def ask(url: str, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "qworker", *words, "--url", url, "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_coroutine_functions_get_a_pool_of_their_own_and_the_others_do_not_go_there(start, tasks) -> None:
    worker = start("-c", "1", target=TARGET)

    assert worker.events("worker.started")[0]["slots"] == "process=1,async=100"
    naps = [tasks.nap.submit(0.5) for _ in range(20)]
    assert max(nap.result(timeout=15) for nap in naps) > 5, "many at once in one child"
    assert tasks.plain.submit().result(timeout=10) == "MainThread"
    assert tasks.alone.submit().result(timeout=10) == "MainThread"


def test_an_async_worker_runs_plain_functions_in_threads(start, tasks) -> None:
    worker = start("-c", "async=2x3,process=1", "--pool", "async", target=TARGET)

    assert tasks.plain.submit().result(timeout=10).startswith("qworker-slot")
    assert len(worker.wait_events("child.started", 3)) == 3, "two loops and a process"


def test_a_stop_cancels_the_coroutine_and_says_so(start, tasks, tmp_path) -> None:
    start(target=TARGET)
    path = tmp_path / "started"
    future = tasks.note.submit(str(path))
    wait_until(lambda: lines(path), description="its start")

    receipt = future.stop(wait=10)

    assert (receipt.how, receipt.still_running) == (How.INTERRUPTED, False)
    with pytest.raises(TaskCancelled, match="it was interrupted"):
        future.result(timeout=5)


def test_a_coroutine_that_swallows_its_cancellation_is_told_and_listed_until_it_ends(
    start, tasks, url, tmp_path
) -> None:
    worker = start("-c", "async=1x2", "--pool", "async", target=TARGET)
    future = tasks.deaf.submit(str(tmp_path / "gate"))

    with pytest.raises(TaskTimedOut, match="still running"):
        future.result(timeout=15)

    worker.wait_event("task.ended", task=future.id, how="left_running")
    listed = wait_until(lambda: ask(url, "dessert"), description="the survivor in `qworker dessert`")
    assert listed[0]["id"] == future.id
    assert max(nap.result(timeout=10) for nap in [tasks.nap.submit(0.5) for _ in range(2)]) == 2, "both slots serve"
    (tmp_path / "gate").touch()
    wait_until(lambda: not ask(url, "dessert"), description="nobody at the table")


def test_what_its_deadline_overtakes_in_a_busy_loop_never_starts(start, tasks, tmp_path) -> None:
    start("-c", "async=1x1", "--pool", "async", target=TARGET)
    running = tasks.nap.submit(2.0)
    path = tmp_path / "started"

    late = tasks.note.options(deadline=0.5).submit(str(path))

    with pytest.raises(TaskExpired, match="was not started before its deadline"):
        late.result(timeout=10)
    assert running.result(timeout=10) == 1
    assert not path.exists()


def test_a_killed_loop_costs_each_of_its_tasks_one_attempt(start, tasks, tmp_path) -> None:
    worker = start("-c", "async=1x4", "--pool", "async", target=TARGET)
    path = tmp_path / "started"
    futures = [tasks.note.submit(str(path)) for _ in range(3)]
    wait_until(lambda: len(lines(path)) == 3, description="three starts")

    os.kill(int(lines(path)[0][0]), signal.SIGKILL)

    worker.wait_event("child.died")
    wait_until(lambda: [attempt for _, attempt in lines(path)].count("2") == 3, timeout=20, description="three more")
    for future in futures:
        assert future.stop(wait=10).how in (How.INTERRUPTED, How.NOTICED)


def test_a_drain_cancels_what_runs_and_gives_it_back_uncharged(start, tasks, tmp_path) -> None:
    worker = start("-c", "async=1x4", "--pool", "async", "--drain-timeout", "0.2", target=TARGET)
    path = tmp_path / "started"
    futures = [tasks.note.submit(str(path)) for _ in range(3)]
    wait_until(lambda: len(lines(path)) == 3, description="three starts")
    begun = time.monotonic()

    worker.term()

    assert worker.wait() == 0
    assert time.monotonic() - begun < 4
    assert {future.status().state for future in futures} == {"queued"}
    start(target=TARGET)
    wait_until(lambda: len(lines(path)) == 6, description="three more starts")
    assert {attempt for _, attempt in lines(path)} == {"1"}


def test_a_thousand_waiting_tasks_share_two_loops(start, tasks) -> None:
    start("-c", "async=2x500", "--pool", "async", target=TARGET)
    tasks.nap.submit(0).result(timeout=10)
    begun = time.monotonic()

    naps = tasks.nap.submit_many([tasks.nap.call(2.0)] * 1000)

    assert max(nap.result(timeout=30) for nap in naps) > 100
    assert time.monotonic() - begun < 10
