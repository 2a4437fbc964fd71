"""What is promised of a worker's own end, of its fork server's, and of deadlines: nothing left behind, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from qworker import TaskExpired, call, cli
from support.daemon import TESTS, Worker, alive, descendants
from support.promised import PROMISES, bound, runs, starts
from support.servers import Server
from support.waiting import wait_until

Start = Callable[..., Worker]
LEASE = {"QWORKER_LEASE": "2"}


@pytest.fixture
def own(new_server: Callable[..., Server]) -> Server:
    return new_server()


@pytest.fixture
def tasks(own: Server) -> Iterator[ModuleType]:
    with bound(own.url) as tasks:
        yield tasks


@pytest.fixture
def serve(start: Start, own: Server) -> Start:
    return lambda *args, **more: start(*args, target=PROMISES, server_url=own.url, **more)


def gone(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


# Who it is


def test_two_workers_of_one_name_are_two_to_the_server_to_each_other_and_to_who_looks(
    serve, tasks, own, execution_log, capsys
) -> None:
    twins = [serve("-c", "1", "--name", "twin", env=LEASE) for _ in range(2)]
    ids = [twin.wait_event("worker.started")["worker"] for twin in twins]
    assert [f"twin:{twin.pid}" for twin in twins] == [id_.rpartition(":")[0] for id_ in ids]

    def shown() -> list[str]:
        assert cli.run(("status", "--json", "--url", own.url)) == 0
        return sorted(worker["id"] for worker in json.loads(capsys.readouterr().out)["workers"])

    wait_until(lambda: shown() == sorted(ids), description="a line for each in `qworker status`")
    futures = tasks.nap.submit_many([call(0.02, n) for n in range(100)])
    assert [future.result(timeout=20) for future in futures] == list(range(100))
    assert starts(execution_log) == {future.id: 1 for future in futures}

    # One dies: what it ran is the other's at once, which keeps what it ran itself.
    both = tasks.polite.submit_many([call(60.0)] * 2)
    first, second = wait_until(lambda: found if len(found := runs(execution_log)[100:]) == 2 else [],
                               description="each to run one")  # fmt: skip
    wait_until(lambda: all(future.status().state == "running" for future in both), description="both to be recorded")
    dying, other = twins if first.pid in twins[0].processes() else twins[::-1]
    assert second.pid in other.processes(), "none of them runs both"
    dying.kill()
    other.wait_event("worker.died", worker=ids[twins.index(dying)], rescued=1)
    assert tasks.app.future(second.id).stop(wait=5).how == "noticed"
    again = wait_until(lambda: runs(execution_log)[102:], description="the dead one's task to run again")
    assert [(run.id, run.pid) for run in again] == [(first.id, second.pid)]
    assert not other.events("claim.lost")


# The drain


def drain_everything_hostile(
    serve: Start, tasks: ModuleType, own: Server, execution_log: Path, tmp_path: Path, *options: str, redis: str
) -> float:
    """Drain a worker that has all that will not end, and check what is left. Returns how long the drain took."""
    worker = serve("-c", "process=1,thread=4", "--window", "20", *options, env=LEASE)
    tame, pid_file = tmp_path / "tame", tmp_path / "grandchild.pid"
    hostile = [tasks.deaf_with_grandchild.submit(str(pid_file), str(tame)), tasks.deaf_thread.submit(str(tame))]
    wait_until(lambda: len(runs(execution_log)) == 2, description="two hostile ones to run")
    # The last, because nobody in its child gets any further from here on.
    hostile.append(tasks.holds_the_gil.submit(str(tame)))
    wait_until(lambda: len(runs(execution_log)) == 3, description="all three hostile ones to run")
    grandchild = int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), description="the grandchild's pid"))
    waiting = tasks.nap.submit_many([call(0.0, n) for n in range(100)])
    wait_until(lambda: waiting[0].status().state == "claimed", description="a window of unstarted tasks")
    below = [*worker.processes(), grandchild]
    assert all(alive(pid) for pid in below)

    if redis == "frozen":
        own.freeze()
    elif redis == "gone":
        own.kill()
    begun = time.monotonic()
    worker.term()
    code = worker.wait(timeout=40)
    took = time.monotonic() - begun

    assert code == 4, "drained, but work was killed"
    wait_until(lambda: gone(below), timeout=1, description="every process of the worker to be gone")
    assert len(runs(execution_log)) == 3, "nothing was started by the drain"
    if redis == "up":
        assert all(future.status().state == "queued" for future in [*hostile, waiting[0], waiting[-1]])
    else:
        worker.wait_event("worker.unsettled")
        own.thaw() if redis == "frozen" else own.restart()
    tame.touch()
    serve("-c", "process=2,thread=4", env=LEASE)
    assert [future.result(timeout=20) for future in hostile] == ["tame"] * 3
    assert [future.result(timeout=20) for future in waiting] == list(range(100))
    counts = starts(execution_log)
    assert [counts[future.id] for future in hostile] == [2, 2, 2]
    assert all(counts[future.id] == 1 for future in waiting)
    return took


@pytest.mark.parametrize("redis", ["up", "frozen", "gone"])
def test_a_drain_with_everything_hostile_leaves_no_process_and_gives_every_task_back(
    serve, tasks, own, execution_log, tmp_path, redis
) -> None:
    took = drain_everything_hostile(
        serve, tasks, own, execution_log, tmp_path, "--drain-timeout", "0.5", redis=redis
    )  # fmt: skip

    assert took < 0.5 + 5 + 3, "the drain timeout, the capped grace, and the rest"


@pytest.mark.slow
@pytest.mark.parametrize("redis", ["up", "frozen", "gone"])
def test_a_drain_with_everything_hostile_fits_into_28_seconds_by_default(
    serve, tasks, own, execution_log, tmp_path, redis
) -> None:
    took = drain_everything_hostile(serve, tasks, own, execution_log, tmp_path, redis=redis)

    assert took < 28


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_drains_and_hits_no_child(
    tasks, own, execution_log, tmp_path, number
) -> None:
    """Ctrl-C in a terminal, and a supervisor that signals the group: the children must not go before their tasks."""
    log = tmp_path / "leader.log"
    environment = {**os.environ, "QWORKER_URL": own.url, "PYTHONPATH": str(TESTS), "EXECUTION_LOG": str(execution_log)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "qworker", "start", PROMISES, "-c", "process=2,thread=2", "--log-format", "json"],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True,
        )  # fmt: skip
    worker = Worker(process, log)
    try:
        worker.wait_event("worker.started")
        futures = [tasks.nap.submit(1.0, n) for n in range(2)] + [tasks.thread_nap.submit(1.0, n) for n in range(2)]
        wait_until(lambda: len(runs(execution_log)) == 4, description="all four to run")
        below = worker.processes()

        os.killpg(worker.pid, number)

        assert worker.wait() == 0
        assert gone(below)
    finally:
        worker.close()
    assert [future.result(timeout=5) for future in futures] == [0, 1, 0, 1]
    assert starts(execution_log) == {future.id: 1 for future in futures}
    assert not worker.events("child.died")


# Sudden ends


def test_a_worker_killed_leaves_no_child_no_grandchild_and_no_fork_server(
    serve, tasks, execution_log, tmp_path
) -> None:
    worker = serve("-c", "process=2,thread=2")
    pid_file = tmp_path / "grandchild.pid"
    tasks.deaf_with_grandchild.submit(str(pid_file), str(tmp_path / "never"))
    tasks.deaf_thread.submit(str(tmp_path / "never"))
    grandchild = int(wait_until(lambda: pid_file.exists() and pid_file.read_text(), description="the grandchild's pid"))
    wait_until(lambda: len(runs(execution_log)) == 2, description="two to run")
    tasks.holds_the_gil.submit(str(tmp_path / "never"))
    wait_until(lambda: len(runs(execution_log)) == 3, description="all three to run")
    below = descendants(worker.pid)
    assert grandchild in below
    assert len(below) >= 5, "fork server, two process children, a thread child, the grandchild"

    worker.kill()

    wait_until(lambda: gone(below), timeout=5, description="everything below the worker to be gone")


def test_a_fork_server_killed_while_two_children_run_and_a_third_is_being_forked_charges_nobody(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "3")
    innocents = [tasks.nap.submit(2.0, n) for n in range(2)]
    wait_until(lambda: len(runs(execution_log)) == 2, description="two to run")
    child = runs(execution_log)[0].pid
    fork_server = next(pid for pid in descendants(worker.pid) if child in descendants(pid))

    # It stands still, so the successor of the child that dies now is ordered and never made.
    os.kill(fork_server, signal.SIGSTOP)
    third = tasks.dies.submit(1)
    wait_until(lambda: len(runs(execution_log)) == 3, description="the third to run, and its child to die")
    wait_until(lambda: not alive(runs(execution_log)[2].pid), description="that child to be dead")
    os.kill(fork_server, signal.SIGKILL)

    assert [future.result(timeout=15) for future in innocents] == [0, 1]
    assert third.result(timeout=15) == "lived"
    for future in innocents:
        attempts = [run.attempt for run in runs(execution_log) if run.id == future.id]
        assert attempts == [1, 1], "started again, uncharged"
    wait_until(lambda: not alive(child), description="the old children to be gone")
    assert worker.process.poll() is None
    assert tasks.echo.submit(1).result(timeout=10) == 1


def test_fork_servers_killed_in_the_middle_of_forking_lose_and_charge_nobody(serve, tasks, execution_log) -> None:
    worker = serve("-c", "3", "--max-tasks-per-child", "1")
    futures = tasks.nap.submit_many([call(0.02, n) for n in range(90)])
    killed = []
    for share in (15, 40, 65):
        wait_until(lambda n=share: len(runs(execution_log)) >= n, description=f"{share} starts")
        fork_server = wait_until(
            lambda: next((pid for pid in descendants(worker.pid)[:1] if pid not in killed), None),
            description="a living fork server",
        )
        os.kill(fork_server, signal.SIGKILL)
        killed.append(fork_server)

    assert [future.result(timeout=20) for future in futures] == list(range(90))
    assert {run.attempt for run in runs(execution_log)} == {1}
    assert len(runs(execution_log)) <= 90 + 3 * 3
    assert len(worker.wait_events("forkserver.died", 3)) == 3


# Deadlines


def test_a_deadline_ends_a_queued_task_that_no_worker_ever_sees(tasks, execution_log) -> None:
    future = tasks.nap.options(deadline=0.5).submit(0.0)
    began = time.monotonic()

    with pytest.raises(TaskExpired, match="was not started before its deadline"):
        future.result(timeout=5)

    assert time.monotonic() - began < 2
    assert runs(execution_log) == []


def test_a_deadline_ends_what_waits_in_a_busy_worker_and_in_the_queue_behind_it(serve, tasks, execution_log) -> None:
    serve("-c", "1", "--window", "2")
    busy = tasks.nap.submit(2.0)
    wait_until(lambda: runs(execution_log), description="the busy one to run")
    inside, behind = (tasks.nap.options(deadline=0.7).submit(0.0) for _ in range(2))
    scheduled = tasks.nap.options(delay=0.3, deadline=0.7).submit(0.0)

    for future in (inside, behind, scheduled):
        with pytest.raises(TaskExpired, match="was not started before its deadline"):
            future.result(timeout=10)

    assert busy.result(timeout=10) is None
    assert set(starts(execution_log)) == {busy.id}


@pytest.mark.parametrize(("name", "how"), [("polite", "noticed"), ("nap", "killed")])
def test_a_deadline_goes_up_the_ladder_with_what_runs(serve, tasks, execution_log, name, how) -> None:
    worker = serve("-c", "1")
    future = getattr(tasks, name).options(deadline=1.0, grace=0.4, retries=5).submit(30.0)
    began = time.monotonic()

    with pytest.raises(TaskExpired, match="did not end before its deadline"):
        future.result(timeout=10)

    assert 0.9 < time.monotonic() - began < 2.5
    ended = worker.wait_event("task.ended", task=future.id)
    assert (ended["outcome"], ended["how"]) == ("expired", how)
    assert starts(execution_log) == {future.id: 1}
    assert tasks.echo.submit(1).result(timeout=5) == 1


def test_a_retry_that_does_not_fit_into_its_deadline_is_not_made(serve, tasks, execution_log) -> None:
    serve("-c", "1")
    future = tasks.fails_slowly.options(deadline=20).submit()
    began = time.monotonic()

    with pytest.raises(RuntimeError, match="not today"):
        future.result(timeout=10)

    assert time.monotonic() - began < 5, "at once, not at its deadline"
    assert future.outcome.reason == "no time left for a retry"
    assert starts(execution_log) == {future.id: 1}
