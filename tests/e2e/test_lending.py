"""Tasks that wait for tasks: no pool is too small for a recursion, and what waits can still be stopped."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qworker import PoolExhausted, TaskFailed, WaitCycle
from support.daemon import Worker
from support.waiting import wait_until

TREES = "support.apps.trees"
COROUTINES = "support.apps.trees_async"
POOLS = {
    "process": ("-c", "process=2"),
    "thread": ("-c", "thread=2", "--pool", "thread"),
}


@pytest.fixture
def trees(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    yield from bound(TREES, url, monkeypatch)


@pytest.fixture
def coroutines(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    yield from bound(COROUTINES, url, monkeypatch)


def bound(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the user's module afresh, so that its app finds this server."""
    monkeypatch.setenv("QWORKER_URL", url)
    sys.modules.pop(name, None)
    module = importlib.import_module(name)
    yield module
    module.app.close()


@pytest.fixture
def serve(start: Callable[..., Worker]) -> Callable[..., Worker]:
    return lambda *args, target=TREES, **options: start(*args, target=f"{target}:app", **options)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("way", ["by_result", "by_once", "by_wait", "by_as_completed"])
def test_a_recursion_ends_on_one_worker_with_two_slots(serve, trees, pool: str, way: str) -> None:
    serve(*POOLS[pool])

    assert getattr(trees, way).submit(3).result(timeout=30) == 8


@pytest.mark.parametrize("way", ["by_await", "by_result", "by_await_in_process", "by_executor"])
def test_a_recursion_of_coroutines_ends_on_one_worker_with_two_slots(serve, coroutines, way: str) -> None:
    serve("-c", "async=2,process=2", "--pool", "async", target=COROUTINES)

    assert getattr(coroutines, way).submit(4).result(timeout=30) == 16


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_task_submitted_may_be_awaited_in_threads_of_its_own(serve, trees, pool: str) -> None:
    serve(*POOLS[pool])

    assert trees.by_threads.submit(3).result(timeout=30) == 8


def test_seven_levels_in_two_threads_take_few_children_more(serve, trees) -> None:
    worker = serve(*POOLS["thread"])

    assert trees.by_result.submit(7).result(timeout=50) == 128
    assert len(worker.events("child.started")) <= 3


def test_a_recursion_goes_down_before_it_goes_wide(serve, trees, url: str) -> None:
    """Depth times slots is room enough, although the worker claims the oldest of the queue, the shallowest, ahead."""
    worker = serve(*POOLS["process"], "--max-lent", "16")

    assert trees.by_as_completed.submit(8).result(timeout=50) == 256
    assert not worker.events("pool.exhausted")


def test_seven_levels_of_coroutines_on_two_slots(serve, coroutines) -> None:
    serve("-c", "async=2,process=2", "--pool", "async", target=COROUTINES)

    assert coroutines.by_await.submit(7).result(timeout=50) == 128


def test_an_await_is_refused_when_there_is_no_place(serve, coroutines) -> None:
    serve("-c", "async=1,process=1", "--pool", "async", "--max-lent", "2", target=COROUTINES)

    assert coroutines.chain_or_less.submit(9).result(timeout=40) == 2


def test_what_waits_and_what_is_lent_is_shown(serve, trees, url: str) -> None:
    serve("-c", "process=1")
    waiting = trees.wait_for_nap.submit(60)

    def look() -> Any:
        (worker,) = status(url)["workers"]
        return worker if worker["lent"] and len(worker["running"]) == 2 else None

    shown = wait_until(look, timeout=20, description="both tasks in the worker's record")
    assert shown["slots"] == {"process": 1}
    assert shown["lent"] == {"process": 1}
    by_id = {task["id"]: task for task in shown["running"]}
    waiter = by_id.pop(waiting.id)
    (part,) = by_id.values()
    assert (waiter["waits_for"], waiter["lent"]) == (1, False)
    assert (part["waits_for"], part["lent"]) == (0, True)


@pytest.mark.parametrize("how", ["result", "wait", "as_completed"])
def test_a_task_that_waits_hears_that_it_is_to_stop(serve, trees, execution_log: Path, how: str) -> None:
    serve(*POOLS["thread"])
    waiting = trees.wait_for_nap.submit(60, how)
    wait_until(lambda: "waits" in execution_log.read_text(), description="its wait")

    receipt = waiting.stop(wait=10)

    assert receipt, receipt
    assert receipt.how == "noticed"
    assert receipt.took < 1.5
    assert f"interrupted:stop {waiting.id}" in execution_log.read_text()


def test_a_chain_longer_than_its_places_is_refused_and_not_left_hanging(serve, trees) -> None:
    worker = serve("-c", "process=1", "--max-lent", "2")

    with pytest.raises(PoolExhausted, match=r"cannot wait for task .*chain.*--max-lent.*larger --max-lent") as caught:
        trees.chain.submit(9).result(timeout=40)

    assert "task default:" in str(caught.value)
    assert worker.wait_event("pool.exhausted")["lent"] == 2
    # What could not be waited for is not lost, and the slots are free again.
    assert trees.leaf.submit(1).result(timeout=20) == 1


def test_an_executor_in_a_task_says_that_it_cannot_wait_and_does_not_go_on_as_if_it_had(serve, trees) -> None:
    serve("-c", "process=1", "--max-lent", "0")

    with pytest.raises(PoolExhausted, match=r"cannot wait for task .*leaf"):
        trees.by_executor.submit().result(timeout=40)


