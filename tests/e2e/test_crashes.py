"""kill -9 of everything, and a frozen worker: every task ends once, nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from e2e.conftest import BASIC, bound_tasks, executions, starts_by_id
from qworker import TaskCrashed, call
from qworker.broker import Broker
from support.daemon import alive, descendants, spawn_worker
from support.handover import late_s
from support.servers import Server
from support.waiting import wait_until

LEASE_S = 2.0


@pytest.fixture
def served(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The user's module on each server; start its workers with `server_url=server.url`."""
    yield from bound_tasks(server.url, monkeypatch)


def test_a_killed_child_costs_one_attempt_of_its_own_task(start, tasks, execution_log) -> None:
    start("-c", "2")
    future = tasks.nap.submit(1.0, tag="victim")
    line = wait_until(lambda: executions(execution_log), description="the task's start")[0]

    os.kill(int(line[3]), signal.SIGKILL)

    assert future.result(timeout=10) == "victim"
    assert starts_by_id(execution_log)[future.id] == 2


def test_a_killed_fork_server_is_replaced_and_charges_nobody(start, tasks, execution_log) -> None:
    worker = start("-c", "2")
    future = tasks.nap.submit(0.8, tag="innocent")
    child = int(wait_until(lambda: executions(execution_log), description="the task's start")[0][3])
    fork_server = next(pid for pid in descendants(worker.pid) if child in descendants(pid))

    os.kill(fork_server, signal.SIGKILL)

    assert future.result(timeout=15) == "innocent"
    assert executions(execution_log)[-1][2] == "1", "the second start is still attempt 1: uncharged"
    wait_until(lambda: not alive(child), description="the old child to be gone")


def test_a_killed_worker_is_rescued_at_once_on_the_same_host(start, tasks, execution_log) -> None:
    first = start("-c", "2")
    futures = tasks.nap.submit_many([call(0.3, tag=str(n)) for n in range(20)])
    wait_until(lambda: len(executions(execution_log)) >= 2, description="two starts")
    wait_until(lambda: first.events("task.ended"), description="the first outcome")

    below = descendants(first.pid)
    first.kill()
    killed = time.monotonic()
    wait_until(lambda: not any(alive(pid) for pid in below), description="its children to be gone")
    second = start("-c", "2")
    serving = time.monotonic()

    begun = wait_until(
        lambda: [line for line in executions(execution_log) if float(line[4]) > killed], timeout=5,
        description="a start after the kill",
    )  # fmt: skip
    assert float(begun[0][4]) - serving < 2.0
    told = second.wait_event("worker.died")
    assert told["worker"].split(":")[1] == str(first.pid)
    assert told["rescued"] >= 2
    assert [future.result(timeout=30) for future in futures] == [str(n) for n in range(20)]
    # Ended once each; started twice at most where the kill hit them.
    assert sorted(starts_by_id(execution_log).values())[:16] == [1] * 16


def test_what_a_killed_worker_ran_runs_again_before_the_backlog(start, tasks, execution_log) -> None:
    first = start("-c", "2")
    tasks.nap.submit_many([call(3.0, tag=str(n)) for n in range(8)])
    wait_until(lambda: len(executions(execution_log)) == 2, description="two starts")
    running = {line[1] for line in executions(execution_log)}
    # A second of life: its claims have been renewed, so these are tasks that are known to have started.
    wait_until(
        lambda: tasks.app.future(next(iter(running))).status().state == "running", description="a recorded start"
    )

    first.kill()
    start("-c", "2")
    serving = time.monotonic()

    again = wait_until(lambda: executions(execution_log)[3:], timeout=4, description="two more starts")
    assert {line[1] for line in executions(execution_log)[2:4]} == running
    assert max(float(line[4]) for line in again) - serving < 2.0


def test_a_frozen_worker_loses_its_lease_and_its_late_outcome_is_refused(start, tasks, execution_log, url) -> None:
    workers = [start("-c", "1", env={"QWORKER_LEASE": str(LEASE_S)}) for _ in range(2)]
    future = tasks.nap.submit(1.5, tag="moved")
    child = int(wait_until(lambda: executions(execution_log), description="the first start")[0][3])
    first, second = workers if child in workers[0].processes() else workers[::-1]

    first.freeze()
    # Promised is a second. An idle worker asks when the lease ends, so the rest is for a machine that is busy.
    assert 0 <= late_s(url, future.id) < 1.0
    wait_until(lambda: len(executions(execution_log)) == 2, description="a second start")
    told = second.wait_event("tasks.rescued")
    assert (told["count"], told["tasks"]) == (1, future.id)
    assert len(told["claims"]) == 12

    assert future.result(timeout=15) == "moved"
    first.thaw()
    wait_until(
        lambda: first.events("outcome.refused") or first.events("claim.lost"), timeout=10,
        description="the refusal of the late outcome",
    )  # fmt: skip
    first.wait_event("worker.stood_still")
    second.wait_event("task.ended", task=future.id)
    assert second.wait_event("tasks.rescued")["count"] == 1
    assert not second.events("worker.died"), "it was frozen, not dead"
    assert len(second.events("task.ended", task=future.id)) == 1
    assert not first.events("task.ended", task=future.id)


