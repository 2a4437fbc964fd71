"""Lent orders in real pools: beside the slots, and counted nowhere."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from qworker import clock
from qworker.model import PoolKind
from qworker.pool import nursery
from support.pools import PoolUnderTest, a_pool, make_order, value_of
from support.waiting import await_until


def lend(pool: PoolUnderTest, name: str, *args: object, **options: object) -> int:
    order = make_order(name, *args, **options)  # type: ignore[arg-type]
    pool.pool.annex.lend([order])
    return order.number


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_a_lent_order_runs_beside_slots_that_are_all_taken(kind: PoolKind) -> None:
    async def run() -> None:
        async with a_pool(kind, 1) as pool:
            busy = pool.put("nap", 30)
            await pool.running(busy)

            number = lend(pool, "echo", 5)

            assert value_of(await pool.ending(number)) == 5
            assert (pool.pool.capacity, pool.pool.free) == (1, 0)
            assert busy not in pool.heard.ended

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_lending_takes_no_slot_from_others(kind: PoolKind) -> None:
    async def run() -> None:
        async with a_pool(kind, 2) as pool:
            numbers = [lend(pool, "nap", 30) for _ in range(3)]
            for number in numbers:
                await pool.running(number)

            assert (pool.pool.capacity, pool.pool.free) == (2, 2)
            assert value_of(await pool.run("echo", 5)) == 5
            assert {task.number for task in pool.pool.running() if task.lent} == set(numbers)

    asyncio.run(run())


def test_an_order_behind_a_busy_slot_is_taken_out_and_run() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            busy = pool.put("nap", 30)
            behind = pool.put("echo", 7)
            await pool.running(busy)

            assert not pool.pool.annex.advance(busy)
            assert pool.pool.annex.advance(behind)
            assert not pool.pool.annex.advance(behind)

            assert value_of(await pool.ending(behind)) == 7

    asyncio.run(run())


def test_what_was_lent_and_has_not_started_is_recalled() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            pool.pool.allow_until(clock.now_ns())
            number = lend(pool, "echo", 7)

            assert pool.pool.recall() == [number]
            assert not pool.pool.holds(number)

    asyncio.run(run())


def test_a_lent_child_that_is_killed_ends_its_order_and_leaves_no_place() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            number = lend(pool, "nap", 30)
            running = await pool.running(number)

            os.kill(running.child, signal.SIGKILL)

            ending = await pool.ending(number)
            assert (ending.kind, ending.exact) == ("child_died", True)
            await await_until(lambda: len(pool.pool.nursery.kids) == 1, description="the one place to be left")

    asyncio.run(run())


def test_a_lent_order_has_its_limits_as_others_have() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            number = lend(pool, "nap", 30, timeout_s=0.1, grace_s=0.1)

            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("killed", "timeout")
            assert pool.pool.capacity == 1

    asyncio.run(run())


def test_an_idle_lent_child_is_used_again_and_then_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_KEPT_S", 0.3)

    async def run() -> None:
        async with a_pool("process", 1) as pool:
            first = value_of(await pool.ending(lend(pool, "who")))
            second = value_of(await pool.ending(lend(pool, "who")))

            assert first["pid"] == second["pid"]
            await await_until(lambda: len(pool.pool.nursery.kids) == 1, description="the idle child to be gone")
            assert pool.pool.free == 1

    asyncio.run(run())


def test_a_pool_knows_when_all_that_runs_in_it_waits() -> None:
    async def run() -> None:
        async with a_pool("process", 1) as pool:
            busy = pool.put("nap", 30)
            await pool.running(busy)
            lent = lend(pool, "nap", 30)
            await pool.running(lent)

            annex = pool.pool.annex
            assert annex.all_wait({busy, lent}.__contains__)
            assert not annex.all_wait({busy}.__contains__)

    asyncio.run(run())