def test_a_task_may_make_do_with_the_places_that_there_are(serve, trees) -> None:
    serve("-c", "process=1", "--max-lent", "2")

    assert trees.chain_or_less.submit(9).result(timeout=40) == 2


def test_what_runs_elsewhere_is_waited_for_without_a_place(serve, trees) -> None:
    serve("-c", "process=1", "-q", "elsewhere")
    worker = serve("-c", "process=1", "--max-lent", "0")

    # Longer than what nobody can run is waited for.
    assert trees.ask_far_away.submit(7, 1.5).result(timeout=30) == 7
    assert not worker.events("pool.exhausted")


def test_a_task_in_a_queue_that_nobody_serves_runs_for_who_waits_for_it(serve, trees) -> None:
    serve("-c", "process=1")

    assert trees.ask_far_away.submit(7).result(timeout=20) == 7


def test_the_death_of_a_lent_child_is_one_loss_of_its_task(serve, trees, tmp_path: Path) -> None:
    worker = serve("-c", "process=1")
    marker = tmp_path / "died"

    survivor = trees.wait_for_mortal.submit(str(marker)).result(timeout=30)

    assert survivor != int(marker.read_text())
    assert len(worker.wait_events("task.lost_child", 1)) == 1
    assert not worker.events("claim.lost")


def test_a_drain_lets_what_waits_go_on_as_long_as_it_lets_others(serve, trees, execution_log: Path) -> None:
    """Both go back uncharged, and another worker ends them."""
    worker = serve("-c", "process=1", "--drain-timeout", "0.5")
    waiting = trees.wait_for_nap.submit(1.5)
    wait_until(lambda: "nap " in execution_log.read_text(), timeout=20, description="the lent task")

    worker.term()

    assert worker.wait(timeout=20) in (0, 4)
    assert f"interrupted:drain {waiting.id}" in execution_log.read_text()
    serve("-c", "process=1")
    assert waiting.result(timeout=30) == "ended"


def test_two_workers_share_the_parts_of_one_task(serve, trees) -> None:
    workers = [serve("-c", "process=1"), serve("-c", "process=1")]

    assert trees.many_parts.submit(60).result(timeout=40) == sum(range(60))
    for worker in workers:
        worker.wait_event("task.ended", name="support.apps.trees.leaf")


def test_what_a_dead_worker_ran_runs_for_who_waits_for_it_although_no_slot_is_free(serve, trees, url: str) -> None:
    """Nobody claims from that queue any more, so nobody else would put it back into its line."""
    other = serve("-c", "process=1", "-q", "elsewhere", "--lease", "2")
    serve("-c", "process=1", "--lease", "2", "--max-lent", "1")
    asking = trees.ask_far_away.submit(7, 5.0)  # longer than a look from a process of its own takes
    wait_until(lambda: claimed(url, "elsewhere"), description="the one that it asks for")

    other.kill()

    assert asking.result(timeout=30) == 7


@pytest.mark.parametrize("way", ["by_group", "group_chain"])
def test_groups_in_tasks_end_on_one_slot(serve, trees, way: str) -> None:
    serve("-c", "process=1")

    assert getattr(trees, way).submit(3).result(timeout=40) == {"by_group": 8, "group_chain": 3}[way]


def test_a_group_without_a_place_says_so_and_leaves_nothing_behind(serve, trees, url: str) -> None:
    serve("-c", "process=1", "--max-lent", "1")

    with pytest.raises(TaskFailed) as caught:
        trees.group_chain.submit(5).result(timeout=40)

    assert "--max-lent" in "".join(traceback.format_exception(caught.value))
    wait_until(lambda: status(url)["queues"][0]["ready"] == 0, description="nothing to be left in the queue")


def test_a_thousand_awaits_at_once_lend_one_slot(serve, coroutines) -> None:
    serve("-c", "async=1,process=1", "--pool", "async", target=COROUTINES)

    assert coroutines.gather_many.submit(1000).result(timeout=50) == sum(range(1000))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("way", ["by_result", "by_as_completed"])
def test_twelve_levels_end_on_one_worker_with_two_slots(serve, trees, pool: str, way: str) -> None:
    serve(*POOLS[pool])

    assert getattr(trees, way).submit(12).result(timeout=380) == 2**12


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_twelve_levels_of_coroutines_end_on_one_worker_with_two_slots(serve, coroutines) -> None:
    serve("-c", "async=2,process=2", "--pool", "async", target=COROUTINES)

    assert coroutines.by_await.submit(12).result(timeout=380) == 2**12


def claimed(url: str, queue: str) -> int:
    return sum(one["claimed"] for one in status(url)["queues"] if one["queue"] == queue)


def status(url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "qworker", "status", "--url", url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_task_cannot_wait_for_itself(serve, trees) -> None:
    serve("-c", "process=1")

    with pytest.raises(WaitCycle, match="cannot wait for itself"):
        trees.waits_for_itself.submit().result(timeout=20)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("grouped", [False, True])
def test_tasks_that_wait_for_each_other_do_not_hang(serve, trees, pool: str, grouped: bool) -> None:
    worker = serve(*POOLS[pool])

    assert trees.waits_for_what_waits_for_it.submit(grouped).result(timeout=20) == "WaitCycle"
    worker.wait_event("wait.cycle", tasks=2)
