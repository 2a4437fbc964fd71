"""`async with app.group()`: what asyncio.TaskGroup promises of its tasks, of tasks that run elsewhere."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from e2e.conftest import TREE, executions
from qworker import GroupStopped
from support.waiting import await_until


def started(execution_log):
    return await_until(lambda: executions(execution_log), description="a start")


def test_the_block_awaits_its_tasks_and_the_loop_goes_on(start, tree) -> None:
    start("-c", "2", target=TREE)

    async def main() -> list[int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with tree.app.group() as g:
            futures = [await g.asubmit(tree.add, n, n) for n in range(4)]
            await g.asubmit(tree.polite, 0.3)
        assert all(future.done() for future in g.futures)
        assert ticks > 20
        ticking.cancel()
        return [future.result() for future in futures]

    assert asyncio.run(main()) == [0, 2, 4, 6]


def test_a_failing_task_cancels_the_body_and_comes_out_alone(start, tree) -> None:
    start("-c", "2", target=TREE)
    reached: list[str] = []

    async def main() -> None:
        try:
            async with tree.app.group() as g:
                sibling = await g.asubmit(tree.polite, 60)
                await g.asubmit(tree.fail, "broken")
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    reached.append("cancelled")
                    raise
        except* ValueError as caught:
            reached.extend(str(error) for error in caught.exceptions)
        assert sibling.cancelled()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0  # what the group asked for it has taken back
        await asyncio.sleep(0)

    asyncio.run(main())

    assert reached == ["cancelled", "broken"]


def test_a_timeout_around_the_block_stops_the_tasks_and_is_a_timeout(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as scope, tree.app.group() as g:
                running = await g.asubmit(tree.polite, 60)
                await started(execution_log)
                scope.reschedule(asyncio.get_running_loop().time())
                await asyncio.sleep(60)
        assert running.cancelled()
        assert (running.outcome.how, g.survivors) == ("noticed", ())

    asyncio.run(main())


def test_a_timeout_inside_of_the_block_is_the_bodys_own_affair(start, tree) -> None:
    start("-c", "1", target=TREE)

    async def main() -> int:
        async with tree.app.group() as g:
            future = await g.asubmit(tree.add, 1, 2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
        return future.result()

    assert asyncio.run(main()) == 3


def test_a_cancellation_while_the_block_waits_stops_the_tasks_and_goes_on(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    async def main() -> None:
        groups = []

        async def work() -> None:
            async with tree.app.group() as g:
                groups.append(g)
                await g.asubmit(tree.polite, 60)

        task = asyncio.create_task(work())
        await started(execution_log)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert groups[0].futures[0].cancelled()

    asyncio.run(main())


def test_a_failure_and_a_cancellation_from_outside_are_both_told(start, tree) -> None:
    """As asyncio has it: the errors come out of the block, the cancellation at the next await."""
    start("-c", "1", target=TREE)

    async def main() -> None:
        told: list[str] = []

        async def work() -> None:
            try:
                async with tree.app.group() as g:
                    await g.asubmit(tree.fail, "broken")
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(60)  # until the group cancels it
                    asyncio.current_task().cancel()
                    await asyncio.sleep(60)
            except* ValueError:
                told.append("errors")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told.append("cancelled")
                raise

        task = asyncio.create_task(work())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told == ["errors", "cancelled"]

    asyncio.run(main())


def test_a_group_that_somebody_stops_cancels_the_body_and_says_so(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with tree.app.group() as g:
                await g.asubmit(tree.polite, 60)
                await started(execution_log)
                await asyncio.to_thread(tree.app.stop, group=g.id)
                await asyncio.sleep(60)
        [error] = caught.value.exceptions
        assert isinstance(error, GroupStopped)
        assert str(error) == f"group {g.id} was stopped: from outside"

    asyncio.run(main())


def test_a_nested_block_is_cancelled_with_the_one_around_it(start, tree) -> None:
    start("-c", "2", target=TREE)

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with tree.app.group() as outer:
                async with tree.app.group() as inner:
                    below = await inner.asubmit(tree.polite, 60)
                    await outer.asubmit(tree.fail, "outer")
                raise AssertionError("the inner block must not be left as if nothing was")
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('outer')"]
        assert below.cancelled()

    asyncio.run(main())


def test_the_owner_may_stop_the_group_and_go_on(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)

    async def main() -> None:
        async with tree.app.group() as g:
            running = await g.asubmit(tree.polite, 60)
            await started(execution_log)
            await g.astop()
            await asyncio.sleep(0)
        assert running.cancelled()

    asyncio.run(main())
