"""`current.shield` in real slots: force waits for it, for a bounded time, and the ending tells how long."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.pools import a_pool
from support.waiting import await_until

TARGET = "intask_tasks:app"


def lines(path):
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def started(pool, name, path, *args, **options):
    number = pool.put(f"intask_tasks.{name}", str(path), *args, **options)
    await await_until(lambda: lines(path), description="the task is in its shield")
    return number


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_force_waits_until_the_block_is_left_and_leaving_it_ends_the_task(kind, tmp_path):
    async def check():
        async with a_pool(kind, 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "shielded", path, 10.0, 0.6)

            pool.pool.ask(number, "stop", 0.1)
            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("interrupted", "stop")
            assert lines(path) == ["in", "done"]
            assert ending.shielded_s == pytest.approx(ending.took_s - 0.1, abs=0.1)
            assert 0.2 < ending.shielded_s < 2
            assert pool.heard.named("child.killed") == []

    asyncio.run(check())


@pytest.mark.parametrize(("kind", "end"), [("process", "killed"), ("thread", "left_running")])
def test_a_shield_that_runs_out_holds_nothing_up_any_longer(kind, end, tmp_path):
    async def check():
        async with a_pool(kind, 1, target=TARGET) as pool:
            number = await started(pool, "shields_for_ever", tmp_path / "notes")
            asked_at = time.monotonic()

            pool.pool.ask(number, "stop", 0)
            ending = await pool.ending(number)

            assert ending.kind == end
            assert 0 < ending.shielded_s < 2  # 0.3 s, and the moment that it gets to notice
            assert time.monotonic() - asked_at < 3

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_asyncios_cancellation_comes_when_the_shield_is_over(kind, tmp_path):
    async def check():
        async with a_pool(kind, 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "shielded_coroutine", path, 0.4)

            pool.pool.ask(number, "stop", 0.2)
            ending = await pool.ending(number)

            assert lines(path) == ["in", "done", "cancelled"]
            assert (ending.kind, ending.asked) == ("thrown", "stop")
            assert ending.shielded_s is not None
            assert pool.heard.named("survivor.appeared") == []
            assert pool.heard.named("child.killed") == []

    asyncio.run(check())


def test_an_attempt_that_is_fenced_off_is_ended_at_once(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            number = await started(pool, "shielded", tmp_path / "notes", 10.0, 5.0)
            asked_at = time.monotonic()

            pool.pool.forget([number])
            ending = await pool.ending(number)

            assert (ending.kind, ending.asked, ending.shielded_s) == ("killed", "fenced", None)
            assert time.monotonic() - asked_at < 2

    asyncio.run(check())


def test_recycling_waits_for_the_shield_of_a_sibling(tmp_path):
    async def check():
        async with a_pool("thread", 3, target=TARGET, max_survivors=1, recycle_timeout_s=0.1) as pool:
            path = tmp_path / "notes"
            sibling = await started(pool, "shielded", path, 10.0, 2.5, grace_s=0.1)
            deaf = await started(pool, "shields_for_ever", tmp_path / "deaf", grace_s=0.05)
            stuck = await started(pool, "shields_for_ever", tmp_path / "stuck", grace_s=60)
            pool.pool.ask(stuck, "stop", 0)
            assert (await pool.ending(stuck)).kind == "left_running"

            ending = await pool.ending(sibling)

            assert (ending.kind, ending.asked) == ("interrupted", "recycle")
            assert lines(path) == ["in", "done"]
            assert (await pool.ending(deaf)).kind == "host_died"

    asyncio.run(check())
