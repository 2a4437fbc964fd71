"""A worker that runs out of what the machine gives, descriptors, processes, memory, a place for its log, serves on."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qworker import TaskCrashed, TaskFailed
from support.daemon import TESTS, Worker, alive, descendants
from support.machine import cgroup
from support.promised import bound, runs, starts
from support.waiting import wait_until

GREEDY = "support.apps.greedy:app"


@pytest.fixture
def tasks(url: str) -> Iterator[ModuleType]:
    with bound(url, "support.apps.greedy") as tasks:
        yield tasks


@pytest.fixture
def serve(start: Callable[..., Worker]) -> Callable[..., Worker]:
    return lambda *args, **more: start(*args, target=GREEDY, **more)


@contextlib.contextmanager
def without_descriptors(pid: int, *, at_all: bool = False) -> Iterator[None]:
    """No number below those that a process has open is free for another descriptor; nor, `at_all`, what it closes."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    first_free = next(number for number in range(len(taken) + 1) if number not in taken)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3 if at_all else first_free, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def fork_server_of(worker: Worker) -> int:
    return descendants(worker.pid)[0]


# Descriptors


def test_a_worker_without_descriptors_kills_on_time_and_replaces_its_children_when_there_are_some_again(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "2")
    died, stopped = (tasks.nap.options(max_crashes=1).submit(60.0) for _ in range(2))
    wait_until(lambda: len(runs(execution_log)) == 2, description="both slots to be busy")
    children = {run.id: run.pid for run in runs(execution_log)}

    with without_descriptors(worker.pid):
        os.kill(children[died.id], signal.SIGKILL)
        failed = worker.wait_event("child.failed")
        receipt = stopped.stop(wait=10, grace=0.1)

    assert "cannot have another child" in failed["detail"]
    assert "Too many open files" in failed["detail"]
    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "killed", False)
    assert not alive(children[stopped.id])
    with pytest.raises(TaskCrashed):
        died.result(timeout=10)
    assert_both_slots_serve(tasks, execution_log)
    assert "Exception in callback" not in worker.log()


def test_a_fork_server_without_descriptors_makes_no_child_for_a_while_and_kills_none(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "2")
    died, innocent = tasks.nap.options(max_crashes=1).submit(60.0), tasks.nap.submit(2.0, "innocent")
    wait_until(lambda: len(runs(execution_log)) == 2, description="both slots to be busy")
    fork_server = descendants(worker.pid)[0]

    with without_descriptors(fork_server):
        os.kill(next(run.pid for run in runs(execution_log) if run.id == died.id), signal.SIGKILL)
        failed = worker.wait_event("child.failed")
        with pytest.raises(TaskCrashed):
            died.result(timeout=10)
        assert innocent.result(timeout=10) == "innocent"

    assert "cannot start a child: " in failed["detail"]
    assert starts(execution_log) == {died.id: 1, innocent.id: 1}
    assert not worker.events("forkserver.died")
    assert_both_slots_serve(tasks, execution_log)


def test_a_worker_without_descriptors_starts_its_dead_fork_server_again_when_there_are_some(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "2")
    assert isinstance(tasks.pid.submit().result(timeout=10), int)

    # With the server and its children some of its descriptors go, which may be enough for a new one.
    with without_descriptors(worker.pid, at_all=True):
        os.kill(fork_server_of(worker), signal.SIGKILL)
        failed = worker.wait_event("forkserver.failed")

    assert failed["detail"].startswith("cannot start a process: ")
    assert_both_slots_serve(tasks, execution_log)
    assert "Exception in callback" not in worker.log()


def assert_both_slots_serve(tasks: ModuleType, log: Path) -> None:
    before = len(runs(log))
    pair = [tasks.nap.submit(30.0) for _ in range(2)]
    wait_until(lambda: len(runs(log)) == before + 2, timeout=20, description="two tasks to run at once")
    for future in pair:
        future.stop(wait=0, grace=0)


def test_a_task_that_opens_every_file_it_may_ends_and_its_child_tells_so_and_runs_others(serve, tasks) -> None:
    worker = serve("-c", "1")
    opened = tasks.opens_files.submit().result(timeout=15)

    assert 100 < opened < 256
    assert isinstance(tasks.pid.submit().result(timeout=10), int)
    with pytest.raises((OSError, TaskFailed), match="Too many open files"):
        tasks.opens_one.submit().result(timeout=10)
    assert not worker.events("child.died")


