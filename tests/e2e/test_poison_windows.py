"""One poison task among fifty innocents in one window: in each kind of slot, and whatever it takes down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from qworker import Future, TaskCrashed, call
from support.daemon import Worker, spawn_worker
from support.machine import cgroup
from support.promised import bound, starts
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(150)  # workers start again and again, which takes long on a busy machine
APP = "support.apps.poisons"
INNOCENTS = 50
MEMORY = 400 << 20
KINDS = ("process", "thread", "async")
ONE_IS_QUICK = [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]


@pytest.fixture
def tasks(one_server: Server) -> Iterator[ModuleType]:
    with bound(one_server.url, APP) as tasks:
        yield tasks


@pytest.fixture
def serve(url: str, tmp_path: Path, execution_log: Path) -> Iterator[Callable[[str], Worker]]:
    """Start workers whose window holds all of it; they may die at any moment."""
    workers: list[Worker] = []

    def serve(kind: str) -> Worker:
        env = {"EXECUTION_LOG": str(execution_log)}
        args = (f"{APP}:app", "--pool", kind, "-c", f"{kind}=4", "--window", str(INNOCENTS + 1))
        workers.append(spawn_worker(url, *args, log_dir=tmp_path, env=env))
        return workers[-1]

    yield serve
    for worker in workers:
        worker.close()


def submit(tasks: ModuleType, kind: str, what: str, *, after_s: float, max_crashes: int = 3) -> list[Future]:
    """Fifty innocents, and the poison as the last of them in this list, but in the middle of their line."""
    nap, poison = (tasks.async_nap, tasks.async_poison) if kind == "async" else (tasks.nap, tasks.poison)
    calls = [nap.call(0.05) for _ in range(INNOCENTS)]
    calls.insert(INNOCENTS // 2, poison.options(max_crashes=max_crashes).call(what, after_s))
    futures = tasks.app.submit_many(calls)
    return [*futures[: INNOCENTS // 2], *futures[INNOCENTS // 2 + 1 :], futures[INNOCENTS // 2]]


def check(tasks: ModuleType, futures: list[Future], execution_log: Path, *, most: int) -> int:
    """No innocent has crashed or started too often, and later tasks run; returns how often the poison started.

    In a process slot a neighbour's child is not its own; a shared child is lost with all that run in it, and a worker
    with all that it holds, until the poison runs alone.
    """
    *innocents, culprit = futures
    assert [future.result(timeout=30) for future in innocents] == ["slept"] * INNOCENTS
    counts = starts(execution_log)
    assert max(counts[future.id] for future in innocents) <= most
    later = [future for nap in (tasks.nap, tasks.async_nap) for future in nap.submit_many([call(0.0)] * 10)]
    assert [future.result(timeout=10) for future in later] == ["slept"] * 20
    return counts[culprit.id]


def crashes_of(culprit: Future, serve: Callable[[str], Worker], kind: str) -> str:
    """Start a worker in the place of each that dies, until the poison has ended; returns what is said of that."""
    while not culprit.done():
        worker = serve(kind)
        wait_until(lambda w=worker: culprit.done() or w.process.poll() is not None, timeout=40,
                   description="the worker to die of its task, or the task to have ended")  # fmt: skip
    with pytest.raises(TaskCrashed) as crashed:
        culprit.result(timeout=0)
    return str(crashed.value)


@pytest.mark.parametrize("max_crashes", [3, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_kills_its_child_ends_as_crashed_after_exactly_its_starts(
    serve, tasks, execution_log, kind, max_crashes
) -> None:
    futures = submit(tasks, kind, "child", after_s=0.02, max_crashes=max_crashes)

    assert f"{max_crashes} times in all" in crashes_of(futures[-1], serve, kind)

    assert check(tasks, futures, execution_log, most=1 if kind == "process" else 2) == max_crashes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_fills_the_memory_of_its_child_ends_as_crashed_after_exactly_its_starts(
    serve, tasks, execution_log, kind
) -> None:
    futures = submit(tasks, kind, "memory", after_s=0.3)
    with cgroup("memory") as group:
        limits = ("memory.max", "memory.limit_in_bytes")
        next(group / name for name in limits if (group / name).exists()).write_text(str(MEMORY))
        for name in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
            with contextlib.suppress(OSError):
                (group / name).write_text(str(0 if "max" in name else MEMORY))
        worker = serve(kind)
        (group / "cgroup.procs").write_text(str(worker.pid))  # before it has any child: they are born into the group

        with pytest.raises(TaskCrashed, match=r"signal 9.*3 times in all"):
            futures[-1].result(timeout=40)

        assert check(tasks, futures, execution_log, most=1 if kind == "process" else 2) == 3
        assert worker.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_kills_its_worker_ends_as_crashed_after_exactly_its_starts(serve, tasks, execution_log, kind) -> None:
    """It lives until its start is recorded, as that of whatever runs for a second is."""
    futures = submit(tasks, kind, "worker", after_s=1.5)

    assert "3 times" in crashes_of(futures[-1], serve, kind)

    assert check(tasks, futures, execution_log, most=3) == 3


@pytest.mark.parametrize("kind", ONE_IS_QUICK)
def test_what_kills_its_worker_at_once_may_start_once_more(serve, tasks, execution_log, kind) -> None:
    """Where nothing of its window was recorded before, nobody can tell its first start from one that never came."""
    futures = submit(tasks, kind, "worker", after_s=0.0)

    assert "3 times" in crashes_of(futures[-1], serve, kind)

    assert check(tasks, futures, execution_log, most=4) in (3, 4)
