"""Orders that start on permit, in real pools: no slot has one before the worker has said so, and nobody passes it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from qworker.model import PoolKind
from support.pools import PoolUnderTest, a_pool, make_order, value_of
from support.waiting import await_until


def put(pool: PoolUnderTest, *waiting: bool) -> list[int]:
    """Put one order for each, in one batch: does it start on permit?"""
    orders = [make_order("echo", n, on_permit=on_permit) for n, on_permit in enumerate(waiting)]
    pool.pool.put(orders)
    return [order.number for order in orders]


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_as_many_are_asked_for_as_slots_are_free_and_each_once(kind: PoolKind) -> None:
    async def run() -> None:
        async with a_pool(kind, 2) as pool:
            numbers = put(pool, True, True, True, False)
            assert pool.heard.wanted == [numbers[:2]]
            assert not list(pool.pool.marks())

            pool.pool.permit(numbers[1:2])
            pool.pool.feed()
            assert pool.heard.wanted == [numbers[:2]], "the first is still to be permitted, and nobody passes it"
            assert pool.pool.unstarted == 4

            pool.pool.permit(numbers[:1])
            assert [value_of(await pool.ending(number)) for number in numbers[:2]] == [0, 1]
            assert [number for some in pool.heard.wanted[1:] for number in some] == numbers[2:3]
            assert numbers[3] not in pool.heard.ended

            pool.pool.permit(numbers[2:3])
            assert [value_of(await pool.ending(number)) for number in numbers[2:]] == [2, 3]

    asyncio.run(run())


def test_nothing_is_asked_for_while_every_slot_is_taken() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            busy = pool.put("nap", 30)
            await pool.running(busy)

            (number,) = put(pool, True)
            pool.pool.look_again()
            assert pool.heard.wanted == []

            pool.pool.ask(busy, "stop", 0.0)
            await pool.ending(busy)
            await await_until(lambda: pool.heard.wanted == [[number]], description="its turn")
            pool.pool.permit([number])
            assert value_of(await pool.ending(number)) == 0

    asyncio.run(run())


@pytest.mark.parametrize("lent", [False, True])
def test_who_waits_for_the_worker_is_not_given_back_as_if_the_slots_stood_still(lent: bool) -> None:
    """A server may be away for longer than anything may stand in a line."""
    later = 0.0

    async def run() -> None:
        nonlocal later
        async with a_pool("process", 1, prompt=True, clock=lambda: time.monotonic() + later) as pool:
            if lent:
                orders = [make_order("echo", n, on_permit=True) for n in range(2)]
                pool.pool.annex.lend(orders)
                numbers = [order.number for order in orders]
            else:
                numbers = put(pool, True, False)

            later = 60.0
            pool.pool.look_again()
            assert not pool.heard.ended

            pool.pool.permit(numbers)
            assert [value_of(await pool.ending(number)) for number in numbers] == [0, 1]

    asyncio.run(run())


@pytest.mark.parametrize("moving", [False, True], ids=["behind what stands still", "behind what moves"])
def test_who_waits_for_a_slot_is_given_back_as_anybody(moving: bool) -> None:
    later = 0.0

    async def run() -> None:
        nonlocal later
        async with a_pool("process", 1, prompt=True, clock=lambda: time.monotonic() + later) as pool:
            busy = pool.put("nap", 30)
            await pool.running(busy)
            numbers = put(pool, True, False)

            later = 60.0
            if moving:
                pool.pool.line.moved_at = pool.pool.now()
            pool.pool.look_again()

            assert [pool.heard.ended[number].detail for number in numbers] == ["stalled"] * 2
            assert not pool.heard.wanted

    asyncio.run(run())


def test_one_that_is_asked_to_end_or_overdue_leaves_the_gate_to_the_next() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            soon = make_order(
                "echo", 5, on_permit=True, deadline_s=0.05, handed=time.clock_gettime(time.CLOCK_BOOTTIME)
            )
            (stopped,) = put(pool, True)
            pool.pool.put([soon])
            (plain,) = put(pool, False)

            assert pool.pool.ask(stopped, "stop")
            assert pool.heard.ended[stopped].kind == "unstarted"
            assert pool.heard.wanted == [[stopped], [soon.number]]
            assert (await pool.ending(soon.number)).kind == "unstarted"
            assert value_of(await pool.ending(plain)) == 0

            pool.pool.permit([stopped, soon.number])  # too late, and nobody's harm

    asyncio.run(run())


def test_what_is_recalled_is_not_started_by_a_permit_that_comes_then() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            numbers = put(pool, True, False, True)

            assert pool.pool.recall() == numbers
            pool.pool.permit(numbers)

            assert value_of(await pool.run("echo", 7)) == 7
            assert not any(number in pool.heard.ended for number in numbers)

    asyncio.run(run())


def test_one_that_somebody_waits_for_is_lent_a_place_and_asks_then() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            busy = pool.put("nap", 30)
            await pool.running(busy)
            first, awaited = put(pool, True, True)

            assert pool.pool.annex.advance(awaited)
            assert pool.heard.wanted == [[awaited]]
            pool.pool.permit([awaited])

            assert value_of(await pool.ending(awaited)) == 1
            assert first not in pool.heard.ended
            assert pool.pool.annex.advance(first)

    asyncio.run(run())


def test_a_lent_order_waits_for_its_permit_alone() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            orders = [make_order("echo", n, on_permit=True) for n in range(2)]
            pool.pool.annex.lend(orders)
            numbers = [order.number for order in orders]
            assert pool.heard.wanted == [numbers]
            assert value_of(await pool.run("echo", 5)) == 5

            pool.pool.permit(numbers)
            assert [value_of(await pool.ending(number)) for number in numbers] == [0, 1]

    asyncio.run(run())


def test_a_permit_holds_when_the_child_dies_before_it_starts() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            (kid,) = pool.pool.nursery.kids
            os.kill(kid.pid, signal.SIGSTOP)
            (number,) = put(pool, True)
            pool.pool.permit([number])

            os.kill(kid.pid, signal.SIGKILL)

            assert value_of(await pool.ending(number)) == 0
            assert pool.heard.wanted == [[number]]

    asyncio.run(run())
