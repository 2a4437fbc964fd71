"""An orderly end: nothing lost, nothing left behind."""

from __future__ import annotations

import signal
import time

from e2e.conftest import executions, starts_by_id
from qworker import call
from support.daemon import alive
from support.waiting import wait_until


def test_term_finishes_what_runs_and_gives_back_what_does_not(start, tasks, execution_log) -> None:
    first = start("-c", "1", "--window", "8")
    futures = tasks.nap.submit_many([call(0.5, tag=str(n)) for n in range(6)])
    wait_until(lambda: executions(execution_log), description="the first start")
    below = first.processes()

    first.term()
    assert first.wait() == 0
    ended = len(executions(execution_log, "end"))
    assert ended == len(executions(execution_log)), "what had started has finished"
    assert not [pid for pid in below if alive(pid)]

    start("-c", "2")
    assert [future.result(timeout=20) for future in futures] == [str(n) for n in range(6)]
    assert set(starts_by_id(execution_log).values()) == {1}


def test_term_kills_what_outlives_the_drain_timeout_and_gives_it_back(start, tasks, execution_log) -> None:
    worker = start("-c", "1", "--drain-timeout", "0.3")
    future = tasks.nap.options(grace=0.3).submit(3.0, tag="again")
    wait_until(lambda: executions(execution_log), description="its start")
    below = worker.processes()

    worker.term()

    assert worker.wait() == 4
    assert not [pid for pid in below if alive(pid)]
    start("-c", "1")
    assert future.result(timeout=20) == "again"
    assert executions(execution_log)[1][2] == "1", "a drain charges no attempt"


def test_a_second_signal_asks_what_runs_and_the_exit_code_says_so(start, tasks, execution_log) -> None:
    worker = start("-c", "1")
    tasks.polite.submit(60)
    wait_until(lambda: executions(execution_log), description="its start")

    worker.term()
    worker.wait_event("worker.draining")
    begun = time.monotonic()
    worker.term()

    assert worker.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 5


def test_a_third_signal_kills_at_once(start, tasks, execution_log) -> None:
    worker = start("-c", "1")
    tasks.nap.options(grace=60).submit(60)
    wait_until(lambda: executions(execution_log), description="its start")
    below = worker.processes()

    worker.term()
    worker.wait_event("worker.signal")
    worker.term()
    worker.wait_event("worker.stopping")
    begun = time.monotonic()
    worker.term()

    assert worker.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 4
    assert not [pid for pid in below if alive(pid)]


def test_tstp_quiets_and_cont_resumes(start, tasks) -> None:
    worker = start("-c", "1")
    worker.process.send_signal(signal.SIGTSTP)
    worker.wait_event("worker.quiet")
    future = tasks.add.submit(1, 1)
    wait_until(lambda: future.status().state == "queued", description="the task to stay queued")

    worker.thaw()

    worker.wait_event("worker.resumed")
    assert future.result(timeout=10) == 2


def test_a_drained_thread_that_will_not_stop_ends_with_its_child_before_its_task_runs_again(
    start, tasks, execution_log
) -> None:
    worker = start("-c", "thread=2", "--pool", "thread", "--drain-timeout", "0.2")
    future = tasks.in_thread.options(grace=0.2).submit(3.0)
    wait_until(lambda: executions(execution_log), description="its start")
    below = worker.processes()

    worker.term()

    assert worker.wait() == 4
    assert not [pid for pid in below if alive(pid)]
    assert future.status().state == "queued"


def test_usr2_logs_the_stacks_of_every_child_each_as_one_event_with_what_runs_in_it(
    start, tasks, execution_log
) -> None:
    worker = start("-c", "process=3,thread=2,async=2x1")
    stuck = [tasks.stuck_in_c.options(timeout=60, grace=0).submit() for _ in range(2)]
    threads = [tasks.in_thread.submit(30) for _ in range(2)]
    wait_until(lambda: len(executions(execution_log)) == 4, description="four starts")

    worker.process.send_signal(signal.SIGUSR2)

    children = 3 + 1 + 2  # of the pools for processes, threads and coroutines
    dumps = worker.wait_events("child.stacks", children)
    assert len({dump["child"] for dump in dumps}) == len(dumps) == children
    shown = {frozenset(dump["running"].split(", ")): dump["stacks"] for dump in dumps}
    for future in stuck:
        [stacks] = [stacks for running, stacks in shown.items() if any(future.id in task for task in running)]
        assert " in stuck_in_c\n" in stacks
    [stacks] = [stacks for running, stacks in shown.items() if len(running) == 2]
    assert stacks.count(" in in_thread\n") == 2
    assert all(stacks.endswith(" in _run_module_as_main\n") for stacks in shown.values()), "each is whole"
    assert [future.stop(wait=5, grace=0).still_running for future in stuck] == [False, False]
    assert all(future.id in str(list(shown)) for future in threads)