def test_a_stop_of_what_a_frozen_worker_had_does_not_say_that_its_code_has_ended(start, tasks, execution_log) -> None:
    first = start("-c", "1", env={"QWORKER_LEASE": str(LEASE_S)})
    future = tasks.nap.submit(20)
    wait_until(lambda: executions(execution_log), description="the start")
    child = int(executions(execution_log)[0][3])

    first.freeze()  # but not its child, in which the task runs on
    second = start("-c", "1", env={"QWORKER_LEASE": str(LEASE_S)})
    second.wait_event("tasks.rescued")
    receipt = future.stop(wait=10, grace=0)

    assert alive(child)
    assert (receipt.outcome, receipt.still_running) == ("cancelled", None)
    assert not receipt
    assert "an earlier start of it may run still" in receipt.note
    assert second.wait_event("task.ended")["outcome"] == "cancelled"
    first.thaw()
    first.wait_event("claim.lost")
    wait_until(lambda: not alive(child), description="the first worker to end it")


def test_a_worker_killed_with_all_its_processes_at_once_costs_each_task_one_start_more_at_most(
    start, tasks, execution_log, url
) -> None:
    lease = {"QWORKER_LEASE": str(LEASE_S)}
    first = start("-c", "process=2,thread=2", "--window", "16", env=lease)
    futures = tasks.nap.submit_many([call(0.6, tag=str(n)) for n in range(12)])
    wait_until(lambda: len(executions(execution_log)) >= 4, description="starts")
    with Broker(url) as broker:
        claimed = broker.stats("default").counters["claimed"]
    assert claimed > len(starts_by_id(execution_log)), "it holds more than it runs"

    whole = first.processes()
    assert len(whole) >= 3, "the worker, its fork server and a child"
    for pid in whole:
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    wait_until(lambda: not any(alive(pid) for pid in whole), description="all of them to be gone")
    second = start("-c", "4", env=lease)

    assert [future.result(timeout=30) for future in futures] == [str(n) for n in range(12)]
    starts = starts_by_id(execution_log)
    assert len(starts) == 12
    assert max(starts.values()) <= 2
    told = second.wait_event("worker.died")
    assert {task for task, count in starts.items() if count == 2} <= set(told["tasks"].split(","))


@pytest.mark.parametrize("kind", ["process", pytest.param("thread", marks=pytest.mark.slow),
                                  pytest.param("async", marks=pytest.mark.slow)])  # fmt: skip
def test_what_ends_in_a_frozen_worker_while_its_copy_runs_elsewhere_is_refused_counted_and_told(
    start, tasks, execution_log, url, kind
) -> None:
    args = ("--pool", kind, "-c", f"{kind}=4")
    first = start(*args, env={"QWORKER_LEASE": str(LEASE_S)})
    nap = tasks.async_nap if kind == "async" else tasks.nap
    futures = nap.submit_many([call(2.5) for _ in range(4)])
    ids = {future.id for future in futures}
    wait_until(lambda: len(executions(execution_log)) == 4, description="all four to run")

    first.freeze()
    second = start(*args, env={"QWORKER_LEASE": str(LEASE_S)})
    wait_until(lambda: len(executions(execution_log)) == 8, timeout=15, description="all four to run elsewhere, too")
    copies = {line[3] for line in executions(execution_log)[:4]}
    # Their children are not frozen: they end, and what they came to waits in a pipe that nobody reads.
    wait_until(lambda: len([end for end in executions(execution_log, "end") if end[3] in copies]) == 4,
               timeout=15, description="the first copies to have ended")  # fmt: skip
    first.thaw()

    refused = first.wait_events("outcome.refused", 4)
    assert {event["task"] for event in refused} == ids
    for future in futures:
        future.result(timeout=15)
    told = second.wait_events("task.ended", 4, outcome="succeeded")
    assert {event["task"] for event in told} == ids
    assert not first.events("task.ended")
    assert set(starts_by_id(execution_log).values()) == {2}
    with Broker(url) as broker:
        counters = broker.stats("default").counters
    assert counters["succeeded"] == 4
    # What had to be sent again proves nothing by its refusal, and is not counted.
    assert counters.get("refused_late") == 4 or first.events("redis.unreachable")


