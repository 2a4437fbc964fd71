"""Tasks that write where only qworker writes: that ends their child, in the time of a pool, and never the pool."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from qworker import clock
from qworker.pool import patrol
from support.pools import PoolUnderTest, a_pool, make_order, value_of

RUNS = int(os.environ.get("QWORKER_TEST_RUNS", "1"))


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patrol, "_VANISHED_S", 0.3)


async def ended(pool: PoolUnderTest, name: str, *args: Any) -> Any:
    order = make_order(f"vandals.{name}", *args, timeout_s=5.0, grace_s=0.1)
    pool.pool.allow_until(clock.now_ns() + 60 * 10**9)  # as renewals do, whatever stands there now
    pool.pool.put([order])
    return await pool.ending(order.number)


def in_a_pool(check: Any) -> None:
    """Run it with a pool of one child; nothing may end in the loop's own hands."""

    async def run() -> None:
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        async with a_pool("process", 1, target="vandals:app") as pool:
            await check(pool)
            assert value_of(await ended(pool, "echo", "on")) == "on"
        assert not unhandled

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["frames", "noise", "page", "descriptors"])
def test_whatever_a_task_scribbles_has_an_end_and_the_next_one_runs(kind: str) -> None:
    async def check(pool: PoolUnderTest) -> None:
        for seed in range(12 * RUNS):
            assert await ended(pool, "scribbles", seed, kind), f"seed {seed}"

    in_a_pool(check)


def test_what_no_child_says_ends_it_with_the_blame_on_its_task() -> None:
    faults = {
        "half a frame": "vanished in it",
        "nested": "no frame of ours: kind a list, 1 fields",
        "nan": "no frame of ours: kind 0, 7 fields",
        "negative": "no frame of ours: kind 0, 7 fields",
        "level": "no frame of ours: kind 3, 5 fields",
        "group": "no frame of ours: kind 8, 4 fields",
        "ready": "a word of its start",
        "failed": "a word of its start",
    }

    async def check(pool: PoolUnderTest) -> None:
        for what, fault in faults.items():
            ending = await ended(pool, "says", what)

            assert (ending.kind, ending.exact) == ("child_died", True), what
            assert fault in ending.detail, what

    in_a_pool(check)


def test_a_token_that_was_torn_hurts_nobody_but_those_behind_it() -> None:
    """A number of which a part was taken makes other numbers of those that follow."""

    async def check(pool: PoolUnderTest) -> None:
        orders = [make_order("vandals.tears", timeout_s=5.0, grace_s=0.1), *(
            make_order("vandals.echo", n) for n in range(3)
        )]  # fmt: skip
        pool.pool.put(orders)

        for order in orders:
            assert await pool.ending(order.number)

    in_a_pool(check)
