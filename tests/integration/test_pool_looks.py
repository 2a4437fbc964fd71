"""A look at where a task is hurts nobody: it is taken by Python code, and from outside only in the middle of C code."""

from __future__ import annotations

import asyncio
import time

import pytest

from qworker.pool import linux
from qworker.pool.linux import LOOK_SIGNAL, STACK_SIGNAL, Motion
from qworker.pool.stack_pipe import Look, is_in_c
from support.pools import a_pool
from support.waiting import await_until


async def place_of(pool, number):
    """The child and slot that an order runs in."""
    await pool.running(number)
    for kid in pool.pool.nursery.kids:
        if (slot := kid.slot_of(number)) is not None:
            return kid, slot
    raise AssertionError(f"order {number} is in no slot")


async def look_at(kid, slot, number):
    """Take the stack of a task once; "" when none came."""
    look = Look("asked", kid, slot, number, (), time.monotonic())
    kid.stacks.want(look)
    stacks = kid.stacks
    await await_until(
        lambda: (
            look.stack or (look not in stacks._asked and look not in stacks._wanted and stacks._pending is not look)
        ),
        description="the end of a look",
    )
    return look.stack


async def seen(kid, slot, number, function):
    """Look until the task has come to that function."""
    while f" in {function}" not in (stack := await look_at(kid, slot, number)):
        pass
    return stack


def watched(kid, monkeypatch):
    """The signals that a child gets from now on."""
    sent = []
    signal_thread = kid.process.signal_thread
    monkeypatch.setattr(
        kid.process, "signal_thread", lambda thread, number: sent.append(number) or signal_thread(thread, number)
    )
    return sent


COMPUTING = [
    ("process", "sort_for_ever", "sort_for_ever"),
    ("process", "busy_loop", "busy_loop"),
    ("process", "hook_for_ever", "hook_for_ever"),
    ("thread", "sort_for_ever", "sort_for_ever"),
    ("async", "sort_for_ever", "sort_for_ever"),
    ("async", "sort_on_the_loop", "sort_on_the_loop"),
    ("process", "turn_for_ever", "_run_once"),
    ("async", "turn_for_ever", "_run_once"),
]


@pytest.mark.parametrize(("kind", "name", "function"), COMPUTING)
def test_a_task_that_computes_is_seen_by_python_and_never_by_the_handler_in_c(kind, name, function, monkeypatch):
    async def check():
        async with a_pool(kind, 2) as pool:
            number = pool.put(name)
            kid, slot = await place_of(pool, number)
            await seen(kid, slot, number, function)
            sent = watched(kid, monkeypatch)

            stacks = [await look_at(kid, slot, number) for _ in range(20)]

            assert any(stacks), "the loop of coroutines is at times in our own code, of which nothing is told"
            assert set(sent) == {LOOK_SIGNAL}

    asyncio.run(check())


def test_a_task_among_siblings_that_compute_is_seen_by_python_too(monkeypatch):
    """The thread that answers has to wait for the GIL, and that is no reason to look from outside."""

    async def check():
        async with a_pool("thread", 6) as pool:
            numbers = [pool.put("sort_for_ever") for _ in range(6)]
            places = [await place_of(pool, number) for number in numbers]
            for number, (kid, slot) in zip(numbers, places, strict=True):
                await seen(kid, slot, number, "sort_for_ever")
            sent = watched(places[0][0], monkeypatch)

            looks = (look_at(*place, number) for number, place in zip(numbers, places, strict=True))
            stacks = await asyncio.gather(*looks)

            assert all(stack.endswith(" in sort_for_ever") for stack in stacks)
            assert STACK_SIGNAL not in sent

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_a_task_that_waits_in_c_code_is_seen_though_its_call_goes_on_after_a_signal(kind):
    async def check():
        async with a_pool(kind, 1) as pool:
            number = pool.put("receive")
            kid, slot = await place_of(pool, number)

            while "\n" in (stack := await seen(kid, slot, number, "receive")):
                pass  # it is on its way to that call

            assert stack.endswith(" in receive")

    asyncio.run(check())


def test_python_is_asked_again_when_its_answer_found_the_pipe_full():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("busy_loop")
            kid, slot = await place_of(pool, number)
            await seen(kid, slot, number, "busy_loop")
            page, asked = kid.page, []
            look = page.look
            # What a lost answer looks like from here: the ask was taken, and nothing came.
            page.look = lambda *at: asked.append(at) or (look(*at) if len(asked) > 1 else None)

            assert " in busy_loop" in await look_at(kid, slot, number)
            assert len(asked) == 2

    asyncio.run(check())


@pytest.mark.parametrize(
    ("now", "pressed", "in_c"),
    [
        (Motion(asleep=True, sleeps=5, ran_ticks=10), False, True),  # it has slept all the time
        (Motion(asleep=True, sleeps=6, ran_ticks=10), True, False),  # it has woken meanwhile
        (Motion(asleep=False, sleeps=5, ran_ticks=11), True, False),  # it has hardly run: others had the processor
        (Motion(asleep=False, sleeps=5, ran_ticks=12), True, True),  # no Python code keeps the GIL for so long
        (Motion(asleep=False, sleeps=5, ran_ticks=19), False, False),  # unless nobody has asked for it
        (Motion(asleep=False, sleeps=6, ran_ticks=19), True, False),  # it has given it up
    ],
)
def test_a_thread_is_in_c_code_when_it_slept_or_did_not_give_up_the_gil(now, pressed, in_c):
    assert is_in_c(Motion(asleep=True, sleeps=5, ran_ticks=10), now, pressed=pressed) is in_c


def test_the_motion_of_a_thread_that_is_gone_is_none():
    assert linux.motion_of(2**22 + 1, 2**22 + 1) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "name", "function"), COMPUTING)
def test_thousands_of_looks_crash_nobody(kind, name, function):
    """The handler in C crashed Python 3.11 once in 600 of these, and 3.12 and 3.13 once in 30 to 80."""

    async def check():
        async with a_pool(kind, 1) as pool:
            number = pool.put(name)
            kid, slot = await place_of(pool, number)
            await seen(kid, slot, number, function)

            for _ in range(3000):
                await look_at(kid, slot, number)
                assert number not in pool.heard.ended

            assert not pool.heard.named("child.died")

    asyncio.run(check())
