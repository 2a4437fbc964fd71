"""`Executor`: what is submitted to its private worker comes back, alone or mapped, also for others' libraries."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import sys
from collections.abc import Callable, Iterator

import pytest

from qworker import App, BadCall, Executor, Future, Refused, TaskCrashed, TaskTimedOut, ValueNotSent
from support.apps import basic, plain
from support.waiting import wait_until

HERE = "support.apps.plain"


@pytest.fixture(scope="module")
def ex() -> Iterator[Executor]:
    """One private worker for all the tests that leave it as it was."""
    with Executor(workers=2) as executor:
        yield executor


# What is submitted


def test_functions_of_any_module_are_called_and_answer(ex) -> None:
    futures = [
        ex.submit(pow, 2, 8),
        ex.submit(plain.square, 5),
        ex.submit(str.upper, "ü"),
        ex.submit(plain.Box.double, 4),
    ]

    assert [future.result(timeout=30) for future in futures] == [256, 25, "Ü", 8]
    assert all(isinstance(future, Future) for future in futures)


def test_arguments_arrive_as_they_went_whatever_they_are_called(ex) -> None:
    assert ex.submit(plain.together, 1, (2,), self=3, fn={4}).result(timeout=30) == ((1, (2,)), {"self": 3, "fn": {4}})


def test_a_partial_is_its_function_with_arguments(ex) -> None:
    doubly = functools.partial(functools.partial(plain.together, 1, a=1), 2, b=2)

    assert ex.submit(doubly, 3, b=3).result(timeout=30) == ((1, 2, 3), {"a": 1, "b": 3})


def test_a_coroutine_function_is_run_to_its_end(ex) -> None:
    assert ex.submit(plain.later, "x").result(timeout=30) == "x"


def test_a_registered_task_runs_under_its_own_name_and_options(ex) -> None:
    assert ex.submit(basic.add, 2, 3).result(timeout=30) == 5
    with pytest.raises(TaskTimedOut):
        ex.submit(basic.nap.options(timeout=0.1, grace=0), 30).result(timeout=30)


def test_a_registered_task_runs_in_the_own_worker_wherever_its_app_would_have_put_it(ex) -> None:
    named = App().task(name="a.name.that.no.module.has")(plain.square)
    futures = [
        ex.submit(basic.add.options(queue="slow", retries=1), 2, 3),
        ex.submit(basic.async_nap, 0.0),
        ex.submit(functools.partial(named, 5)),
        ex.submit(named.options(priority="high", queue="slow"), 6),
        ex.submit(basic.pid.options(pool="process", interrupt=True)),
        ex.submit(basic.in_thread.options(pool=None)),
    ]

    values = [future.result(timeout=30) for future in futures]

    assert values[:4] == [5, "slept", 25, 36]
    assert values[4] != os.getpid()
    assert list(ex.map(basic.add.options(queue="slow"), range(300), range(300))) == [2 * n for n in range(300)]


def test_a_task_that_needs_slots_that_the_own_worker_lacks_is_refused(ex) -> None:
    with pytest.raises(BadCall) as caught:
        ex.submit(basic.in_thread)
    assert str(caught.value) == (
        "cannot submit support.apps.basic.in_thread: it has pool='thread', and this Executor's own worker has process "
        "slots only; submit task.options(pool=None), or make it Executor(workers=…, pool='thread'); nothing was queued"
    )
    with pytest.raises(BadCall, match="it has pool='async', and this Executor's own worker has process slots only"):
        ex.map(basic.async_nap.options(pool="async"), [0.0])

    with Executor(workers=1, pool="thread") as threads:
        assert threads.submit(basic.in_thread).result(timeout=30) != "MainThread"
        with pytest.raises(BadCall) as caught:
            threads.submit(basic.pid.options(interrupt=True))
    assert str(caught.value) == (
        "cannot submit support.apps.basic.pid: it has interrupt=True, and this Executor's own worker has thread "
        "slots only; submit task.options(interrupt=False), or make it Executor(workers=…, pool='process'); "
        "nothing was queued"
    )


def test_a_task_whose_function_the_own_worker_cannot_import_is_refused_whatever_its_name(ex) -> None:
    app = App()
    doubled = app.task(name="doubled")(lambda number: 2 * number)

    with pytest.raises(BadCall, match="cannot submit a lambda of "):
        ex.submit(doubled, 1)
    with pytest.raises(BadCall, match="cannot submit a lambda of "):
        ex.submit(doubled.options(retries=1), 1)


def test_a_task_that_is_known_by_its_name_only_is_looked_for_under_it(ex) -> None:
    app = App()

    assert ex.submit(app.named(f"{HERE}.square"), 4).result(timeout=30) == 16
    with pytest.raises(LookupError, match=r"cannot run no\.such\.task: the worker finds no such module"):
        ex.submit(app.named("no.such.task")).result(timeout=30)


def test_what_no_worker_can_import_is_refused_by_submit_and_by_map(ex) -> None:
    with pytest.raises(BadCall, match="cannot submit a lambda of "):
        ex.submit(lambda: 1)
    with pytest.raises(BadCall, match="it is a method of one object"):
        ex.map([].append, [1])
    with pytest.raises(BadCall, match=r"cannot submit .*square\(.*missing a required argument: 'number'"):
        ex.submit(plain.square)


def test_a_result_that_cannot_be_sent_fails_its_call_and_nothing_else(ex) -> None:
    with pytest.raises(TypeError, match=f"{HERE}.an_object returned a value that cannot be sent") as caught:
        ex.submit(plain.an_object).result(timeout=30)
    assert isinstance(caught.value, ValueNotSent)
    assert not isinstance(caught.value, Refused)  # "nothing happened"; but it ran
    assert ex.submit(plain.square, 3).result(timeout=30) == 9


def test_a_function_that_kills_its_process_harms_no_other(ex) -> None:
    others = [ex.submit(plain.nap, 0.1, n) for n in range(6)]

    with pytest.raises(TaskCrashed):
        ex.submit(plain.die).result(timeout=30)
    assert [other.result(timeout=30) for other in others] == list(range(6))


# Map


def test_map_yields_in_order_and_ends_with_the_shortest(ex) -> None:
    assert list(ex.map(pow, range(600), [2] * 700)) == [n * n for n in range(600)]
    assert list(ex.map(plain.square, [])) == []


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.5}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_map_refuses_what_the_standard_library_refuses(ex, options, error, said) -> None:
    with pytest.raises(error, match=said):
        ex.map(plain.square, [1], **options)


def test_map_with_a_buffersize_takes_items_only_as_results_are_taken(ex) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1_000_000):
            taken.append(n)
            yield n

    results = ex.map(plain.square, items(), buffersize=3)

    assert taken == [0, 1, 2]
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    assert taken == list(range(7))
    results.close()


def test_a_map_that_is_closed_early_cancels_what_waits_and_leaves_what_runs(tmp_path) -> None:
    log = tmp_path / "log"
    with Executor(workers=1) as executor:
        results = executor.map(plain.note, [str(log)] * 100, map(str, range(100)), [0.0, 0.6] + [0.05] * 98)
        assert next(results) == "0"
        wait_until(lambda: "1\n" in log.read_text(), description="the second call runs")
        results.close()

    ran = log.read_text().split()
    assert ran[:2] == ["0", "1"]
    assert len(ran) < 90


def test_map_gives_up_at_its_timeout_and_the_call_goes_on(ex, tmp_path) -> None:
    path = tmp_path / "done"

    results = ex.map(plain.touch_later, [str(path)], [0.8], timeout=0.1)

    with pytest.raises(TimeoutError):
        next(results)
    wait_until(path.exists, description="the call has ended by itself")


# With what is written for executors


def test_an_event_loop_runs_functions_in_it(ex) -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(ex, plain.nap, 0.05, n) for n in range(8)))

    assert asyncio.run(main()) == list(range(8))


def test_wait_and_as_completed_take_its_futures(ex) -> None:
    slow, quick = ex.submit(plain.nap, 0.5, "slow"), ex.submit(plain.nap, 0.0, "quick")

    assert [future.result() for future in concurrent.futures.as_completed([slow, quick], timeout=30)] == [
        "quick",
        "slow",
    ]
    done, pending = concurrent.futures.wait([slow, quick])
    assert (done, pending) == ({slow, quick}, set())


def test_an_optimizer_that_takes_a_map_for_its_workers_runs_on_it(ex) -> None:
    """As `scipy.optimize` has it: `workers` is a map-like callable, called with a function and an iterable."""

    def brute(fn: Callable[[float], float], grid: list[float], workers: Callable[..., Iterator[float]]) -> float:
        return min(zip(workers(fn, grid), grid, strict=True))[1]

    assert brute(plain.square, [-2, -1, 3, 0, 5], workers=ex.map) == 0


def test_scipy_runs_on_it_with_the_function_that_it_wraps(ex) -> None:
    """scipy hands its `workers` an object around the function, and arrays: neither of them can travel."""
    optimize = pytest.importorskip(
        "scipy.optimize", reason="scipy is not installed: pip install 'qworker-redis[interop]'"
    )

    found = optimize.differential_evolution(
        plain.bowl, [(-3, 3), (-3, 3)], updating="deferred", seed=1, maxiter=20, polish=False,
        workers=lambda _wrapped, points: ex.map(plain.bowl, (point.tolist() for point in points)),
    )  # fmt: skip

    assert found.fun < 0.01


def test_a_progress_bar_counts_completed_futures(ex, capsys) -> None:
    tqdm = pytest.importorskip("tqdm", reason="tqdm is not installed")
    futures = [ex.submit(plain.square, n) for n in range(20)]

    bar = tqdm.tqdm(concurrent.futures.as_completed(futures), total=20, file=sys.stdout)

    assert sorted(future.result() for future in bar) == [n * n for n in range(20)]
    assert "20/20" in capsys.readouterr().out


def test_adaptive_sampling_runs_on_it_unchanged(ex) -> None:
    adaptive = pytest.importorskip("adaptive", reason="adaptive is not installed: pip install 'qworker-redis[interop]'")
    learner = adaptive.Learner1D(plain.square, bounds=(-1.0, 1.0))

    adaptive.BlockingRunner(learner, goal=lambda found: found.npoints >= 20, executor=ex, ntasks=2)

    assert learner.npoints >= 20
    assert all(y == pytest.approx(x * x) for x, y in learner.data.items())
