"""Where a coroutine waits, as its loop can tell."""

from __future__ import annotations

import asyncio

from qworker.pool.stacks import coroutine_stack


def stack_of(function, *args):
    """The functions in the stack of a task that has come to where it waits; and the whole text."""

    async def check():
        task = asyncio.create_task(function(*args))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        text = coroutine_stack(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [line.rsplit(" in ", 1)[1] for line in text.split("\n") if line], text

    return asyncio.run(check())


async def wait():
    await asyncio.get_running_loop().create_future()


async def outer():
    await wait()


async def in_a_task():
    await asyncio.create_task(wait())


async def from_a_generator():
    async def items():
        await wait()
        yield 1

    async for _ in items():
        pass


async def of_many():
    await asyncio.gather(wait(), wait())


async def deep(depth):
    await (deep(depth - 1) if depth else wait())


def test_the_stack_goes_from_where_it_waits_to_where_it_began():
    names, text = stack_of(outer)

    assert names == ["wait", "outer"]
    assert text.startswith(f'  File "{__file__}", line ')


def test_it_goes_into_the_task_that_is_awaited():
    assert stack_of(in_a_task)[0] == ["wait", "in_a_task"]


def test_it_ends_where_nothing_more_is_known():
    assert stack_of(of_many)[0] == ["of_many"]
    assert stack_of(from_a_generator)[0][-1] == "from_a_generator"


def test_it_is_bounded():
    assert len(stack_of(deep, 300)[0]) == 100


def test_a_task_that_awaits_itself_through_another_has_an_end():
    async def await_each_other():
        async def wait_for(index):
            await others[index]

        others = [asyncio.create_task(wait_for(1)), asyncio.create_task(wait_for(0))]
        await asyncio.sleep(0)
        return others

    loop = asyncio.new_event_loop()
    others = loop.run_until_complete(await_each_other())
    assert coroutine_stack(others[0]).count("\n") == 1
    for task in others:  # to cancel them would go round for ever
        task.get_coro().close()
        task._log_destroy_pending = False
    loop.close()


class Grumpy:
    def __init__(self, future):
        self._future = future.__await__()

    def __await__(self):
        return self

    def __next__(self):
        return next(self._future)

    def throw(self, error):
        return self._future.throw(error)

    def __getattr__(self, name):
        if name == "close":
            raise AttributeError(name)
        raise RuntimeError(name)


async def grumpy():
    await Grumpy(asyncio.get_running_loop().create_future())


def test_it_ends_where_something_of_a_users_own_refuses_to_be_looked_at():
    assert stack_of(grumpy)[0] == ["grumpy"]
