"""A poison task hurts itself only: who is to blame ends as crashed, and never an innocent that was beside it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from qworker import TaskCrashed, call
from qworker.worker.blame import MAX_DELIVERIES
from support.daemon import Worker
from support.fake_worker import FakeWorker
from support.promised import PROMISES, Run, bound, runs, starts
from support.servers import Server
from support.waiting import wait_until

Start = Callable[..., Worker]


@pytest.fixture
def tasks(one_server: Server) -> Iterator[ModuleType]:
    with bound(one_server.url) as tasks:
        yield tasks


@pytest.fixture
def serve(start: Start) -> Start:
    return lambda *args, **more: start(*args, target=PROMISES, **more)


def of(execution_log: Path, task: str) -> list[Run]:
    return [run for run in runs(execution_log) if run.id == task]


def test_when_a_child_with_four_tasks_is_killed_all_run_again_apart_and_succeed(
    serve, tasks, execution_log, tmp_path
) -> None:
    worker = serve("-c", "thread=4", "--pool", "thread")
    go = tmp_path / "go"
    futures = tasks.waits_for.submit_many([call(str(go)) for _ in range(4)])
    wait_until(lambda: len(runs(execution_log)) == 4, description="all four to run")
    (child,) = {run.pid for run in runs(execution_log)}

    os.kill(child, signal.SIGKILL)
    wait_until(lambda: len(runs(execution_log)) == 8, description="all four to run again")
    go.touch()

    assert [future.result(timeout=10) for future in futures] == ["found"] * 4
    again = runs(execution_log)[4:]
    assert {run.id for run in again} == {future.id for future in futures}
    assert {run.attempt for run in again} == {2}, "each was there, so each has one loss"
    assert len({run.pid for run in again}) == 4, "a suspect has a child to itself"
    assert child not in {run.pid for run in again}
    assert len(worker.wait_events("task.lost_child", 4)) == 4


def test_a_thread_task_that_kills_its_child_each_time_ends_as_crashed_and_its_neighbours_do_not(
    serve, tasks, execution_log
) -> None:
    serve("-c", "thread=4", "--pool", "thread")
    neighbours = tasks.thread_nap.submit_many([call(0.6, n) for n in range(3)])
    wait_until(lambda: len(runs(execution_log)) == 3, description="the neighbours to run")
    poison = tasks.dies_in_thread.submit(0.2)

    with pytest.raises(TaskCrashed, match=r"signal 9.*3 times in all"):
        poison.result(timeout=20)

    assert [future.result(timeout=10) for future in neighbours] == [0, 1, 2]
    assert [run.attempt for run in of(execution_log, poison.id)] == [1, 2, 3]
    counts = starts(execution_log)
    assert all(counts[future.id] == 2 for future in neighbours), "lost once, with the shared child, and never again"


@pytest.mark.parametrize("place", [0, 25, 50])
def test_fifty_innocents_in_one_window_with_a_poison_task_run_once_each(serve, tasks, execution_log, place) -> None:
    calls = [tasks.nap.call(0.005) for _ in range(50)]
    calls.insert(place, tasks.dies.call(99))
    futures = tasks.app.submit_many(calls)
    serve("-c", "2", "--window", "51")
    culprit = futures.pop(place)

    with pytest.raises(TaskCrashed, match=r"signal 9.*3 times in all"):
        culprit.result(timeout=20)

    assert [future.result(timeout=10) for future in futures] == [None] * 50
    counts = starts(execution_log)
    assert counts.pop(culprit.id) == 3
    assert counts == {future.id: 1 for future in futures}


def test_a_task_lost_twice_runs_alone_in_its_worker_and_a_busy_worker_makes_room_for_it(
    serve, tasks, execution_log
) -> None:
    serve("-c", "2", "--window", "4")
    suspect = tasks.dies.submit(2, 0.8)
    others = tasks.nap.submit_many([call(0.2, n) for n in range(60)])

    assert suspect.result(timeout=30) == "lived"

    *_, third = of(execution_log, suspect.id)
    assert third.attempt == 3
    assert third.end is not None
    beside = [
        run for run in runs(execution_log)
        if run.id != suspect.id and run.start < third.end and (run.end is None or run.end > third.start)
    ]  # fmt: skip
    assert beside == [], "nothing ran beside it"
    before = [run for run in runs(execution_log) if run.id != suspect.id and run.start < third.start]
    assert 0 < len(before) < 60, "others ran before it, and it did not wait for all of them"
    assert [future.result(timeout=20) for future in others] == list(range(60))
    assert set(starts(execution_log).values()) == {1, 3}


def test_a_task_lost_twice_waits_while_a_long_task_runs_and_others_go_on_after_it(serve, tasks, execution_log) -> None:
    serve("-c", "2")
    long = tasks.nap.submit(4.0, "long")
    wait_until(lambda: runs(execution_log), description="the long one to run")
    suspect = tasks.dies.submit(2)
    wait_until(lambda: len(of(execution_log, suspect.id)) == 2, description="its two deaths")

    assert suspect.result(timeout=20) == "lived"

    (ran,) = of(execution_log, long.id)
    assert ran.end is not None, "the long one was not cut short"
    assert of(execution_log, suspect.id)[-1].start >= ran.end
    assert long.result(timeout=5) == "long"
    assert tasks.echo.submit("on").result(timeout=10) == "on"


def test_when_a_worker_dies_with_a_full_window_only_what_ran_starts_twice_and_nobody_ends_as_crashed(
    serve, tasks, execution_log
) -> None:
    first = serve("-c", "2", "--window", "20")
    futures = tasks.nap.submit_many([call(2.5, n) for n in range(4)])
    waiting = tasks.nap.submit_many([call(0.0, n) for n in range(10)])
    wait_until(lambda: len(runs(execution_log)) == 2, description="two to run")
    wait_until(lambda: futures[0].status().state == "running", description="their start to be recorded")

    first.kill()
    serve("-c", "2")

    assert [future.result(timeout=20) for future in futures] == list(range(4))
    assert [future.result(timeout=20) for future in waiting] == list(range(10))
    counts = starts(execution_log)
    assert sorted(counts[future.id] for future in futures) == [1, 1, 2, 2]
    assert all(counts[future.id] == 1 for future in waiting)


def test_the_second_suspect_of_a_busy_worker_waits_no_longer_than_the_first(serve, tasks, execution_log) -> None:
    serve("-c", "2", "--window", "4")
    others = tasks.nap.submit_many([call(0.05, n) for n in range(900)])
    waited = []

    for _ in range(2):
        suspect = tasks.dies.options(priority="high").submit(2)
        assert suspect.result(timeout=40) == "lived"
        _, second, third = of(execution_log, suspect.id)
        waited.append(third.start - second.start)

    assert not all(future.done() for future in others), "it was busy all the time"
    assert waited[1] < 10, waited


def test_what_kills_its_workers_before_it_starts_is_buried_by_the_next_one(
    serve, tasks, execution_log, one_server
) -> None:
    """As if twenty workers had died of taking it: none of them renews its claim, and each claim lapses at once."""
    poison = tasks.nap.submit(0.0)
    with contextlib.closing(FakeWorker(one_server.url)) as doomed:
        for delivery in range(1, MAX_DELIVERIES + 1):
            assert doomed.claim_one(lease_ms=1).record.deliveries == delivery

    serve("-c", "1")

    with pytest.raises(TaskCrashed, match="undeliverable: handed out 21 times, never started"):
        poison.result(timeout=20)
    assert runs(execution_log) == []