def test_redis_killed_and_back_with_its_append_only_file_loses_nothing(
    start, new_server, monkeypatch, execution_log
) -> None:
    server = new_server()
    for tasks in bound_tasks(server.url, monkeypatch):
        worker = start("-c", "2", server_url=server.url)
        futures = tasks.nap.submit_many([call(0.1, tag=str(n)) for n in range(40)])
        wait_until(lambda: len(executions(execution_log, "end")) >= 5, description="five ends")

        server.kill()
        worker.wait_event("redis.unreachable")
        server.restart()

        assert [future.result(timeout=30) for future in futures] == [str(n) for n in range(40)]
        assert set(starts_by_id(execution_log).values()) == {1}, "a restart of Redis costs no second start"


def test_a_worker_that_starts_before_redis_waits_for_it(new_server, tmp_path) -> None:
    server = new_server()
    server.kill()
    worker = spawn_worker(server.url, "support.apps.basic:app", "-c", "1", log_dir=tmp_path)
    try:
        told = worker.wait_event("redis.unreachable")
        server.restart()
        worker.wait_event("worker.started")
    finally:
        worker.close()

    assert told["note"] == "waiting for the server; the worker starts when it answers"


def test_a_task_that_kills_its_child_each_time_ends_as_crashed_after_three_starts(start, tasks, execution_log) -> None:
    start("-c", "2")
    innocent = tasks.add.submit_many([call(n, 0) for n in range(50)])
    poison = tasks.kill_my_child.submit()

    with pytest.raises(TaskCrashed, match="signal 9"):
        poison.result(timeout=20)
    assert starts_by_id(execution_log) == {poison.id: 3}
    assert [future.result(timeout=10) for future in innocent] == list(range(50))


@pytest.mark.slow
def test_a_task_that_kills_its_worker_ends_as_crashed_and_no_innocent_does(
    start, tasks, tmp_path, execution_log, url
) -> None:
    poison = tasks.kill_my_worker.submit()
    innocent = tasks.nap.submit_many([call(0.05, tag=str(n)) for n in range(10)])
    killed = 0
    while not poison.done():
        worker = spawn_worker(url, BASIC, "-c", "2", log_dir=tmp_path, env={"EXECUTION_LOG": str(execution_log)})
        try:
            wait_until(
                lambda w=worker: w.process.poll() is not None or poison.done(),
                timeout=30,
                description="the worker to be killed by its task, or the task to have ended",
            )
            killed += worker.process.poll() is not None
        finally:
            worker.close()
        assert killed <= 4
    # The first death came before any renewal, so nobody could know of that start; three more counted.
    assert starts_by_id(execution_log)[poison.id] <= 4
    start("-c", "2")

    with pytest.raises(TaskCrashed):
        poison.result(timeout=20)
    assert [future.result(timeout=20) for future in innocent] == [str(n) for n in range(10)]


def test_at_most_once_never_starts_twice(start, tasks, execution_log) -> None:
    start("-c", "1")
    future = tasks.once.submit(30)
    line = wait_until(lambda: executions(execution_log), description="its start")[0]

    os.kill(int(line[3]), signal.SIGKILL)

    with pytest.raises(TaskCrashed, match="at_most_once"):
        future.result(timeout=10)
    assert len(executions(execution_log)) == 1


def test_at_most_once_what_a_killed_worker_had_started_never_starts_again(start, server, served, execution_log) -> None:
    first = start("-c", "1", server_url=server.url)
    future = served.once.submit(30)
    wait_until(lambda: executions(execution_log), description="its start")

    first.kill()
    second = start("-c", "1", server_url=server.url)

    with pytest.raises(TaskCrashed, match="its worker died when it may have started, and delivery is at_most_once"):
        future.result(timeout=15)
    told = second.wait_event("task.ended", task=future.id)
    assert (told["outcome"], told["how"]) == ("crashed", "host_died")
    # Whoever took it would have started it before this one.
    assert served.nap.submit(0, tag="after").result(timeout=10) == "after"
    assert starts_by_id(execution_log)[future.id] == 1
    assert not executions(execution_log, "end")[1:], "only the one after it came to its end"


