"""`map` and `amap` on real workers: order, a bounded window, and what becomes of the rest when they are left early."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.conftest import executions
from qworker import App, NotEncodable, TaskExpired
from support.waiting import await_until, wait_until


class Counted:
    """Items that remember how many were taken."""

    def __init__(self, count: int, *, pause_s: float = 0.0) -> None:
        self.taken = 0
        self._count, self._pause_s = count, pause_s

    def __iter__(self) -> Iterator[int]:
        for n in range(self._count):
            time.sleep(self._pause_s)
            self.taken += 1
            yield n


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def left_in(app: App) -> int:
    """How many tasks of the default queue have not ended."""
    stats = app.client()._broker.stats("default")
    return stats.ready + stats.scheduled + stats.claimed


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_any_number_of_items_needs_the_memory_of_a_window(start, tasks, count: int) -> None:
    start("-c", "2")
    items = Counted(count)
    most_held = done = 0
    usual = 0.0

    for value in tasks.echo.map(items, window=500):
        assert value == done
        done += 1
        most_held = max(most_held, items.taken - done)
        if done == count // 4:
            usual = rss_mib()

    assert done == count
    assert most_held <= 500
    assert len(tasks.app.client().registry.all()) <= 1
    assert rss_mib() - usual < 8


def test_values_come_as_tasks_end_when_order_does_not_matter(start, tasks) -> None:
    start("-c", "2")

    values = list(tasks.sleepy_echo.map([0.7, 0.0, 0.01, 0.02], ordered=False))

    assert sorted(values) == [0.0, 0.01, 0.02, 0.7]
    assert values[-1] == 0.7


def test_values_of_slow_inputs_are_not_held_back_for_a_whole_window(start, tasks) -> None:
    start("-c", "1")
    for ordered in (True, False):
        items = Counted(200, pause_s=0.02)

        values = tasks.echo.map(items, ordered=ordered)

        assert next(values) == 0
        assert items.taken < 150
        values.close()


@pytest.mark.parametrize("way", ["close", "input", "task"])
def test_leaving_early_stops_what_is_under_way(start, tasks, execution_log, way: str) -> None:
    """What is queued never starts, what runs is asked to end."""
    worker = start("-c", "1")

    def inputs() -> Iterator[float]:
        for seconds in [0.0 if way != "task" else -1.0] + [30.0] * 50:
            yield seconds
            if way == "input":
                time.sleep(0.02)  # what comes slowly is submitted at once
        if way == "input":
            wait_until(lambda: len(executions(execution_log)) == 2, description="the second to run")
            raise KeyError("the input")

    values = tasks.polite_or_fail.map(inputs(), window=100)
    if way == "input":
        with pytest.raises(KeyError, match="the input"):
            list(values)
    elif way == "task":
        with pytest.raises(ValueError, match="negative"):
            list(values)
    else:
        assert next(values) == "done"
        wait_until(lambda: len(executions(execution_log)) == 2, description="the second to run")
        values.close()

    wait_until(lambda: left_in(tasks.app) == 0, description="the rest to end")
    assert len(executions(execution_log)) <= 2
    if way != "task":
        worker.wait_event("task.ended", outcome="cancelled", how="noticed")


def test_a_loop_that_is_left_closes_its_iterator_by_itself(start, tasks, execution_log) -> None:
    start("-c", "1")

    def left(error: type[Exception] | None) -> None:
        for _ in tasks.polite_or_fail.map([0.0] + [30.0] * 20):
            if error is not None:
                raise error
            break

    left(None)
    wait_until(lambda: left_in(tasks.app) == 0, description="the rest to end after a break")
    with pytest.raises(ZeroDivisionError):
        left(ZeroDivisionError)
    wait_until(lambda: left_in(tasks.app) == 0, description="the rest to end after an exception")
    # Two of each, and whatever starts in the slot that a stop freed before its own stop is there.
    assert len(executions(execution_log)) < 20


def test_an_item_has_so_long_from_its_submission_to_its_end(start, tasks) -> None:
    start("-c", "2")

    values = list(tasks.polite_or_fail.options(grace=0.2).map([0.0, 30.0, 0.0], item_timeout=1.0, errors="return"))

    assert [values[0], values[2]] == ["done", "done"]
    assert isinstance(values[1], TaskExpired)


def test_items_that_no_worker_takes_run_out_of_time_too(tasks) -> None:
    begun = time.monotonic()

    with pytest.raises(TaskExpired):
        list(tasks.echo.map(range(3), item_timeout=0.3))

    assert time.monotonic() - begun < 5


def test_an_item_that_cannot_be_sent_is_an_error_in_its_place(start, tasks) -> None:
    start("-c", "1")

    first, refused, last = tasks.echo.map([1, object(), 3], errors="return")

    assert (first, last) == (1, 3)
    assert isinstance(refused, NotEncodable)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_whose_app_is_closed_ends_with_an_error(tasks, ordered: bool) -> None:
    """No worker runs: nothing would ever come."""
    with ThreadPoolExecutor(1) as thread:
        value = thread.submit(next, tasks.echo.map([1, 2], ordered=ordered))
        wait_until(lambda: tasks.app.connected and left_in(tasks.app) == 2, description="the items to be queued")

        tasks.app.close()

        with pytest.raises(RuntimeError, match=r"the app was closed while task .* awaited"):
            value.result(timeout=10)


def test_amap_keeps_the_order_and_the_window_and_blocks_no_loop(start, tasks) -> None:
    start("-c", "2")
    turns = 0

    async def check() -> None:
        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        turning = asyncio.create_task(turn())
        items = Counted(3000)
        done = 0
        async for value in tasks.echo.amap(items, window=100):
            assert value == done
            done += 1
            assert items.taken - done <= 100
        assert done == 3000
        turning.cancel()
        fast_first = [value async for value in tasks.sleepy_echo.amap([0.5, 0.0, 0.01], ordered=False)]
        assert fast_first[-1] == 0.5

    asyncio.run(check())
    assert turns > 20


def test_amap_gives_values_out_while_its_input_waits(start, tasks) -> None:
    start("-c", "1")

    async def check() -> None:
        got_first = asyncio.Event()

        async def inputs():
            yield 1
            await got_first.wait()  # comes only when the value of the first is there
            yield 2

        values = []
        async for value in tasks.echo.amap(inputs()):
            values.append(value)
            got_first.set()
        assert values == [1, 2]

    asyncio.run(check())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("way", ["break", "cancel", "input"])
def test_leaving_amap_early_stops_what_is_under_way(start, tasks, execution_log, way: str, ordered: bool) -> None:
    worker = start("-c", "1")
    got = asyncio.Event()

    async def inputs():
        yield 0.0
        for _ in range(20):
            yield 30.0
        if way == "input":
            await running()
            await got.wait()
            raise KeyError("the input")

    async def running() -> None:
        await await_until(lambda: len(executions(execution_log)) == 2, description="the second to run")

    async def consume() -> None:
        async for _ in tasks.polite_or_fail.amap(inputs(), ordered=ordered):
            got.set()
            if way == "break":
                await running()
                break

    async def check() -> None:
        consuming = asyncio.create_task(consume())
        await got.wait()
        if way == "cancel":
            await running()
            consuming.cancel()
        with pytest.raises(KeyError) if way == "input" else contextlib.suppress(asyncio.CancelledError):
            await consuming
        await await_until(lambda: left_in(tasks.app) == 0, description="the rest to end")

    asyncio.run(check())
    worker.wait_event("task.ended", outcome="cancelled", how="noticed")
    assert len(executions(execution_log)) == 2