# Processes


def test_where_no_process_can_be_forked_what_runs_ends_and_the_place_is_filled_when_one_can(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "2")
    died, innocent = tasks.nap.options(max_crashes=1).submit(60.0), tasks.nap.submit(2.0, "innocent")
    wait_until(lambda: len(runs(execution_log)) == 2, description="both slots to be busy")

    with cgroup("pids") as group:
        for pid in worker.processes():
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        os.kill(next(run.pid for run in runs(execution_log) if run.id == died.id), signal.SIGKILL)
        failed = worker.wait_event("child.failed")
        with pytest.raises(TaskCrashed):
            died.result(timeout=10)
        assert innocent.result(timeout=10) == "innocent"
        (group / "pids.max").write_text("max")
        assert_both_slots_serve(tasks, execution_log)

    assert "Resource temporarily unavailable" in failed["detail"]
    assert starts(execution_log)[innocent.id] == 1
    assert not worker.events("forkserver.died")


def test_where_no_process_can_be_forked_a_dead_fork_server_is_started_again_when_one_can(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "2")
    assert isinstance(tasks.pid.submit().result(timeout=10), int)

    with cgroup("pids") as group:
        for pid in worker.processes():
            (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        os.kill(fork_server_of(worker), signal.SIGKILL)
        failed = worker.wait_event("forkserver.failed")
        (group / "pids.max").write_text("max")
        assert_both_slots_serve(tasks, execution_log)

    assert "Resource temporarily unavailable" in failed["detail"]
    assert len(worker.events("forkserver.started")) == 1


# Memory


def test_a_task_beyond_its_memory_limit_fails_by_a_memory_error_and_its_child_lives(serve, tasks) -> None:
    serve("-c", "1")
    child = tasks.pid.submit().result(timeout=10)

    with pytest.raises(MemoryError):
        tasks.allocates.submit(400, limit=True).result(timeout=15)

    assert tasks.pid.submit().result(timeout=10) == child


def test_a_child_that_the_kernel_ends_for_its_memory_blames_its_task_and_nobody_else(
    serve, tasks, execution_log
) -> None:
    worker = serve("-c", "2")
    innocent = tasks.nap.submit(3.0, "innocent")
    wait_until(lambda: runs(execution_log), description="the innocent to run")

    with cgroup("memory") as group:
        for pid in worker.processes():
            (group / "cgroup.procs").write_text(str(pid))
        limit = next(file for name in ("memory.max", "memory.limit_in_bytes") if (file := group / name).exists())
        limit.write_text(str(300 << 20))
        for name in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with contextlib.suppress(OSError):
                (group / name).write_text(str(0 if "max" in name else 300 << 20))
        greedy = tasks.allocates.submit(2_000)
        with pytest.raises(TaskCrashed, match="signal 9"):
            greedy.result(timeout=30)
        assert innocent.result(timeout=10) == "innocent"

    assert starts(execution_log) == {innocent.id: 1, greedy.id: 3}
    assert worker.process.poll() is None


# A place for the log


@pytest.mark.parametrize("place", ["full disk", "closed", "reader gone"])
def test_a_log_that_cannot_be_written_stops_no_work(tasks, url, execution_log, tmp_path, place) -> None:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "QWORKER_URL": url, "PYTHONPATH": path, "EXECUTION_LOG": str(execution_log)}
    command = [sys.executable, "-m", "qworker", "start", GREEDY, "-c", "process=2,thread=2"]
    streams: dict[str, Any] = {}
    if place == "full disk":
        full = Path("/dev/full").open("wb")  # noqa: SIM115 - closed below
        streams = {"stdout": full, "stderr": full}
    elif place == "closed":
        command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    else:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, **streams)
    worker = Worker(process, tmp_path / "none.log")
    try:
        if place == "full disk":
            full.close()
        elif process.stdout is not None:
            process.stdout.close()
        assert [tasks.says.submit(f"line {n}").result(timeout=20) for n in range(5)] == [f"line {n}" for n in range(5)]
        assert tasks.nap.submit(0.0, 1).result(timeout=10) == 1
        died = tasks.allocates.options(max_crashes=1).submit(1)
        assert died.result(timeout=10) == 1 << 20

        worker.term()

        assert worker.wait() == 0
    finally:
        (tmp_path / "none.log").touch()
        worker.close()