def test_at_most_once_a_worker_frozen_past_its_lease_is_not_run_again_and_tells_nobody(
    start, server, served, execution_log
) -> None:
    lease = {"QWORKER_LEASE": str(LEASE_S)}
    first = start("-c", "1", server_url=server.url, env=lease)
    future = served.once.submit(60)
    child = int(wait_until(lambda: executions(execution_log), description="its start")[0][3])

    first.freeze()  # but not its child, in which it runs on
    second = start("-c", "1", server_url=server.url, env=lease)
    with pytest.raises(TaskCrashed, match="delivery is at_most_once"):
        future.result(timeout=15)
    assert alive(child), "known to be lost, not to have ended"
    first.thaw()
    first.wait_event("claim.lost")
    wait_until(lambda: not alive(child), description="the first worker to end it")

    assert served.nap.submit(0, tag="after").result(timeout=10) == "after"
    assert starts_by_id(execution_log)[future.id] == 1
    second.wait_event("task.ended", task=future.id, outcome="crashed")
    assert not first.events("task.ended", task=future.id)
    with pytest.raises(TaskCrashed):
        served.app.future(future.id).result(timeout=5)


@pytest.mark.parametrize(
    "fault",
    ["claim.reply:kill9", "dispatch:kill9", "start.sent:cut", pytest.param("start.reply:cut", marks=pytest.mark.slow)],
)
def test_at_most_once_what_was_claimed_and_is_not_recorded_as_started_runs_once(
    start, server, served, execution_log, fault
) -> None:
    lease = {"QWORKER_LEASE": str(LEASE_S)}
    future = served.once.submit(0)
    first = spawn_worker(
        server.url, BASIC, "-c", "1", log_dir=execution_log.parent,
        env={**lease, "QWORKER_FAULT": fault, "EXECUTION_LOG": str(execution_log)},
    )  # fmt: skip
    try:
        if fault.endswith("kill9"):
            assert first.wait() == -signal.SIGKILL
            assert not executions(execution_log)
            start("-c", "1", server_url=server.url, env=lease)

        assert future.result(timeout=15) is None
    finally:
        first.close()
    assert starts_by_id(execution_log) == {future.id: 1}


@pytest.mark.parametrize("point", ["start.reply", pytest.param("start.sent", marks=pytest.mark.slow)])
def test_at_most_once_a_death_between_the_record_of_a_start_and_the_start_never_makes_it_two(
    start, server, served, execution_log, point
) -> None:
    """Nobody can tell such a death from one after the start: it ends unrun, and says that its worker died."""
    future = served.once.submit(0)
    first = spawn_worker(
        server.url, BASIC, "-c", "1", log_dir=execution_log.parent,
        env={"QWORKER_FAULT": f"{point}:kill9", "EXECUTION_LOG": str(execution_log)},
    )  # fmt: skip
    try:
        assert first.wait() == -signal.SIGKILL
    finally:
        first.close()
    assert not executions(execution_log)
    start("-c", "1", server_url=server.url)

    state = wait_until(lambda: future.done() and future.status().state, description="its end")
    # What was sent and not read may have been written, or not.
    assert state == "crashed" or (point == "start.sent" and state == "succeeded")
    assert starts_by_id(execution_log) == ({future.id: 1} if state == "succeeded" else {})


@pytest.mark.parametrize("end", ["child", "worker"])
def test_at_most_once_what_waits_in_a_window_runs_once_when_what_runs_before_it_ends_with_its_child_or_worker(
    start, server, served, execution_log, end
) -> None:
    first = start("-c", "1", "--window", "8", "--drain-timeout", "0", server_url=server.url)
    running = served.once.options(grace=0).submit(60)
    waiting = served.once.submit_many([call(0) for _ in range(4)])
    line = wait_until(lambda: executions(execution_log), description="the first start")[0]
    with Broker(server.url) as broker:
        wait_until(lambda: broker.stats("default").counters["claimed"] == 5, description="all five to be held")

    if end == "child":
        os.kill(int(line[3]), signal.SIGKILL)
    else:
        first.term()
        first.wait()
        start("-c", "1", server_url=server.url)

    with pytest.raises(TaskCrashed, match="at_most_once"):
        running.result(timeout=20)
    assert [future.result(timeout=20) for future in waiting] == [None] * 4
    assert starts_by_id(execution_log) == {future.id: 1 for future in (running, *waiting)}


def test_at_most_once_what_waits_in_the_window_of_a_killed_worker_runs_once(start, tasks, execution_log, url) -> None:
    first = start("-c", "1", "--window", "8")
    futures = tasks.once.submit_many([call(60), *(call(0) for _ in range(4))])
    wait_until(lambda: executions(execution_log), description="the first start")
    with Broker(url) as broker:
        wait_until(lambda: broker.stats("default").counters["claimed"] == 5, description="all five to be held")

    first.kill()
    start("-c", "1")

    wait_until(lambda: all(future.done() for future in futures), timeout=20, description="all of them to have ended")
    assert starts_by_id(execution_log) == {future.id: 1 for future in futures}
